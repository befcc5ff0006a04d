//! Data in, data out: any bytes, in any encoding, through any command.

use crate::Place;
use lightning_db::{Database, LightningDbConfig};
use serde_json::{Value, json};

fn json_lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

#[test]
fn put_get_delete() {
    let place = Place::new();
    assert_eq!(place.ok("put db key value"), "");
    assert_eq!(place.ok("get db key"), "value\n");
    assert_eq!(place.ok("get db key --json"), "{\"key\":\"key\",\"value\":\"value\"}\n");
    assert_eq!(place.ok("put db key --sync other"), "");
    assert_eq!(place.ok("get db key --raw"), "other");
    place.ok("delete db key");
    place.ok("delete db key");
    place.fails(3, "get db key");
}

#[test]
fn an_empty_key_and_an_empty_value_are_data() {
    let place = Place::new();
    assert_eq!(place.run(["put", "db", "", ""]).code, 0);
    let got = place.run(["get", "db", ""]);
    assert_eq!((got.code, got.text()), (0, "\n".into()));
    assert_eq!(place.ok("scan db"), "\t\n");
    assert_eq!(place.ok("export db"), "lightning-db export 1 text\nkeyspace default\n\t\nend 1\n");
}

#[test]
fn a_value_comes_from_a_file_or_a_pipe_as_it_stands() {
    let place = Place::new();
    let bytes: Vec<u8> = (0..=255).cycle().take(3 << 20).collect();
    place.write("value", &bytes);
    place.ok("put db from-file --file value");
    assert_eq!(place.run(["get", "db", "from-file", "--raw"]).out, bytes);
    let stats = &json_lines(&place.ok("stats db --json"))[0];
    assert_eq!((&stats["blobs"], &stats["blob_bytes"]), (&json!(1), &json!(3 << 20)));
    let put = place.run_with(["put", "db", "from-pipe", "--file", "-"], b"a\\\n");
    assert_eq!((put.code, put.err.as_str()), (0, ""));
    assert_eq!(place.ok("get db from-pipe"), "a\\\\\\n\n");
    assert_eq!(place.ok("get db 66726f6d2d70697065 --encoding hex"), "615c0a\n");
}

#[test]
fn arguments_are_read_as_output_is_written() {
    let place = Place::new();
    place.ok(r"put db \xff\x00 a\tb\\");
    assert_eq!(place.ok("scan db"), "\\xff\\x00\ta\\tb\\\\\n");
    assert_eq!(place.ok("scan db --encoding hex"), "ff00\t6109625c\n");
    assert_eq!(place.ok("scan db --encoding base64"), "/wA=\tYQliXA==\n");
    assert_eq!(place.ok("get db FF00 --encoding hex"), "6109625c\n");
    assert_eq!(place.ok("get db /wA= --encoding base64"), "YQliXA==\n");
    let entries = json_lines(&place.ok("scan db --json"));
    assert_eq!(entries, [json!({ "key": { "hex": "ff00" }, "value": "a\tb\\" })]);
    let entries = json_lines(&place.ok("scan db --json --encoding hex"));
    assert_eq!(entries, [json!({ "key": "ff00", "value": "6109625c" })]);
}

#[test]
fn scans_are_bounded_and_go_both_ways() {
    let place = Place::new();
    for key in ["a", "b1", "b2", "c"] {
        place.ok(&format!("put db {key} -"));
    }
    let keys = |words: &str| -> String {
        place.ok(words).lines().map(|line| line.trim_end_matches("\t-").to_owned() + " ").collect()
    };
    assert_eq!(keys("scan db"), "a b1 b2 c ");
    assert_eq!(keys("scan db --reverse"), "c b2 b1 a ");
    assert_eq!(keys("scan db --prefix b"), "b1 b2 ");
    assert_eq!(keys("scan db --prefix b --reverse --limit 1"), "b2 ");
    assert_eq!(keys("scan db --from b1 --to c"), "b1 b2 ");
    assert_eq!(keys("scan db --from b2"), "b2 c ");
    assert_eq!(keys("scan db --to b2 --reverse"), "b1 a ");
    assert_eq!(keys("scan db --limit 0"), "");
    place.ok("delete db --range b1 c");
    assert_eq!(keys("scan db"), "a c ");
    place.ok("delete db --from b");
    assert_eq!(keys("scan db"), "a ");
}

