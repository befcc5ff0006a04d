#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lightning_db::fuzzing::blob(bytes));
