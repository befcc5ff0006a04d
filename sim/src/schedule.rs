//! A run written down: everything that clients do, every fault, preemption and crash, by name and
//! number. Text that people read and edit, and that means the same when the code around it changes.
//!
//! What has no name is left to streams of the seed and of each boot: latencies, which of several
//! ready tasks goes first, and what of un-synced data a loss of power leaves.

use crate::{
    aim::Aim,
    decisions::{Interference, Order, Preemption, Strike},
    simulation::{BootPlan, Crash, Outcome, Plan, When},
    world::Scheduling,
};
use lightning_faults::{FaultPlan, Full};
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use serde_json::Value;
use std::{collections::BTreeSet, fmt::Write as _, sync::Arc};

use crate::database::{shape::Settings, workload::SessionScript};

/// The version of the form that is written, and the only one that is read.
pub const VERSION: u32 = 1;

/// A whole run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// [`VERSION`].
    #[serde(deserialize_with = "known_version")]
    pub version: u32,
    /// What it is kept for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// The promise that it broke when it was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub breaks: Option<String>,
    /// The seed of what has no name.
    pub seed: u64,
    /// Settings of the database.
    #[serde(deserialize_with = "possible_settings")]
    pub settings: Settings,
    /// What kind of disk it is: what of a [`FaultPlan`] is not said by name and number.
    pub disk: FaultPlan,
    /// Who goes on when several tasks can.
    #[serde(default)]
    pub order: Order,
    /// One process after another.
    #[serde(deserialize_with = "distinct_boots")]
    pub boots: Vec<Boot>,
}

/// One process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Boot {
    /// The name of its random streams.
    pub stream: u64,
    /// How it ends, unless it ends by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crash: Option<CrashAt>,
    /// When the disk is full besides, counted from the beginning of the boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub full: Option<Full>,
    /// Nothing fails in it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub calm: bool,
    /// Faults, and branches of the engine that are taken for once.
    #[serde(default)]
    pub faults: Vec<Strike>,
    /// Preemptions.
    #[serde(default)]
    pub preemptions: Vec<Preemption>,
    /// What it does.
    pub sessions: Vec<SessionScript>,
}

/// A crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CrashAt {
    /// What happens.
    pub how: Crash,
    /// When.
    pub when: When,
}

fn known_version<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    let version = u32::deserialize(deserializer)?;
    match version {
        VERSION => Ok(version),
        _ => Err(D::Error::custom(format!(
            "this is version {version} of the form, but only version {VERSION} is known here"
        ))),
    }
}

/// A number from `MIN` to `MAX`.
pub(crate) fn number_within<'de, D, T, const MIN: u64, const MAX: u64>(
    deserializer: D,
) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: TryFrom<u64>,
{
    let number = u64::deserialize(deserializer)?;
    let inside = (MIN..=MAX).contains(&number);
    inside
        .then(|| T::try_from(number).ok())
        .flatten()
        .ok_or_else(|| D::Error::custom(format!("{number} is not from {MIN} to {MAX}")))
}

/// Settings that a database has: others are refused when it is opened, which breaks no promise.
fn possible_settings<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Settings, D::Error> {
    let settings = Settings::deserialize(deserializer)?;
    let page_bytes = settings.page_bytes;
    if !page_bytes.is_power_of_two() || !(4 << 10..=64 << 10).contains(&page_bytes) {
        let why = format!("page_bytes {page_bytes} is no power of two from 4,096 to 65,536");
        return Err(D::Error::custom(why));
    }
    if settings.memory_bytes / 4 < settings.memtable_bytes {
        let Settings { memory_bytes, memtable_bytes, .. } = settings;
        let why = format!("memory_bytes {memory_bytes} is less than four of {memtable_bytes}");
        return Err(D::Error::custom(why));
    }
    Ok(settings)
}

/// No two boots may have one stream: they would draw the same identities for their files, which tell what
/// an earlier use of a file left from the present one, and no machine does that.
fn distinct_boots<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Boot>, D::Error> {
    let boots = Vec::<Boot>::deserialize(deserializer)?;
    let mut streams = BTreeSet::new();
    match boots.iter().find(|boot| !streams.insert(boot.stream)) {
        None => Ok(boots),
        Some(boot) => Err(D::Error::custom(format!("two boots have the stream {}", boot.stream))),
    }
}

