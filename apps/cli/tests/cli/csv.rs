//! A table in, the same table out, and nothing of a table that is wrong.

use crate::Place;

#[test]
fn a_table_comes_back_byte_for_byte() {
    let place = Place::new();
    let table =
        "id,name\r\n1,\"Ada, Countess\"\r\n2,\"two\r\nlines, \"\"quoted\"\"\"\r\n3,\u{e9}\r\n";
    place.write("t.csv", table);
    assert_eq!(place.ok("import csv t.csv db"), "");
    assert_eq!(place.ok("get db 1"), "1,\"Ada, Countess\"\n");
    assert_eq!(place.ok("export db --csv"), table);
    // Through an export, too: the header row is data.
    place.write("dump", place.ok("export db"));
    place.ok("load copy dump");
    assert_eq!(place.ok("export copy --csv"), table);
}

#[test]
fn any_column_can_be_the_key() {
    let place = Place::new();
    place.write("t.csv", "\u{feff}id,\"first \"\"name\"\"\"\n1,b\n2,a");
    let ran =
        place.run(["import", "csv", "t.csv", "db", "--keyspace", "t", "--key", "first \"name\""]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_eq!(place.ok("scan db --keyspace t"), "a\t2,a\nb\t1,b\n");
    let table = "id,\"first \"\"name\"\"\"\n2,a\n1,b\n";
    assert_eq!(place.ok("export db --csv --keyspace t"), table);
}

#[test]
fn a_wrong_table_is_refused_and_nothing_is_written() {
    let place = Place::new();
    let long = "k".repeat(1025);
    let wrong: [(&[u8], &str); 8] = [
        (b"", "t.csv:1: the file is empty"),
        (b"id,v\n1,2\n3\n", "t.csv:3:2: the row has 1 fields, the header has 2"),
        (b"id,v\n1,2,3\n", "t.csv:2:5: the row has 3 fields, the header has 2"),
        (b"id,v\n1,a\xffb\n", "t.csv:2:4: this is not UTF-8"),
        (b"id,v\n1,\"a\n2,b\n", "t.csv:2:3: this quote is never closed"),
        (b"id,v\n1,a\n2,b\n1,c\n", "t.csv:4: key \"1\" is also on line 2"),
        (b"other,v\n1,a\n", "t.csv:1: no column is named \"id\"; the columns are other, v"),
        (&[b"id\n", long.as_bytes()].concat(), "t.csv:2: column \"id\": a key of 1025 bytes"),
    ];
    for (bytes, message) in wrong {
        place.write("t.csv", bytes);
        let err = place.fails(1, "import csv t.csv db --key id");
        assert!(err.contains(message), "{err:?} instead of {message:?}");
        assert!(!place.path("db").exists(), "{message}");
    }
    assert!(place.fails(1, "import csv none.csv db").contains("cannot open none.csv"));
    assert!(place.fails(1, "import csv . db").contains("not a regular file"));
    assert!(place.fails(2, "import csv t.csv db --keyspace .csv").contains("header rows"));
}

#[test]
fn what_is_there_is_replaced_only_when_asked() {
    let place = Place::new();
    place.write("t.csv", "id,v\n1,a\n2,b\n");
    place.ok("import csv t.csv db");
    place.write("u.csv", "id,v\n0,z\n2,c\n1,x\n2,d\n");
    assert!(place.fails(1, "import csv u.csv db").contains("u.csv:5: key \"2\" is also on line 3"));
    place.write("v.csv", "id,v\n0,z\n2,c\n1,x\n");
    let err = place.fails(1, "import csv v.csv db");
    assert!(err.contains("v.csv:3: key \"2\" is in keyspace \"default\" already"), "{err}");
    assert_eq!(place.ok("export db --csv"), "id,v\n1,a\n2,b\n");
    let done = place.ok("import csv u.csv db --replace --json");
    assert!(done.contains("\"rows\":4"), "{done}");
    assert_eq!(place.ok("export db --csv"), "id,v\n0,z\n1,x\n2,d\n");
    place.write("w.csv", "id,v,w\n9,a,b\n");
    let err = place.fails(1, "import csv w.csv db --replace");
    assert!(err.contains("rows under another header row: id,v\n"), "{err}");
    // What was not imported would come out as a row.
    place.ok("put plain 1 no,row");
    let err = place.fails(1, "import csv t.csv plain --replace");
    assert!(
        err.contains("t.csv:1: keyspace \"default\" holds entries without a header row"),
        "{err}"
    );
    assert_eq!(place.ok("scan plain"), "1\tno,row\n");
}

#[test]
fn a_header_row_goes_with_its_keyspace() {
    let place = Place::new();
    place.write("t.csv", "id,v\n1,a\n");
    place.ok("import csv t.csv db --keyspace t");
    place.ok("keyspaces db --drop t");
    place.ok("put db k v --keyspace t");
    assert!(place.fails(3, "export db --csv --keyspace t").contains("not imported from CSV"));
}
