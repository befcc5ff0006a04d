//! What fuzzers call: any bytes stand for something to do, and it must be done right.
//!
//! [`api`] is one client on a machine on which nothing fails, held against a map. [`schedule`] is a
//! whole schedule, with crashes, faults and preemptions, under the simulator's checks: the fuzzer looks
//! for the branches that no seed has taken yet. Both are deterministic, so that what a fuzzer finds
//! stays found.

use crate::{
    database::{
        alone::{Opening, run_alone},
        operation::{Durable, Edge, Ends, Operation, Place, Range, Read, Value, Walk, Write},
        run_schedule,
        shape::{Settings, SyncMode},
        workload::{ClientScript, Session, SessionScript},
    },
    decisions::{Order, Preemption, Strike},
    schedule::{Boot, CrashAt, Schedule, VERSION},
    simulation::{Crash, When},
    site::{FAULTS, Site},
};
use lightning_faults::{FaultPlan, Full};
use std::time::Duration;

/// A fuzzer, by the name of its target and of its folder in `corpus/fuzz`.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 2] = [("api", api), ("schedule", schedule)];

/// Operations of one client in a session, and openings of a database, at most.
const OPERATIONS: usize = 64;
const OPENINGS: usize = 6;

/// Calls of the API by one client, and what they must answer.
///
/// # Panics
/// If one answers otherwise.
pub fn api(bytes: &[u8]) {
    let mut input = Input(bytes);
    let settings = input.settings();
    let mut openings = vec![];
    while !input.0.is_empty() && openings.len() < OPENINGS {
        let close = input.chance(2);
        openings.push(Opening { operations: input.operations(), close });
    }
    let outcome = run_alone(settings.clone(), openings.clone());
    if let Some(broken) = outcome.violation {
        panic!("{}: {}\n{settings:?}\n{openings:#?}", broken.invariant, broken.message);
    }
}

/// A schedule, and every promise.
///
/// # Panics
/// If one is broken, with the schedule as text: `lightning-sim shrink` makes it small.
pub fn schedule(bytes: &[u8]) {
    let schedule = decode_schedule(bytes);
    if let Some(broken) = run_schedule(&schedule, None).violation {
        panic!("breaks {}: {}\n{}", broken.invariant, broken.message, schedule.write());
    }
}

/// The schedule that bytes stand for.
pub fn decode_schedule(bytes: &[u8]) -> Schedule {
    let mut input = Input(bytes);
    let (settings, disk, order) = (input.settings(), input.disk(), input.order());
    let crashes = input.below(4);
    let mut boots: Vec<Boot> = (0..crashes).map(|_| input.boot()).collect();
    let check = Session { strict: false, settle: true, close: true, empties: false };
    boots.push(Boot {
        stream: crashes,
        crash: None,
        full: None,
        calm: true,
        faults: vec![],
        preemptions: vec![],
        sessions: vec![
            SessionScript { session: check, clients: vec![input.client(0)] },
            SessionScript { session: check, clients: vec![] },
        ],
    });
    let (version, note, breaks) = (VERSION, None, None);
    let mut schedule = Schedule { version, note, breaks, seed: 0, settings, disk, order, boots };
    schedule.make_streams_distinct();
    schedule
}

