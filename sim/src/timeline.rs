//! A run as a story: what each client did, what the disk did, where it crashed, what survived.

use crate::{simulation::Outcome, trace::Line};
use std::fmt::Write as _;

/// Events that tell nothing of what went wrong.
const LEFT_OUT: [&str; 9] =
    ["read", "kind", "list", "lock dir", "notify", "spawn", "open", "map", "VIOLATION"];

/// Tells a run, with up to `lines` events of each boot: the last ones.
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
        let left_out = events.len().saturating_sub(lines);
        if left_out > 0 {
            let _ = writeln!(told, "    ... {left_out} events before");
        }
        for line in &events[left_out..] {
            let _ = writeln!(told, "{}", event(line));
        }
    }
    match &outcome.violation {
        Some(violation) => {
            let _ = writeln!(told, "BROKEN {}: {}", violation.invariant, violation.message);
        }
        None => told.push_str("no promise was broken\n"),
    }
    told
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