#[test]
fn keyspaces_are_listed_counted_and_dropped() {
    let place = Place::new();
    place.ok("put db k v");
    place.ok("put db k v --keyspace users");
    place.ok("put db k2 v --keyspace users");
    assert_eq!(place.ok("keyspaces db"), "default\nusers\n");
    assert_eq!(place.ok("keyspaces db --count"), "default\t1\nusers\t2\n");
    let listed = json_lines(&place.ok("keyspaces db --count --json"));
    assert_eq!(listed[1], json!({ "name": "users", "entries": 2 }));
    assert_eq!(place.ok("get db k2 --keyspace users"), "v\n");
    place.ok("keyspaces db --drop users");
    assert_eq!(place.ok("keyspaces db"), "default\n");
    place.fails(3, "keyspaces db --drop users");
    assert!(place.fails(1, "keyspaces db --drop default").contains("cannot be dropped"));
}

#[test]
fn any_bytes_survive_export_and_load() {
    let place = Place::new();
    {
        let config = LightningDbConfig { max_key_size: 65_535, ..Default::default() };
        let db = Database::create(place.path("db"), config).unwrap();
        let odd = db.keyspace("odd\tname\n\u{e9}").unwrap();
        db.keyspace("empty").unwrap();
        for byte in 0..=255u8 {
            db.put([byte], [byte, b'\n', byte]).unwrap();
            odd.put([byte; 3], []).unwrap();
        }
        db.put("", "").unwrap();
        db.put(vec![0xff; 65_535], vec![7; 1 << 20]).unwrap();
        db.close().unwrap();
    }
    let plain = place.ok("export db");
    assert!(plain.ends_with("\nend 514\n") && plain.contains("\nkeyspace odd\\tname\\n\u{e9}\n"));
    for encoding in ["text", "hex", "base64"] {
        let export = place.run(["export", "db", "--encoding", encoding]);
        assert_eq!((export.code, export.err.as_str()), (0, ""));
        let copy = format!("copy-{encoding}");
        let loaded = place.run_with(["load", &copy, "-"], &export.out);
        assert_eq!(loaded.code, 0, "{}", loaded.err);
        assert!(plain == place.ok(&format!("export {copy}")), "{encoding}");
    }
}

#[test]
fn a_keyspace_is_loaded_under_another_name() {
    let place = Place::new();
    place.ok("put db k v --keyspace users");
    place.write("users", place.ok("export db --keyspace users"));
    assert_eq!(place.ok("load db users --keyspace people"), "");
    assert_eq!(place.ok("get db k --keyspace people"), "v\n");
    let loaded = json_lines(&place.ok("load db users --json"));
    assert_eq!(loaded[0]["entries"], 1);
    place.write("all", place.ok("export db"));
    assert!(place.fails(1, "load db all --keyspace x").contains("all:3: a second keyspace"));
}

#[test]
fn what_is_in_front_of_a_bad_line_is_loaded() {
    let place = Place::new();
    place.ok("put db a 1");
    place.ok("put db b 2");
    place.write("bad", place.ok("export db").replace("b\t2", "b"));
    let told = place.fails(1, "load into bad");
    assert!(told.contains("; 1 entries before it were loaded"), "{told}");
    assert_eq!(place.ok("get into a"), "1\n");
}

#[test]
fn numbers_about_a_database() {
    let place = Place::new();
    place.ok("put db key value");
    let text = place.ok("stats db");
    assert!(text.contains("\nwal_file_bytes ") && text.contains("\nkeyspace default\n"), "{text}");
    let stats = &json_lines(&place.ok("stats db --json"))[0];
    assert_eq!(stats["visible_seq"], 1);
    assert_eq!(stats["keyspaces"][0]["name"], "default");
    // Nothing was committed since it was opened, and what is in the log only takes room.
    assert!(text.contains("\nwrite_amplification    none\n"), "{text}");
    assert!(text.contains("\noldest_snapshot_age    none\n"), "{text}");
    assert_eq!(
        (&stats["write_amplification"], &stats["open_transactions"]),
        (&json!(null), &json!(0))
    );
    assert!(stats["space_amplification"].as_f64() > Some(1.0), "{stats}");
    has_every_number(&place, &text, stats);

    let shown = place.ok("inspect db");
    assert!(shown.contains("  default\n") && shown.contains("  manifest-0"), "{shown}");
    let inspected = &json_lines(&place.ok("inspect db --json"))[0];
    assert_eq!(inspected["commits_only_in_log"], 1);
    let files = inspected["files"].as_array().unwrap();
    for kind in ["log", "manifest"] {
        assert!(files.iter().any(|f| f["kind"] == kind && f["bytes"].as_u64() > Some(0)));
    }
    assert!(files.iter().all(|file| file["kind"] != "other"), "{files:?}");
}