impl Schedule {
    /// Writes down a run: its plan, what came out of it, and what its clients did.
    pub(crate) fn of(
        plan: &Plan,
        outcome: &Outcome,
        settings: &Settings,
        sessions: Vec<Vec<SessionScript>>,
    ) -> Schedule {
        let mut sessions = sessions.into_iter();
        let came = plan.boots.iter().zip(&outcome.interference).zip(&outcome.crash_ios);
        let boots = came.map(|((boot, list), crashed_at)| Boot {
            stream: boot.stream,
            crash: boot.crash.map(|(when, how)| CrashAt {
                how,
                // What came near some place has its number now.
                when: crashed_at.map_or(when, When::AtIo),
            }),
            full: boot.full,
            calm: boot.calm,
            faults: list.strikes.clone(),
            preemptions: list.preemptions.clone(),
            sessions: sessions.next().unwrap_or_default(),
        });
        Schedule {
            version: VERSION,
            note: None,
            breaks: outcome.violation.as_ref().map(|violation| violation.invariant.into()),
            seed: plan.seed,
            settings: settings.clone(),
            disk: plan.faults.kind_of_disk(),
            order: plan.scheduling.order,
            boots: boots.collect(),
        }
    }

    /// What is run for it. Above a `preempt` of 0 preemptions are drawn, in this share of the passes
    /// of their sites, in place of those listed.
    pub(crate) fn plan(&self, preempt: f64, keep_lines: Option<usize>) -> Plan {
        let boots = self.boots.iter().map(|boot| BootPlan {
            stream: boot.stream,
            crash: boot.crash.map(|crash| (crash.when, crash.how)),
            near: None,
            full: boot.full,
            calm: boot.calm,
            interference: Some(Arc::new(Interference {
                strikes: boot.faults.clone(),
                preemptions: boot.preemptions.clone(),
                draws_preemptions: preempt > 0.0,
            })),
        });
        Plan {
            seed: self.seed,
            faults: self.disk.kind_of_disk(),
            scheduling: Scheduling {
                order: self.order,
                preempt,
                buggify_site: 0.0,
                buggify: 0.0,
                aim: Aim::default(),
            },
            boots: boots.collect(),
            keep_lines,
        }
    }

    /// Reads one.
    ///
    /// # Errors
    /// Why the text is none, with the line.
    pub fn read(text: &str) -> Result<Schedule, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    /// Writes it: one line for each operation, fault and preemption.
    pub fn write(&self) -> String {
        let mut text = String::new();
        // Nothing in a schedule is a map with keys that are no text, or a number that is none.
        let value = serde_json::to_value(self).unwrap_or_default();
        write_value(&value, 0, &mut text);
        text.push('\n');
        text
    }

    /// Gives boots streams of their own where several have the same.
    pub(crate) fn make_streams_distinct(&mut self) {
        let mut streams = BTreeSet::new();
        for boot in &mut self.boots {
            while !streams.insert(boot.stream) {
                boot.stream += 1;
            }
        }
    }

    /// How large it is: operations, crashes, faults, preemptions.
    pub fn size(&self) -> Size {
        let count = |count: fn(&Boot) -> usize| self.boots.iter().map(count).sum();
        Size {
            operations: count(|boot| {
                let clients = boot.sessions.iter().flat_map(|session| &session.clients);
                clients.map(|client| client.operations.len()).sum()
            }),
            crashes: count(|boot| usize::from(boot.crash.is_some())),
            faults: count(|boot| boot.faults.len()),
            preemptions: count(|boot| boot.preemptions.len()),
        }
    }
}

/// How large a schedule is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Operations of clients.
    pub operations: usize,
    /// Crashes.
    pub crashes: usize,
    /// Faults, and branches taken for once.
    pub faults: usize,
    /// Preemptions.
    pub preemptions: usize,
}

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Size { operations, crashes, faults, preemptions } = self;
        write!(
            f,
            "{operations} operations, {crashes} crashes, {faults} faults, {preemptions} preemptions"
        )
    }
}

