//! The demo must pass, leave nothing behind unless asked to, and notice what is wrong.

use crate::{Place, command};
use std::fs;

#[test]
fn the_demo_passes_and_cleans_up() {
    let place = Place::new();
    let output = command(place.0.path())
        .args(["demo", "--rounds", "2"])
        .env("TMPDIR", place.0.path())
        .output()
        .unwrap();
    let out = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(out.contains("28,298 rows") && out.contains("crash 2: "), "{out}");
    assert!(out.ends_with("All of it held.\n"), "{out}");
    assert_eq!(fs::read_dir(place.0.path()).unwrap().count(), 0);
}

#[test]
fn the_demo_keeps_a_database_that_it_was_given_a_place_for() {
    let place = Place::new();
    place.write("t.csv", "id,v\nb,\"2\"\na,1\n");
    let out = place.ok("demo --rounds 1 --dir db --csv t.csv");
    assert!(out.contains("The database stays: "), "{out}");
    assert_eq!(place.ok("scan db --keyspace airports"), "a\ta,1\nb\tb,\"2\"\n");
    assert_eq!(place.ok("keyspaces db"), "default\nairports\ncrash\n");
    assert!(place.fails(1, "demo --dir db --csv t.csv").contains("already exists"));
    place.write("u.csv", "id,v\na,1\na,2\n");
    assert!(place.fails(1, "demo --csv u.csv").contains("u.csv:3: its first field"));
    assert!(place.fails(1, "demo --csv none.csv").contains("no table at none.csv"));
}
