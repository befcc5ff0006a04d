//! Exit codes, and what is where: data on standard output, talk on standard error.

use crate::{Place, command};
use lightning_db::{Database, LightningDbConfig};
use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Read},
    process::Stdio,
};

#[test]
fn wrong_arguments_end_with_2() {
    let place = Place::new();
    place.ok("put db k v");
    let wrong = [
        "",
        "frobnicate",
        "get db",
        "get db k --frobnicate",
        "put db k",
        "delete db",
        "delete db k --range a b",
        "delete db --range b a",
        "delete db k --from a",
        "delete db --from a --range a b",
        "scan db --prefix a --from b",
        "scan db --from b --to a",
        "scan db --limit many",
        "scan db --encoding rot13",
        "get db abc --encoding hex",
        r"put db a\q v",
        "put db k v --max-key-size 65536",
        "put db k v --keyspace ",
    ];
    for words in wrong {
        let err = place.fails(2, words);
        assert!(err.contains("error:") || words.is_empty(), "{words}: {err}");
    }
    assert_eq!(place.ok("scan db"), "k\tv\n");
}

#[test]
fn what_is_not_there_ends_with_3_and_is_not_created() {
    let place = Place::new();
    for words in [
        "get none k",
        "scan none",
        "export none",
        "keyspaces none",
        "stats none",
        "inspect none",
        "check none",
        "compact none",
        "delete none k",
        "keyspaces none --drop k",
    ] {
        let err = place.fails(3, words);
        assert!(err.contains("no database at none"), "{words}: {err}");
        assert!(!place.path("none").exists(), "{words}");
    }
    place.ok("put db k v");
    assert!(place.fails(3, "get db other").contains("no key \"other\" in keyspace \"default\""));
    for words in ["get db k", "scan db", "export db", "delete db k", "export db --csv"] {
        let err = place.fails(3, &format!("{words} --keyspace q"));
        assert!(err.contains("no keyspace \"q\" in db"), "{words}: {err}");
    }
    assert_eq!(place.ok("keyspaces db"), "default\n");
}

#[test]
fn corruption_ends_with_4() {
    let place = Place::new();
    place.ok("put db k v");
    let mut manifests: Vec<_> =
        fs::read_dir(place.path("db")).unwrap().map(|e| e.unwrap()).collect();
    manifests.retain(|entry| entry.file_name().to_string_lossy().starts_with("manifest-0"));
    let mut bytes = fs::read(manifests[0].path()).unwrap();
    bytes[40] ^= 1;
    fs::write(manifests[0].path(), bytes).unwrap();
    let err = place.fails(4, "get db k");
    assert!(err.contains("corruption in db/manifest-0"), "{err}");
}

#[test]
fn a_locked_database_ends_with_5() {
    let place = Place::new();
    let db = Database::create(place.path("db"), LightningDbConfig::default()).unwrap();
    db.put("k", "v").unwrap();
    place.write("t.csv", "id\n1\n");
    for words in ["get db k", "put db k w", "stats db", "import csv t.csv db"] {
        assert!(place.fails(5, words).contains("the database at db is open elsewhere"));
    }
    db.close().unwrap();
    drop(db);
    assert_eq!(place.ok("get db k"), "v\n");
}

#[test]
fn other_failures_end_with_1_and_name_what_and_where() {
    let place = Place::new();
    place.write("file", "");
    assert!(place.fails(1, "scan file").contains("file is not a database"));
    assert!(place.fails(1, "put db k --file none").contains("cannot read none"));
    assert!(place.fails(1, "load db none").contains("cannot open none"));
    let long = "k".repeat(1025);
    assert!(place.fails(1, &format!("put db {long} v")).contains("putting a key of 1025 bytes"));
    place.ok(&format!("put db {long} v --max-key-size 2000"));
    place.ok(&format!("delete db {long}"));
}

#[test]
fn what_is_no_export_is_refused_with_its_line() {
    let place = Place::new();
    let first = "lightning-db export 1 text\n";
    let wrong = [
        ("", "x:1: not an export"),
        ("k\tv\n", "x:1: not an export"),
        ("lightning-db export 1 rot13\n", "x:1: an encoding"),
        ("lightning-db export 2 text\n", "x:1: not an export"),
        ("FIRST", "x:2: the export is cut off"),
        ("FIRSTk\tv\nend 1\n", "x:2: an entry before the first keyspace"),
        ("FIRSTkeyspace a\nk\tv", "x:3: the export is cut off within this line"),
        ("FIRSTkeyspace a\nk\tv\n", "x:4: the export is cut off"),
        ("FIRSTkeyspace a\nk\tv\nend 2\n", "x:4: 2 entries were exported, 1 are here"),
        ("FIRSTkeyspace a\nk\tv\nend 1\nend 1\n", "x:5: something follows the end"),
        ("FIRSTkeyspace a\nk\tv\nnonsense\n", "x:4: neither an entry, a keyspace nor the end"),
        ("FIRSTkeyspace a\nk\t\\y\n", "x:3: value: "),
        ("FIRSTkeyspace \\xff\n", "x:2: the name of a keyspace is not UTF-8"),
        ("FIRSTkeyspace \n", "x:2: invalid keyspace name"),
    ];
    for (text, message) in wrong {
        place.write("x", text.replace("FIRST", first));
        let err = place.fails(1, "load db x");
        assert!(err.contains(message), "{err:?} instead of {message:?}");
    }
}

#[test]
fn help_and_version_succeed() {
    let place = Place::new();
    let help = place.ok("--help");
    assert!(help.contains("Exit codes: 0 done") && !help.contains("demo-writer"), "{help}");
    assert!(place.ok("--version").starts_with("lightning-cli 0."));
    for command in ["put", "get", "delete", "scan", "export", "load", "stats", "inspect", "demo"] {
        assert!(place.ok(&format!("{command} --help")).contains("Usage:"));
    }
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let place = Place::new();
    let rows: String = (0..20_000).map(|i| format!("{i:06},some text that takes room\n")).collect();
    place.write("t.csv", format!("id,v\n{rows}"));
    place.ok("import csv t.csv db");
    for words in ["scan db", "scan db --json", "export db", "export db --csv"] {
        let mut child = command(place.0.path())
            .args(words.split(' '))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        drop(out);
        let mut err = String::new();
        child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
        assert_eq!((child.wait().unwrap().code(), err.as_str()), (Some(0), ""), "{words}");
    }
}

#[test]
fn output_that_cannot_be_written_is_a_failure() {
    let place = Place::new();
    place.ok("put db k v");
    let full = File::options().write(true).open("/dev/full").unwrap();
    let output = command(place.0.path()).args(["scan", "db"]).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot write to standard output"));
}

#[test]
fn progress_is_for_terminals_only() {
    let place = Place::new();
    place.write("t.csv", "id,v\n1,a\n");
    let ran = place.run(["import", "csv", "t.csv", "db"]);
    assert!(
        ran.err.starts_with("imported 1 rows (9 bytes) from t.csv into keyspace default of db")
    );
    assert!(!ran.err.contains(['\r', '\u{1b}']) && ran.err.lines().count() == 1, "{}", ran.err);
}
