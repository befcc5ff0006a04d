//! Collects the names of the sites in the engine and in the simulated disk: scheduling points,
//! buggified branches and marks. So a schedule that names another site is refused, and the marks that
//! no run has reached are known.

use std::{
    collections::BTreeSet,
    env, fs, io,
    path::{Path, PathBuf},
};

/// The calls that name a site in their first argument.
const POINTS: [&str; 3] = ["point(", "point_at(", "buggify("];
const MARKS: [&str; 1] = ["sometimes("];

fn main() -> io::Result<()> {
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    let (mut points, mut marks) = (BTreeSet::new(), vec![]);
    for folder in [here.join("../engine/src"), here.join("src")] {
        println!("cargo::rerun-if-changed={}", folder.display());
        for file in sources(&folder)? {
            let text = fs::read_to_string(&file)?;
            // What tests and examples name is no site.
            let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
            let code: Vec<&str> = text.lines().filter(|line| !is_doc(line)).collect();
            let code = code.join("\n");
            points.extend(names(&code, &POINTS));
            marks.extend(names(&code, &MARKS));
        }
    }
    marks.sort();
    let list = |what: &str, names: &[String]| {
        format!("pub(super) const {what}: [&str; {}] = {names:?};\n", names.len())
    };
    let points: Vec<String> = points.into_iter().collect();
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    fs::write(out.join("sites.rs"), list("POINTS", &points) + &list("MARKS", &marks))
}

fn is_doc(line: &str) -> bool {
    let line = line.trim_start();
    line.starts_with("///") || line.starts_with("//!")
}

fn sources(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = vec![];
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(sources(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    Ok(found)
}

/// The text literals that follow one of the calls.
fn names(text: &str, calls: &[&str]) -> Vec<String> {
    let mut found = vec![];
    for call in calls {
        for (at, _) in text.match_indices(call) {
            let before = text[..at].chars().next_back();
            let argument = text[at + call.len()..].trim_start();
            let Some(rest) = argument.strip_prefix('"') else {
                continue;
            };
            if before.is_none_or(|c| !c.is_alphanumeric() && c != '_')
                && let Some((name, _)) = rest.split_once('"')
            {
                found.push(name.to_string());
            }
        }
    }
    found
}