/// Bytes, read from the front; behind their end there are zeros.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> u64 {
        match self.0.split_first() {
            Some((first, rest)) => {
                self.0 = rest;
                u64::from(*first)
            }
            None => 0,
        }
    }

    fn two_bytes(&mut self) -> u64 {
        self.byte() << 8 | self.byte()
    }

    fn below(&mut self, end: u64) -> u64 {
        self.byte() % end
    }

    /// Once in so many times.
    fn chance(&mut self, once_in: u64) -> bool {
        self.below(once_in) == 1
    }

    fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }

    fn settings(&mut self) -> Settings {
        Settings {
            memtable_bytes: 4 << 10 << self.below(4),
            segment_bytes: 16 << 10 << self.below(3),
            cache_bytes: self.pick(&[0, 16 << 10, 1 << 20]),
            memory_bytes: 2 << 20,
            sync: self.pick(&[SyncMode::Sync, SyncMode::Periodic, SyncMode::Async]),
            interval_micros: self.pick(&[1_000, 10_000, 100_000]),
            wal: !self.chance(8),
            compression: self.below(4) as u32,
            btree: self.chance(3),
            page_bytes: 4 << 10, // what the corpus was made with
            blob_bytes: None,
            retention_bytes: None,
            log_compression: false,
            shared_keyspaces: self.below(3) as usize,
        }
    }

    fn disk(&mut self) -> FaultPlan {
        let mut plan = FaultPlan::none();
        plan.power.block_bytes = self.pick(&[512, 1024, 4096]);
        plan.power.mixture = self.pick(&[0.0, 0.3]);
        plan.power.garbage = self.pick(&[0.0, 0.2]);
        plan.power.length_first = self.pick(&[0.0, 0.5]);
        plan.power.stale_tail = self.chance(2);
        plan.power.directory_subset = self.chance(2);
        plan.failed_sync_loses = self.pick(&[0.0, 0.5, 1.0]);
        plan.map_refused = self.chance(2);
        if self.chance(4) {
            plan.full = Some(Full {
                begins: Duration::from_micros(self.two_bytes()),
                lasts: Duration::from_micros(100 * self.two_bytes()),
                left_bytes: 4096 * self.below(8),
            });
        }
        plan
    }

    fn order(&mut self) -> Order {
        self.pick(&[Order::Uniform, Order::Priorities])
    }

    fn boot(&mut self) -> Boot {
        let stream = self.byte();
        let how = self.pick(&[Crash::PowerLoss, Crash::Killed]);
        let crash = match self.below(8) {
            0 => None,
            1 => Some(When::AfterNanos(self.two_bytes() * 1000)),
            _ => Some(When::AtIo(self.two_bytes() % 1024)),
        };
        let faults = (0..self.below(4)).map(|_| Strike {
            site: Site::known(FAULTS[self.byte() as usize % FAULTS.len()]),
            pass: self.byte(),
        });
        let faults = faults.collect();
        let preemptions = (0..self.below(4)).map(|_| self.preemption()).collect();
        let sessions = (0..1 + self.below(2)).map(|_| {
            let session = Session {
                strict: self.chance(3),
                settle: self.chance(3),
                close: self.chance(2),
                empties: false,
            };
            let clients = (0..1 + self.below(3)).map(|number| self.client(number)).collect();
            SessionScript { session, clients }
        });
        let sessions = sessions.collect();
        let crash = crash.map(|when| CrashAt { how, when });
        Boot { stream, crash, full: None, calm: false, faults, preemptions, sessions }
    }

    fn preemption(&mut self) -> Preemption {
        let tasks = [
            "main",
            "client 0",
            "client 1",
            "client 2",
            "lightning-sync",
            "lightning-prepare",
            "lightning-flush",
            "lightning-compact",
        ];
        Preemption {
            site: Site::numbered(self.two_bytes()),
            task: self.pick(&tasks).into(),
            pass: self.byte(),
            pause_nanos: (!self.chance(4)).then(|| 1 + 100 * self.two_bytes()),
        }
    }

    fn client(&mut self, client: u64) -> ClientScript {
        ClientScript { client, operations: self.operations() }
    }

    /// Operations up to one that says that there are no more.
    fn operations(&mut self) -> Vec<Operation> {
        let mut operations = vec![];
        while !self.0.is_empty() && operations.len() < OPERATIONS {
            match self.operation() {
                Some(operation) => operations.push(operation),
                None => break,
            }
        }
        operations
    }

    fn operation(&mut self) -> Option<Operation> {
        Some(match self.below(16) {
            0 => return None,
            1..=4 => Operation::Put {
                space: self.space(),
                key: self.byte(),
                value: self.value(),
                durability: self.durability(),
            },
            5 => Operation::Delete { space: self.space(), key: self.byte() },
            6 => Operation::DeleteRange { space: self.space(), range: self.range() },
            7 | 8 => {
                let writes = (0..1 + self.below(6)).map(|_| self.write()).collect();
                Operation::Commit { writes, durability: self.durability() }
            }
            9 => {
                let entries = (0..self.below(6)).map(|_| (self.byte(), self.value())).collect();
                Operation::PutBatch { space: self.space(), entries }
            }
            10 => Operation::DeleteBatch { space: self.space(), keys: self.keys() },
            11 | 12 => Operation::Read { space: self.space(), read: self.read() },
            13 if self.chance(3) => Operation::Snapshot,
            13 => {
                let held = self.below(3);
                Operation::Reread { held, space: self.space(), read: self.read() }
            }
            14 if self.chance(2) => Operation::Keyspace,
            14 if self.chance(3) => Operation::Compact,
            14 if self.chance(3) => {
                Operation::StorageKind { space: self.space(), btree: self.chance(2) }
            }
            14 => Operation::Checkpoint,
            _ => match self.byte() {
                255 => Operation::Close,
                254 => Operation::BulkLoad {
                    space: self.space(),
                    entries: (0..self.below(32)).map(|_| (self.byte(), self.value())).collect(),
                    empties: !self.chance(3),
                    nanos: 1 << self.below(20),
                    fails: self.chance(8).then(|| self.below(8)),
                },
                byte => Operation::Sleep { nanos: 1 << (byte % 28) },
            },
        })
    }

    fn space(&mut self) -> Place {
        self.pick(&[Place::Default, Place::Own, Place::Shared1, Place::Shared2])
    }

    fn keys(&mut self) -> Vec<u64> {
        (0..self.below(6)).map(|_| self.byte()).collect()
    }

    fn value(&mut self) -> Value {
        let byte = self.byte();
        // Some fill a memtable at once.
        let bytes = match byte % 8 {
            0..5 => byte,
            5 | 6 => 16 * byte,
            _ => 64 * byte,
        };
        Value { bytes: bytes.max(8), random: byte & 16 != 0 }
    }

    fn durability(&mut self) -> Durable {
        self.pick(&[Durable::Default, Durable::Sync, Durable::Async])
    }

    fn range(&mut self) -> Range {
        Range { start: self.edge(), end: self.edge() }
    }

    fn edge(&mut self) -> Edge {
        match self.below(3) {
            0 => Edge::Unbounded,
            1 => Edge::Included(self.byte()),
            _ => Edge::Excluded(self.byte()),
        }
    }

    fn write(&mut self) -> Write {
        let space = self.space();
        match self.below(8) {
            0 => Write::DeleteRange { space, range: self.range() },
            1 | 2 => Write::Delete { space, key: self.byte() },
            _ => Write::Put { space, key: self.byte(), value: self.value() },
        }
    }

    fn read(&mut self) -> Read {
        match self.below(13) {
            0 => Read::Get(self.byte()),
            1 => Read::GetRef(self.byte()),
            2 => Read::ContainsKey(self.byte()),
            3 => Read::GetBatch(self.keys()),
            4 => Read::GetBatchWith(self.keys()),
            5 => Read::First,
            6 => Read::Last,
            7 => Read::Scan(self.key_or_none(), self.key_or_none(), self.walk()),
            8 => Read::ScanReverse(self.key_or_none(), self.key_or_none(), self.walk()),
            9 => Read::ScanPrefix(self.byte(), self.below(6), self.walk()),
            10 => Read::Range(self.range(), self.walk()),
            11 => Read::Iter(self.walk()),
            _ => Read::ForEach(self.range()),
        }
    }

    fn key_or_none(&mut self) -> Option<u64> {
        (!self.chance(4)).then(|| self.byte())
    }

    fn walk(&mut self) -> Walk {
        let ends = match self.below(4) {
            0 => Ends::Front,
            1 => Ends::Back,
            _ => Ends::Both(self.two_bytes()),
        };
        let entries = self.pick(&[u64::MAX, 1, 2, 5, 20]);
        Walk { ends, entries, lent: self.chance(2) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lightning_faults::Dice;
    use std::{fs, path::Path};

    /// What fuzzing has found worth keeping: inputs that reach every branch that they can, and those
    /// that once broke something.
    #[test]
    fn the_corpus_breaks_nothing() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus/fuzz");
        for (name, run) in TARGETS {
            let folder = corpus.join(name);
            let files = fs::read_dir(&folder).expect("the folder of a target");
            let mut inputs = 0;
            for file in files {
                run(&fs::read(file.expect("a file").path()).expect("a readable file"));
                inputs += 1;
            }
            assert!(inputs > 0, "{} is empty", folder.display());
        }
    }

    /// For a fuzzer that does nothing: bytes that stand for no crash, fault, preemption or operation.
    #[test]
    fn bytes_stand_for_all_that_a_schedule_can_say() {
        let (mut sizes, mut kinds) = (vec![], std::collections::BTreeSet::new());
        for number in 0..200 {
            let mut bytes = [0; 300];
            Dice::new(0, "fuzzing", number).fill(&mut bytes);
            let schedule = decode_schedule(&bytes);
            let text = schedule.write();
            assert_eq!(Schedule::read(&text).as_ref(), Ok(&schedule));
            sizes.push(schedule.size());
            let named =
                ["\"commit\"", "\"put\"", "\"put_batch\"", "\"delete\"", "\"delete_range\""];
            let more =
                ["\"delete_batch\"", "\"read\"", "\"reread\"", "\"snapshot\"", "\"keyspace\""];
            let rest =
                ["\"checkpoint\"", "\"compact\"", "\"sleep\"", "\"full\"", "power_loss", "killed"];
            let all = named.into_iter().chain(more).chain(rest).chain(["\"close\""]);
            kinds.extend(all.filter(|kind| text.contains(kind)));
        }
        assert_eq!(kinds.len(), 17, "{kinds:?}");
        let all =
            |count: fn(&crate::schedule::Size) -> usize| sizes.iter().map(count).sum::<usize>();
        assert!(all(|size| size.operations) >= 2000, "{sizes:?}");
        assert!(all(|size| size.crashes) >= 100 && all(|size| size.faults) >= 100, "{sizes:?}");
        assert!(all(|size| size.preemptions) >= 100, "{sizes:?}");
    }
}
