//! Telling what was measured.

use super::{Canary, Measured, campaign::Campaign};
use std::fmt::Write as _;

/// Whether a canary was found by a promise it names, and not with its class switched off.
pub(super) fn is_as_named(canary: &Canary, measured: &Measured) -> bool {
    let found = measured.with.as_ref().and_then(|campaign| campaign.found.as_ref());
    let named = found.is_some_and(|(_, invariant)| canary.invariants.contains(invariant));
    named && measured.without.as_ref().is_none_or(|campaign| campaign.found.is_none())
}

pub(super) fn progress(canary: &Canary, measured: &Measured) -> String {
    let of = |campaign: &Option<Campaign>| match campaign {
        None => "-".into(),
        Some(Campaign { found: Some((seed, invariant)), seconds, .. }) => {
            format!("seed {seed} ({seconds:.0} s, {invariant})")
        }
        Some(campaign) => format!("not in {} ({:.0} s)", campaign.seeds, campaign.seconds),
    };
    let (with, without) = (of(&measured.with), of(&measured.without));
    format!("{:<34} {with:<28} without {}: {without}", canary.name, canary.class.name())
}

fn class_of(canary: &Canary) -> String {
    let apart: Vec<&str> = canary.apart.iter().map(|class| class.name()).collect();
    match apart.is_empty() {
        true => canary.class.name().into(),
        false => format!("{}, with {} off", canary.class.name(), apart.join(" and ")),
    }
}

/// The table of what was measured, in Markdown.
pub(super) fn report(all: &[(&Canary, Measured)]) -> String {
    let seed_of = |measured: &Measured| {
        let found = measured.with.as_ref().and_then(|campaign| campaign.found.as_ref());
        found.map(|(seed, _)| *seed)
    };
    let within = |seeds: u64| {
        all.iter().filter(|(_, m)| seed_of(m).is_some_and(|seed| seed < seeds)).count()
    };
    let looked = all.iter().filter_map(|(_, m)| m.with.as_ref()).map(|c| c.seeds).max();
    let looked = looked.unwrap_or_default();
    let mut out = String::from("# Canaries\n\n");
    let _ = writeln!(
        out,
        "Of {} planted bugs, {} of them written without knowing the checkers, {} are found within \
         1,000 seeds, {} within {looked}. `docs/simulation.md` tells how they are looked for; this \
         table is what `lightning-sim canaries --seeds {looked} --report sim/canaries/REPORT.md` \
         measured.\n",
        all.len(),
        all.iter().filter(|(canary, _)| canary.blind).count(),
        within(1000.min(looked)),
        within(looked),
    );
    let _ = writeln!(out, "{}\n", totals(all));
    out.push_str(
        "| canary | bug | class | breaks | reported | seed | seconds | shrunk to | without the class \
         | blind |\n|---|---|---|---|---|---:|---:|---|---|---|\n",
    );
    for (canary, measured) in all {
        let none = || "".to_owned();
        let with = measured.with.as_ref();
        let found = with.and_then(|campaign| campaign.found.as_ref());
        let without = measured.without.as_ref().map_or_else(none, |c| match &c.found {
            Some((seed, invariant)) => format!("{invariant} at {seed}"),
            None => format!("none in {}", c.seeds),
        });
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} | {} | {} | {} | {} | {without} | {} |",
            canary.name,
            canary.bug,
            class_of(canary),
            canary.invariants.join(", "),
            found.map_or("not found", |(_, invariant)| invariant),
            found.map_or_else(none, |(seed, _)| seed.to_string()),
            with.map_or_else(none, |campaign| format!("{:.0}", campaign.seconds)),
            measured.shrunk.as_deref().unwrap_or_default(),
            if canary.blind { "yes" } else { "" },
        );
    }
    let notes = |canary: &Canary| {
        let all = [&canary.elusive, &canary.note].into_iter().filter(|note| !note.is_empty());
        all.cloned().collect::<Vec<_>>().join(" ")
    };
    let noted: Vec<_> = all.iter().map(|(canary, _)| (&canary.name, notes(canary))).collect();
    if noted.iter().any(|(_, note)| !note.is_empty()) {
        out.push_str("\n## Notes\n\n");
        for (name, note) in noted.iter().filter(|(_, note)| !note.is_empty()) {
            let _ = writeln!(out, "- **{name}**: {note}");
        }
    }
    out
}

/// What the table comes to: those found, what was made small, and those that survive without their class.
fn totals(all: &[(&Canary, Measured)]) -> String {
    let found = |(_, measured): &&(&Canary, Measured)| {
        measured.with.as_ref().is_some_and(|campaign| campaign.found.is_some())
    };
    let share = all.iter().filter(found).count() as f64 * 100.0 / all.len().max(1) as f64;
    let sizes: Vec<Vec<u64>> =
        all.iter().filter_map(|(_, m)| m.shrunk.as_deref()).map(numbers).collect();
    let median = |of: usize| {
        let mut column: Vec<u64> = sizes.iter().filter_map(|size| size.get(of).copied()).collect();
        column.sort_unstable();
        column.get(column.len() / 2).copied().unwrap_or_default()
    };
    let survives = |each: &&(&Canary, Measured)| {
        found(each) && each.1.without.as_ref().is_some_and(|campaign| campaign.found.is_none())
    };
    format!(
        "Found: {share:.0} %. Made small: {} schedules, to a median of {} operations, {} crashes and {} \
         faults. {} name a class without which the bug survived.",
        sizes.len(),
        median(0),
        median(1),
        median(2),
        all.iter().filter(survives).count(),
    )
}

/// The numbers in a text.
fn numbers(text: &str) -> Vec<u64> {
    let words = text.split(|c: char| !c.is_ascii_digit());
    words.filter_map(|word| word.parse().ok()).collect()
}