/// What `Database::stats` has, as it is written for debugging, is in both outputs.
fn has_every_number(place: &Place, text: &str, stats: &Value) {
    let db = Database::open(place.path("db"), LightningDbConfig::default()).expect("a database");
    let mut all = db.stats().expect("numbers");
    let names = |debug: String| -> Vec<String> {
        let inside = debug.split_once('{').expect("a struct").1.to_owned();
        let words = inside.split([' ', '{', ',']).map(str::to_owned);
        words.filter_map(|word| word.strip_suffix(':').map(str::to_owned)).collect()
    };
    let of_keyspace = names(format!("{:?}", all.keyspaces[0]));
    assert!(of_keyspace.len() > 6, "{of_keyspace:?}");
    for name in of_keyspace {
        assert!(stats["keyspaces"][0].get(&name).is_some(), "{name} is not in {stats}");
        assert!(name == "name" || text.contains(&format!("\n  {name} ")), "{name}: {text}");
    }
    all.keyspaces.clear();
    let of_database = names(format!("{:?}", all));
    assert!(of_database.len() > 30, "{of_database:?}");
    for name in of_database.iter().filter(|name| *name != "keyspaces") {
        assert!(stats.get(name).is_some(), "{name} is not in {stats}");
        assert!(format!("\n{text}").contains(&format!("\n{name} ")), "{name}: {text}");
    }
    db.close().expect("closed");
}

#[test]
fn a_database_is_compacted_and_checked() {
    let place = Place::new();
    place.run_with(["load", "db", "-"], &numbers(3000));
    let report = place.ok("check db --deep");
    assert!(report.ends_with("\nread: 3,000 entries, in all ways the same\n"), "{report}");
    assert_eq!(place.ok("compact db"), "");
    let report = &json_lines(&place.ok("check db --deep --json"))[0];
    assert_eq!((&report["tables"], &report["entries"]), (&json!(0), &json!(3000)));
    let tree = &report["trees"][0];
    assert_eq!(
        (&tree["entries"], &tree["depth"], &report["read"]),
        (&json!(3000), &json!(3), &json!(3000))
    );
    let inspected = &json_lines(&place.ok("inspect db --json"))[0];
    assert_eq!(inspected["keyspaces"][0]["tree_depth"], 3);
    assert!(place.ok("inspect db --trees").contains("\ntree of default: depth 3, "));
    assert_eq!(json_lines(&place.ok("inspect db --trees --json"))[0]["trees"][0], *tree);
    let file = inspected["files"].as_array().unwrap().iter().find(|file| file["kind"] == "trees");
    let path = place.path("db").join(file.unwrap()["name"].as_str().unwrap());
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[3 * 4096 + 100] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let ran = place.run(["inspect", "db", "--trees"]);
    assert!(ran.code == 4 && ran.text().contains("\nTREES (0)"), "{}", ran.text());
    let ran = place.run(["check", "db", "--deep"]);
    assert_eq!(ran.code, 4, "{}", ran.text());
    let text = ran.text();
    assert!(
        text.contains(".tree at page 3 (offset 12288): expected the node's checksum"),
        "{text}"
    );
    assert!(ran.err.contains("error: db: 1 faults"), "{}", ran.err);
    assert!(!text.contains("\nread: "), "{text}");
    // Another one, in another leaf of the same tree.
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[9 * 4096 + 100] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let ran = place.run(["check", "db", "--json"]);
    assert_eq!((ran.code, ran.err.as_str()), (4, "error: db: 2 faults\n"));
    let report = &json_lines(&ran.text())[0];
    let faults = report["faults"].as_array().unwrap();
    let places: Vec<_> = faults.iter().map(|fault| (&fault["page"], &fault["offset"])).collect();
    assert_eq!(places, [(&json!(3), &json!(3 * 4096)), (&json!(9), &json!(9 * 4096))]);
    for fault in faults {
        assert!(path.ends_with(fault["file"].as_str().unwrap()), "{fault}");
        assert_eq!(fault["expected"], "the node's checksum");
    }
    assert_eq!((&report["trees"], &report["read"]), (&json!([]), &json!(null)));
}

/// An export of so many entries.
fn numbers(entries: u64) -> Vec<u8> {
    let lines = (0..entries).map(|n| format!("{n:08}\tthe value of the number {n}\n"));
    let lines: String = lines.collect();
    format!("lightning-db export 1 text\nkeyspace default\n{lines}end {entries}\n").into_bytes()
}