/// What is no longer than this stands on one line.
const LINE: usize = 100;

fn write_value(value: &Value, depth: usize, text: &mut String) {
    let compact = spaced(value);
    let (open, close, entries): (_, _, Vec<(String, &Value)>) = match value {
        Value::Array(list) => ('[', ']', list.iter().map(|v| (String::new(), v)).collect()),
        Value::Object(map) => {
            let named = map.iter().map(|(key, v)| (format!("{key:?}: "), v));
            ('{', '}', named.collect())
        }
        _ => ('\0', '\0', vec![]),
    };
    if entries.is_empty() || depth > 1 && 2 * depth + compact.len() <= LINE {
        text.push_str(&compact);
        return;
    }
    text.push(open);
    for (n, (name, entry)) in entries.iter().enumerate() {
        let comma = if n == 0 { "" } else { "," };
        let _ = write!(text, "{comma}\n{:1$}{name}", "", 2 * depth + 2);
        write_value(entry, depth + 1, text);
    }
    let _ = write!(text, "\n{:1$}{close}", "", 2 * depth);
}

/// A value on one line.
fn spaced(value: &Value) -> String {
    match value {
        Value::Array(list) => {
            format!("[{}]", list.iter().map(spaced).collect::<Vec<_>>().join(", "))
        }
        Value::Object(map) => {
            let entries = map.iter().map(|(key, value)| format!("{key:?}: {}", spaced(value)));
            format!("{{ {} }}", entries.collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::record_seed;

    #[test]
    fn what_is_written_is_read_again() {
        for seed in [2, 5] {
            let (_, schedule) = record_seed(seed, None);
            assert!(schedule.size().operations > 0, "seed {seed} does nothing");
            let text = schedule.write();
            assert_eq!(Schedule::read(&text), Ok(schedule));
            assert!(text.lines().all(|line| line.len() < 2000));
        }
    }

    /// A bad file must say where and why.
    #[test]
    fn a_bad_file_is_refused_with_its_line() {
        let good = record_seed(2, None).1.write();
        let refused = |text: &str, why: &str| {
            let told = Schedule::read(text).expect_err("it is bad");
            assert!(told.contains(why) && told.contains(" at line "), "{told:?}, not {why:?}");
        };
        refused(&good[..good.len() / 2], "EOF");
        refused("", "EOF");
        refused(&good.replacen("\"version\": 1", "\"version\": 2", 1), "version 2 of the form");
        refused(&good.replacen("\"seed\"", "\"sead\"", 1), "unknown field `sead`");
        refused(
            &good.replacen("\"stream\": 1,", "\"stream\": 0,", 1),
            "two boots have the stream 0",
        );
        refused(&good.replacen("\"order\": \"", "\"order\": \"x", 1), "unknown variant");
        for (name, number, why) in [
            ("memtable_bytes", "0", "0 is not from 4096 to"),
            ("memtable_bytes", "60000000", "is less than four of 60000000"),
            ("segment_bytes", "9", "9 is not from 16384 to"),
            ("compression", "9", "9 is not from 0 to 3"),
            ("bytes", "9999999", "9999999 is not from 8 to 1048576"),
        ] {
            let begin = format!("\"{name}\": ");
            let at = good.find(&begin).expect(name) + begin.len();
            let (before, behind) = good.split_at(at);
            let behind = behind.trim_start_matches(|digit: char| digit.is_ascii_digit());
            refused(&format!("{before}{number}{behind}"), why);
        }
        let pages = "\"page_bytes\": 5000,\n    \"shared_keyspaces\":";
        refused(&good.replacen("\"shared_keyspaces\":", pages, 1), "page_bytes 5000 is no power");
        let strike = r#""faults": [{ "site": "EIO on Monday", "pass": 1 }], "x": ["#;
        refused(&good.replacen("\"faults\": [", strike, 1), "no site is called \"EIO on Monday\"");
    }
}
