//! What happened in a run: a hash over every event, and on request the events as text.
//!
//! Two runs are the same run if and only if their hashes are equal: the hash covers the
//! virtual time, the task, the operation, its arguments and its result. Nothing that differs
//! between builds or runs enters it: no addresses, thread ids or real time.

use crate::scheduler::Known;
use lightning_faults::site_hash;
use std::{collections::VecDeque, fmt, sync::Arc, time::Duration};

/// A number for bytes that were written. Not their CRC: that of a block that ends with its own
/// CRC is always the same.
pub(crate) fn content_hash(bytes: &[u8]) -> u64 {
    let mut hash = bytes.len() as u64;
    let mut chunks = bytes.chunks_exact(8);
    for chunk in &mut chunks {
        let word = chunk.try_into().map_or(0, u64::from_le_bytes);
        hash = mixed(hash, word);
    }
    chunks.remainder().iter().fold(hash, |hash, byte| mixed(hash, u64::from(*byte)))
}

fn mixed(hash: u64, word: u64) -> u64 {
    (hash.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95)
}

/// One event, as a reader sees it.
#[derive(Debug, Clone)]
pub struct Line {
    /// Virtual time.
    pub at: Duration,
    /// The task; `machine` if none runs.
    pub task: Arc<str>,
    /// The kind of event.
    pub what: String,
    /// All else.
    pub text: String,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = self.at.as_nanos() as f64 / 1000.0;
        let Line { task, what, text, .. } = self;
        write!(f, "{micros:>14.3} us  {task:<18} {what:<12} {text}")
    }
}

#[derive(Debug)]
pub(crate) struct Trace {
    hash: u64,
    events: u64,
    /// `Some`: the newest lines are kept, this many at most.
    keep: Option<usize>,
    lines: VecDeque<Line>,
}

impl Trace {
    pub(crate) fn new(keep: Option<usize>) -> Trace {
        Trace { hash: 0, events: 0, keep, lines: VecDeque::new() }
    }

    /// Records one event. `words` are what it is made of; `text` tells it to a reader and is
    /// asked only if lines are kept.
    pub(crate) fn record(
        &mut self,
        at: Duration,
        task: Option<&Known>,
        what: &str,
        words: &[u64],
        text: impl FnOnce() -> String,
    ) {
        self.events += 1;
        self.mix(at.as_nanos() as u64);
        self.mix(task.map_or(0, |task| task.hash));
        self.mix(site_hash(what));
        for word in words {
            self.mix(*word);
        }
        if let Some(keep) = self.keep {
            if self.lines.len() >= keep {
                self.lines.pop_front();
            }
            let task = task.map_or_else(|| "machine".into(), |task| task.name.clone());
            self.lines.push_back(Line { at, task, what: what.into(), text: text() });
        }
    }

    fn mix(&mut self, word: u64) {
        self.hash = mixed(self.hash, word);
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hash ^ self.events
    }

    pub(crate) fn take_lines(&mut self) -> Vec<Line> {
        self.lines.drain(..).collect()
    }
}
