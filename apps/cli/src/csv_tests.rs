//! The reader must keep every byte of a record, agree with the `csv` crate about its fields, and
//! refuse with the right place what a lenient reader would guess at.

use super::Reader;

type Rows = Vec<(Vec<u8>, Vec<Vec<u8>>)>;

fn read(text: &[u8]) -> Result<Rows, String> {
    let mut reader = Reader::new(text, "f".into());
    let header = reader.header().map_err(|e| e.to_string())?;
    let mut rows = vec![];
    while let Some(row) = reader.row(&header).map_err(|e| e.to_string())? {
        let fields = (0..row.fields.len()).map(|i| row.field(i).into_owned()).collect();
        rows.push((row.raw.to_vec(), fields));
    }
    assert_eq!(reader.bytes(), text.len() as u64);
    Ok(rows)
}

#[test]
fn the_fields_are_those_that_the_csv_crate_finds() {
    // Every text of up to seven of these after a header of two columns, where both accept it.
    let letters = [b'a', b',', b'"', b'\n'];
    let mut compared = 0;
    for number in 0..4usize.pow(7) {
        let row: Vec<u8> = (0..7).map(|place| letters[number >> (2 * place) & 3]).collect();
        let text = [b"x,y\n", &row[..]].concat();
        let Ok(ours) = read(&text) else { continue };
        let mut theirs = csv::Reader::from_reader(&text[..]);
        let theirs: Vec<Vec<Vec<u8>>> = theirs
            .byte_records()
            .map(|r| r.unwrap().iter().map(<[u8]>::to_vec).collect())
            .collect();
        let fields: Vec<_> = ours.iter().map(|(_, fields)| fields.clone()).collect();
        assert_eq!(fields, theirs, "{:?}", String::from_utf8_lossy(&text));
        compared += 1;
    }
    assert!(compared > 500, "only {compared} texts were valid");
}

#[test]
fn records_keep_their_bytes() {
    let text = b"\xef\xbb\xbfk,v\r\n\"a\",\"1\r\n2\"\"3\"\r\nb,\r\n,\"\"";
    let rows = read(text).unwrap();
    let raw: Vec<_> = rows.iter().map(|(raw, _)| &raw[..]).collect();
    assert_eq!(raw, [&b"\"a\",\"1\r\n2\"\"3\""[..], b"b,", b",\"\""]);
    assert_eq!(rows[0].1, [b"a".to_vec(), b"1\r\n2\"3".to_vec()]);
    assert_eq!(rows[2].1, [b"".to_vec(), b"".to_vec()]);

    let mut reader = Reader::new(&text[..], "f".into());
    let header = reader.header().unwrap();
    assert_eq!((&header.raw[..], header.ending), (&b"k,v"[..], "\r\n"));
}

#[test]
fn what_is_wrong_has_a_line_and_a_column() {
    let refused = [
        (&b""[..], "f:1: the file is empty, not a header row"),
        (b"\nk", "f:1: the line is empty, not a header row"),
        (b"k,v\na", "f:2:2: the row has 1 fields, the header has 2: nothing for column \"v\""),
        (
            b"k,v\na,b\n\n",
            "f:3:1: the row has 1 fields, the header has 2: nothing for column \"v\"",
        ),
        (b"k,v\n\"x\ny\",b,c\n", "f:3:6: the row has 3 fields, the header has 2"),
        (b"k\nab\"c\n", "f:2:3: a quote within a field that does not begin with one"),
        (b"k\n\"a\"b\n", "f:2:4: a comma or the end of the line must follow a quote"),
        (b"k\n\"\xc3\xa9\n\"a", "f:3:2: a comma or the end of the line must follow a quote"),
        (b"k\na\nb,\"c\n", "f:3:3: this quote is never closed"),
        (b"k\n\xc3\xa9\xff\n", "f:2:2: this is not UTF-8"),
        (b"k\ra\rb", "f:1:2: a carriage return without a line feed, outside of quotes"),
    ];
    for (text, message) in refused {
        assert_eq!(read(text).unwrap_err(), message);
    }
}

#[test]
fn a_column_is_found_by_its_name() {
    let mut reader = Reader::new(&b"id,\"na\"\"me\",x,x\n"[..], "f".into());
    let header = reader.header().unwrap();
    let column = |name| header.column(name, "f").map_err(|e| e.to_string());
    assert_eq!(column(None), Ok(0));
    assert_eq!(column(Some("na\"me")), Ok(1));
    assert_eq!(column(Some("x")), Err("f:1: two columns are named \"x\"".into()));
    let unknown = "f:1: no column is named \"y\"; the columns are id, na\"me, x, x";
    assert_eq!(column(Some("y")), Err(unknown.into()));
    assert_eq!(header.name(1), "na\"me");
}
