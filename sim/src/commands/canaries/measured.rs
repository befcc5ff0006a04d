//! What was measured of a canary, and the file that it is kept in: a line with the number of the
//! program and the patch, one for each campaign, and what is left of the schedule.

use super::{Class, campaign::Campaign, told};
use std::{fs, path::Path};

/// What is known of one canary.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Measured {
    /// With everything that can go wrong.
    pub(super) with: Option<Campaign>,
    /// With its class switched off.
    pub(super) without: Option<Campaign>,
    /// What is left of the schedule that found it once it is made small, in words.
    pub(super) shrunk: Option<String>,
}

impl Measured {
    /// What is on record for a canary whose patch, and the program it changes, are still those of
    /// `key`.
    pub(super) fn load(file: &Path, key: u64) -> Measured {
        let text = fs::read_to_string(file).unwrap_or_default();
        let mut lines = text.lines();
        if lines.next() != Some(format!("{key:016x}").as_str()) {
            return Measured::default();
        }
        let mut campaign = || lines.next().and_then(Campaign::of_line);
        let (with, without) = (campaign(), campaign());
        Measured { with, without, shrunk: lines.next().map(str::to_owned) }
    }

    pub(super) fn save(&self, file: &Path, key: u64) -> Result<(), String> {
        let line = |campaign: &Option<Campaign>| match campaign {
            Some(campaign) => campaign.to_line(),
            None => "none".into(),
        };
        let shrunk = self.shrunk.iter().map(|words| format!("{words}\n")).collect::<String>();
        let (with, without) = (line(&self.with), line(&self.without));
        let text = format!("{key:016x}\n{with}\n{without}\n{shrunk}");
        fs::write(file, text).map_err(|error| told("cannot write", file, error))
    }

    /// Whether the canary was found, or looked for long enough.
    pub(super) fn is_done(&self, seeds: u64) -> bool {
        self.with.as_ref().is_some_and(|c| c.found.is_some() || c.seeds >= seeds)
    }

    /// Whether it is known that the canary survives without its class, or it names none.
    pub(super) fn is_done_without(&self, class: Class, seeds: u64) -> bool {
        Class::to_switch_off(class.name()).is_err()
            || self.without.as_ref().is_some_and(|c| c.found.is_some() || c.seeds >= seeds)
            || seeds == 0
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::TempDir, *};

    #[test]
    fn results_are_kept_for_the_same_program_only() {
        let dir = TempDir::new("results");
        let file = dir.0.join("story");
        let with = Some(Campaign { seeds: 3000, seconds: 1.5, found: None });
        let measured = Measured { with, shrunk: Some("two operations".into()), without: None };
        measured.save(&file, 7).expect("saved");
        assert_eq!(Measured::load(&file, 7), measured);
        assert_eq!(Measured::load(&file, 8), Measured::default());
        assert!(measured.is_done(3000) && !measured.is_done(3001));
        assert!(!measured.is_done_without(Class::Kill, 2000), "nobody looked for it without");
        let found = Some(Campaign { seeds: 3000, seconds: 1.5, found: Some((17, "I-3".into())) });
        let measured = Measured { with: found, ..Measured::default() };
        assert!(measured.is_done(20_000) && measured.is_done_without(Class::None, 2000));
        assert!(!measured.is_done_without(Class::Kill, 2000));
    }

    /// A file that was cut short while it was written must not be taken for results.
    #[test]
    fn what_is_cut_short_is_measured_again() {
        let dir = TempDir::new("cut-short");
        let file = dir.0.join("story");
        let found = |seed, invariant: &str| Campaign {
            seeds: 3000,
            seconds: 1.5,
            found: Some((seed, invariant.into())),
        };
        let (with, without) = (Some(found(17, "I-3")), Some(found(4, "I-15")));
        let measured = Measured { with, without, shrunk: Some("2 operations".into()) };
        measured.save(&file, 7).expect("saved");
        let whole = fs::read_to_string(&file).expect("the file");
        let lines: Vec<&str> = whole.lines().collect();
        assert_eq!(lines.len(), 4, "{whole}");
        let cut = |text: &str| {
            fs::write(&file, text).expect("written");
            Measured::load(&file, 7)
        };
        assert_eq!(cut(&lines[..3].join("\n")), Measured { shrunk: None, ..measured.clone() });
        let two = Measured { without: None, shrunk: None, ..measured };
        assert_eq!(cut(&lines[..2].join("\n")), two);
        assert_eq!(cut(&format!("{}\n3000 1.5 17", lines[0])), Measured::default());
        assert_eq!(cut(&format!("{}\n3000 long 17 I-3", lines[0])), Measured::default());
        for text in ["", "x", &lines[0][..9], "0000000000000008\n3000 1.5 17 I-3\n"] {
            assert_eq!(cut(text), Measured::default(), "{text:?}");
        }
    }
}
