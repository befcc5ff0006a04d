//! For a build without `--cfg madsim` that fails with a thousand errors, or works and simulates nothing.

use std::{path::Path, process::Command};

/// What the compiler says of the crate. It finds none of the dependencies either way.
fn told(flags: &[&str]) -> String {
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into());
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs");
    let out = std::env::temp_dir().join(format!("lightning-sim-cfg-{}", std::process::id()));
    let output = Command::new(rustc)
        .args(["--edition", "2024", "--crate-type", "lib", "--emit", "metadata", "-o"])
        .arg(out)
        .args(flags)
        .arg(source)
        .output()
        .expect("a compiler");
    assert!(!output.status.success());
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_build_without_the_cfg_says_what_it_needs() {
    let told_without = told(&[]);
    let wanted = "lightning_sim needs `--cfg madsim` in RUSTFLAGS";
    assert!(told_without.contains(wanted), "{told_without}");
    assert!(!told(&["--cfg", "madsim"]).contains(wanted));
}
