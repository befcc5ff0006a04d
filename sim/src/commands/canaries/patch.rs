//! Canaries as they stand in `sim/canaries`: a patch of the engine behind a header.

use super::{Class, PATCHES, told};
use std::{collections::BTreeMap, fs, path::Path};

/// How a bug may show beside a broken promise with a number.
const SYMPTOMS: [&str; 15] = [
    "panic",
    "hang",
    "spins",
    "read",
    "signal",
    "endless",
    "closed",
    "locked",
    "transaction",
    "first-committer",
    "atomic",
    "serializable",
    "for-update",
    "isolation",
    "feed",
];

/// A planted bug, as the header of its patch describes it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Canary {
    pub(super) name: String,
    /// The bug in one sentence.
    pub(super) bug: String,
    pub(super) class: Class,
    /// What shows the bug too, and is therefore off in all its runs.
    pub(super) apart: Vec<Class>,
    /// Any of these may be the one that is reported.
    pub(super) invariants: Vec<String>,
    /// Written without knowing the checkers.
    pub(super) blind: bool,
    /// Why no campaign has found it, if so. It counts as not found all the same.
    pub(super) elusive: String,
    /// What else is worth saying, such as why it is hard to find.
    pub(super) note: String,
    pub(super) patch: String,
}

impl Canary {
    fn parse(name: &str, patch: &str) -> Result<Canary, String> {
        let refuse = |why: String| format!("{PATCHES}/{name}.patch: {why}");
        let mut fields = BTreeMap::new();
        for line in patch.lines().take_while(|line| !line.starts_with("diff ")) {
            if line.trim().is_empty() {
                continue;
            }
            let (key, value) = line
                .split_once(": ")
                .ok_or_else(|| refuse(format!("{line:?} is no line of a header, as `bug: ..`")))?;
            if !["bug", "class", "apart", "invariant", "blind", "elusive", "note"].contains(&key) {
                return Err(refuse(format!("unknown header {key:?}")));
            }
            if fields.insert(key, value.trim()).is_some() {
                return Err(refuse(format!("two headers {key:?}")));
            }
        }
        let field = |key: &str| {
            let found = fields.get(key).copied().filter(|value| !value.is_empty());
            found.ok_or_else(|| refuse(format!("no header {key:?}")))
        };
        if !patch.contains("\ndiff --git ") {
            return Err(refuse("no diff behind the header".into()));
        }
        let invariants: Vec<String> = field("invariant")?.split(", ").map(str::to_owned).collect();
        if let Some(bad) = invariants.iter().find(|invariant| !is_known_symptom(invariant)) {
            return Err(refuse(format!("{bad:?} is none of I-1 to I-15, nor one of {SYMPTOMS:?}")));
        }
        let apart = fields.get("apart").copied().unwrap_or_default();
        let apart = apart.split(", ").filter(|class| !class.is_empty());
        Ok(Canary {
            name: name.into(),
            apart: apart.map(Class::to_switch_off).collect::<Result<_, _>>().map_err(refuse)?,
            bug: field("bug")?.into(),
            class: Class::parse(field("class")?).map_err(refuse)?,
            invariants,
            blind: match field("blind")? {
                "yes" => true,
                "no" => false,
                other => return Err(refuse(format!("blind is yes or no, not {other:?}"))),
            },
            elusive: fields.get("elusive").copied().unwrap_or_default().into(),
            note: fields.get("note").copied().unwrap_or_default().into(),
            patch: patch.into(),
        })
    }
}

fn is_known_symptom(text: &str) -> bool {
    let number = text.strip_prefix("I-").and_then(|number| number.parse().ok());
    number.is_some_and(|number: u32| (1..=15).contains(&number)) || SYMPTOMS.contains(&text)
}

/// The canaries of the workspace with these names, or all, by name.
pub(super) fn read_canaries(root: &Path, names: &[String]) -> Result<Vec<Canary>, String> {
    let dir = root.join(PATCHES);
    let entries = fs::read_dir(&dir).map_err(|error| told("cannot list", &dir, error))?;
    let mut found = BTreeMap::new();
    for entry in entries {
        let path = entry.map_err(|error| told("cannot list", &dir, error))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if let Some(name) = name.strip_suffix(".patch") {
            let patch = fs::read_to_string(&path);
            let patch = patch.map_err(|error| told("cannot read", &path, error))?;
            found.insert(name.to_owned(), Canary::parse(name, &patch)?);
        }
    }
    if let Some(unknown) = names.iter().find(|name| !found.contains_key(*name)) {
        return Err(format!("there is no canary {unknown:?} in {PATCHES}"));
    }
    found.retain(|name, _| names.is_empty() || names.contains(name));
    Ok(found.into_values().collect())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use lightning_faults::FaultClass;

    pub(in super::super) const PATCH: &str = "\
bug: A line is missing.
class: power-loss
invariant: I-1, I-15
blind: yes

diff --git a/story.txt b/story.txt
--- a/story.txt
+++ b/story.txt
@@ -1,3 +1,2 @@
 once
-upon
 a
";

    #[test]
    fn a_header_says_what_the_bug_is() {
        let canary = Canary::parse("story", PATCH).expect("a canary");
        assert_eq!(canary.bug, "A line is missing.");
        assert_eq!(canary.class, Class::PowerLoss);
        assert_eq!(canary.invariants, ["I-1", "I-15"]);
        assert!(canary.blind && canary.note.is_empty());
        let noted = PATCH
            .replace("blind: yes", "blind: no\nnote: hard\nelusive: rare\napart: kill, preemption");
        let canary = Canary::parse("story", &noted).expect("a canary");
        assert!(!canary.blind && canary.note == "hard" && canary.elusive == "rare");
        assert_eq!(canary.apart, [Class::Kill, Class::Preemption]);
    }

    #[test]
    fn a_bad_header_is_refused_by_name() {
        for (from, to, why) in [
            ("bug: A line is missing.\n", "", "no header \"bug\""),
            ("power-loss", "bad-luck", "no class \"bad-luck\""),
            ("I-1, I-15", "I-16", "\"I-16\" is none of I-1 to I-15"),
            ("blind: yes", "blind: maybe", "blind is yes or no"),
            ("blind: yes", "blind: yes\napart: none", "\"none\" cannot be switched off"),
            ("blind: yes", "blind: yes\nblind: yes", "two headers \"blind\""),
            ("blind: yes", "blnd: yes", "unknown header \"blnd\""),
            ("blind: yes", "blind: yes\nwords", "\"words\" is no line of a header"),
            ("\ndiff --git a/story.txt b/story.txt", "", "is no line of a header"),
        ] {
            assert!(PATCH.contains(from), "{from:?}");
            let refused = Canary::parse("story", &PATCH.replacen(from, to, 1));
            let refused = refused.expect_err(why);
            assert!(refused.contains(why) && refused.contains("story.patch"), "{refused}");
        }
    }

    #[test]
    fn the_canaries_of_the_workspace_are_well_formed() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let canaries = read_canaries(&root, &[]).expect("well-formed headers");
        assert!(canaries.len() >= 40, "{} canaries", canaries.len());
        assert!(canaries.iter().filter(|c| c.blind).count() * 3 >= canaries.len());
        let named = |i: u32| canaries.iter().any(|c| c.invariants.contains(&format!("I-{i}")));
        let unnamed: Vec<u32> = (1..=15).filter(|i| !named(*i)).collect();
        assert!(unnamed.is_empty(), "no canary breaks I-{unnamed:?}");
        for class in FaultClass::ALL {
            assert!(canaries.iter().any(|c| c.class == Class::Fault(class)), "{class:?}");
        }
    }
}
