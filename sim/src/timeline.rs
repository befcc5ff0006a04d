//! A run as a story: what each client did, what the disk did, where it crashed, what survived.

use crate::{simulation::Outcome, trace::Line};
use std::fmt::Write as _;

/// Events that tell nothing of what went wrong.
const LEFT_OUT: [&str; 9] =
    ["read", "kind", "list", "lock dir", "notify", "spawn", "open", "map", "VIOLATION"];

/// Events that are told however long ago they were, as long as there are few of them.
const KEPT: [&str; 8] =
    ["does", "commit", "FAULT", "open failed", "recovered", "preempted", "crash", "survived"];

/// Tells a run, with up to `lines` events of each boot: what clients did and what interfered with
/// them if that is no more, and the last ones.
pub fn timeline(outcome: &Outcome, lines: usize) -> String {
    let mut told = String::new();
    let mut boots: Vec<Vec<&Line>> = vec![];
    for line in &outcome.lines {
        if line.what == "boot" || boots.is_empty() {
            boots.push(vec![]);
        }
        if let Some(boot) = boots.last_mut()
            && !LEFT_OUT.contains(&line.what.as_str())
        {
            boot.push(line);
        }
    }
    for boot in boots {
        let (heads, events): (Vec<&Line>, Vec<&Line>) =
            boot.into_iter().partition(|line| line.what == "boot");
        for line in heads {
            let _ = writeln!(told, "boot {}", line.text);
        }
        let mut left_out = 0;
        for (line, told_of) in events.iter().zip(chosen(&events, lines)) {
            if !told_of {
                left_out += 1;
                continue;
            }
            gap(&mut told, std::mem::take(&mut left_out));
            let _ = writeln!(told, "{}", event(line));
        }
        gap(&mut told, left_out);
    }
    match &outcome.violation {
        Some(violation) => {
            let _ = writeln!(told, "BROKEN {}: {}", violation.invariant, violation.message);
        }
        None => told.push_str("no promise was broken\n"),
    }
    told
}

/// Which of a boot's events are told.
fn chosen(events: &[&Line], lines: usize) -> Vec<bool> {
    let kept: Vec<bool> = events.iter().map(|line| KEPT.contains(&line.what.as_str())).collect();
    let keeps = kept.iter().filter(|kept| **kept).count();
    let (kept, mut room) = match lines.checked_sub(keeps) {
        Some(room) => (kept, room),
        None => (vec![false; events.len()], lines),
    };
    let mut chosen = kept.clone();
    for (chosen, kept) in chosen.iter_mut().zip(kept).rev().filter(|(_, kept)| !kept) {
        if room == 0 {
            break;
        }
        room -= 1;
        *chosen = !kept;
    }
    chosen
}

fn gap(told: &mut String, left_out: usize) {
    if left_out > 0 {
        let _ = writeln!(told, "    ... {left_out} events left out");
    }
}

fn event(line: &Line) -> String {
    let at = format!("{:>10.3} ms", line.at.as_nanos() as f64 / 1e6);
    match line.what.as_str() {
        "crash" => format!("{at}  ---- {} ----", line.text),
        "survived" => format!("{:>13}  left of {}", "", line.text),
        "does" => format!("{at}  {:<18} >> {}", line.task, line.text),
        "FAULT" => format!("{at}  {:<18} !! {}", line.task, line.text),
        what => format!("{at}  {:<18}    {what}: {}", line.task, line.text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// For a story that leaves out why it came so: what a client did long before the end.
    #[test]
    fn few_deeds_are_told_however_long_ago_and_many_are_cut() {
        let line = |what: &str| {
            let (task, text) = ("main".into(), String::new());
            Line { at: Duration::ZERO, task, what: what.into(), text }
        };
        let chosen_of = |whats: &[&str], lines: usize| {
            let all: Vec<Line> = whats.iter().map(|what| line(what)).collect();
            chosen(&all.iter().collect::<Vec<_>>(), lines)
        };
        let few = ["does", "write", "write", "FAULT", "write", "sync data", "crash"];
        let told = chosen_of(&few, 5);
        assert_eq!(told, [true, false, false, true, true, true, true]);
        assert!(chosen_of(&few, 7).iter().all(|told| *told));
        let many = ["does", "does", "does", "write", "does"];
        assert_eq!(chosen_of(&many, 2), [false, false, false, true, true]);
    }
}
