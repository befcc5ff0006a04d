//! For the failure that ends most engines' structure: a module that names one above it.

use std::{collections::BTreeSet, fs, path::Path};

/// The ladder, lowest rung first. A module names only modules on lower rungs.
const RUNGS: [&[&str]; 14] = [
    &["types", "sync", "lent"],
    &["error"],
    &["config"],
    &["codec", "metrics"],
    &["env"],
    &["format", "iter", "cache"],
    &["blob"],
    &["wal", "memtable", "pager"],
    &["sstable", "btree"],
    &["version"],
    &["upkeep", "transaction"],
    &["db"],
    &["handles"],
    &["database", "fuzzing"],
];

fn rung(module: &str) -> Option<usize> {
    RUNGS.iter().position(|rung| rung.contains(&module))
}

fn sources(dir: &Path, out: &mut Vec<std::path::PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => sources(&path, out),
            false if path.extension().is_some_and(|e| e == "rs") => out.push(path),
            false => {}
        }
    }
}

/// The modules that a source names: `crate::name`, also within `use crate::{..}`.
fn named(text: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    // Documentation may point upwards; code may not.
    let code: String = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .flat_map(|line| [line, "\n"])
        .collect();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            None => names.extend(identifier(rest)),
            Some(group) => {
                let mut depth = 0;
                let mut start = true;
                for (i, c) in group.char_indices() {
                    if start && depth == 0 && (c.is_alphabetic() || c == '_') {
                        names.extend(identifier(&group[i..]));
                        start = false;
                    }
                    match c {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => start = true,
                        _ => {}
                    }
                }
            }
        }
    }
    names
}

fn identifier(text: &str) -> Option<String> {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    (end > 0).then(|| text[..end].to_string())
}

#[test]
fn modules_name_only_lower_rungs() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("../engine/src");
    let mut files = vec![];
    sources(&src, &mut files);
    assert!(files.len() > 20, "where are the sources? {}", src.display());
    let mut wrong = vec![];
    for file in files {
        let relative = file.strip_prefix(&src).unwrap();
        let module = relative.components().next().unwrap().as_os_str().to_string_lossy();
        let module = module.trim_end_matches(".rs").to_string();
        if module == "lib" {
            continue;
        }
        let Some(own) = rung(&module) else {
            wrong.push(format!("{}: {module} stands on no rung of the ladder", relative.display()));
            continue;
        };
        for name in named(&fs::read_to_string(&file).unwrap()) {
            let lower = rung(&name).is_some_and(|other| other < own);
            if name != module && !lower {
                wrong.push(format!("{}: {module} names {name}", relative.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "a module names only modules on lower rungs:\n{}", wrong.join("\n"));
}

#[test]
fn the_check_sees_what_it_must() {
    let text =
        "use crate::{db::{Db, wal}, env::Env};\nfn f() { crate::handles::g() }\n// crate::no";
    let expected = ["db", "env", "handles"].map(String::from);
    assert_eq!(named(text), BTreeSet::from(expected));
}
