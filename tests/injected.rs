//! For the failure that a wrapper of ours cannot show, because it stands above our own calls to the
//! system: the kernel answers one of them with an error, and the process acknowledges what is not
//! there, says nothing, or goes on acknowledging after a failed sync.
//!
//! A child writes under strace, which answers the N-th call of a kind, counted in each thread, with an
//! error instead of letting it through. Without strace this test does nothing, and says so. The engine has
//! no I/O by io_uring that could fail.

use crate::{
    child::{Child, say},
    files::Scratch,
    random::Random,
};
use lightning_db::{Database, Error, LightningDbConfig, WalSyncMode};
use std::{ffi::OsString, path::Path, process::Command};

/// Enough for a few flushes, merges and log segments.
const PUTS: u64 = 120;
/// Calls of each kind that fail, one in each run.
const CALLS: u64 = 25;

fn config() -> LightningDbConfig {
    LightningDbConfig {
        memtable_size: 8 << 10,
        wal_segment_size: 16 << 10,
        cache_size: 64 << 10,
        max_memory: 1 << 20,
        wal_sync_mode: WalSyncMode::Sync,
        ..Default::default()
    }
}

fn value(number: u64) -> Vec<u8> {
    let mut random = Random::new(number);
    let len = 1 + random.below(600);
    random.bytes(len as usize)
}

/// What a child does: it counts on, tells what was acknowledged and what was refused, and why.
pub(crate) fn write(dir: &Path) {
    let thread = std::fs::read_link("/proc/thread-self").unwrap();
    say(&format!("thread {}", thread.file_name().unwrap().display()));
    let mut opened = Database::open_or_create(dir, config());
    while let Err(error) = opened {
        say(&format!("refused {}", described(&error)));
        // The call that failed does not fail again in this thread.
        opened = Database::open_or_create(dir, config());
    }
    let db = opened.unwrap();
    say("open");
    for number in 0..PUTS {
        match db.put(number.to_be_bytes(), value(number)) {
            Ok(()) => say(&format!("ack {number}")),
            Err(error) => say(&format!("refused {}", described(&error))),
        }
    }
    match db.close() {
        Ok(()) => say("closed"),
        Err(error) => say(&format!("refused {}", described(&error))),
    }
}

/// Its kind, and what users read.
fn described(error: &Error) -> String {
    let kind = match error {
        Error::NoSpace { .. } => "no space",
        Error::Io { .. } => "io",
        Error::Poisoned { .. } => "poisoned",
        _ => "unexpected",
    };
    format!("{kind}: {error}")
}

/// A kind of call, the error it gets, and how the system puts that.
struct Injection {
    call: &'static str,
    error: &'static str,
    text: &'static str,
    /// How many of the writer's own calls may fail without its being told: those that prepare spare
    /// files, which the database can do without.
    untold_max: u64,
}

/// A new database syncs the spare of its manifest, and the directory for its name.
const FSYNCS_OF_SPARE: u64 = 2;

const INJECTIONS: [Injection; 6] = [
    Injection { call: "fdatasync", error: "EIO", text: "Input/output error", untold_max: 0 },
    Injection { call: "fdatasync", error: "ENOSPC", text: "no space left", untold_max: 0 },
    Injection {
        call: "fsync",
        error: "EIO",
        text: "Input/output error",
        untold_max: FSYNCS_OF_SPARE,
    },
    Injection { call: "pwrite64", error: "EIO", text: "Input/output error", untold_max: CALLS },
    Injection { call: "pwrite64", error: "ENOSPC", text: "no space left", untold_max: CALLS },
    Injection { call: "fallocate", error: "ENOSPC", text: "no space left", untold_max: CALLS },
];

/// How often strace stood between a call and the kernel, and what came of it.
#[derive(Debug, Default)]
struct Counts {
    injected: u64,
    /// Runs in which it struck the thread that writes.
    in_writer: u64,
    /// Of these, runs in which nothing was refused.
    untold: u64,
    /// Runs in which something was refused, or poisoned.
    reported: u64,
    poisoned: u64,
    acknowledged: u64,
}

impl Injection {
    /// One child, in which the call number `n` of each thread fails.
    fn run(&self, n: u64, counts: &mut Counts) {
        // In memory the log is written with pwrite64; on disk it may be mapped.
        let scratch = if n.is_multiple_of(5) { Scratch::new() } else { Scratch::in_memory() };
        let (dir, log) = (scratch.db(), scratch.path().join("strace"));
        let mut strace = Command::new("strace");
        strace.args(["-f", "-qq", "--seccomp-bpf", "-e", "signal=none", "-e"]);
        strace.arg(format!("trace={}", self.call)).arg("-e");
        strace.arg(format!("inject={}:error={}:when={n}", self.call, self.error));
        strace.args([
            OsString::from("-o"),
            log.clone().into(),
            std::env::current_exe().unwrap().into(),
        ]);
        let (status, said) = Child::start_as(strace, "injected", &dir, "").end();
        let what = format!("{} number {n} fails with {}", self.call, self.error);
        assert!(status.success(), "{what}: {status}, {said:?}");

        let trace = std::fs::read_to_string(&log).unwrap();
        let injected: Vec<_> = trace.lines().filter(|line| line.ends_with("(INJECTED)")).collect();
        counts.injected += injected.len() as u64;
        // A sync that fails in the writer's own thread is told; the background may try again.
        let thread = said.iter().find_map(|line| line.strip_prefix("thread ")).unwrap();
        let refused = said.iter().any(|line| line.starts_with("refused"));
        if injected.iter().any(|line| line.split_whitespace().next() == Some(thread)) {
            counts.in_writer += 1;
            counts.untold += u64::from(!refused);
            assert!(counts.untold <= self.untold_max, "{what}, and nobody is told: {said:?}");
        }
        let acknowledged = self.check_said(&what, &said, injected.len(), counts);
        check_contents(&what, &dir, &acknowledged);
        counts.acknowledged += acknowledged.len() as u64;
    }

    /// What was refused was refused for the right reason, and poison lasts. Returns the numbers that
    /// were acknowledged.
    fn check_said(
        &self,
        what: &str,
        said: &[String],
        injected: usize,
        counts: &mut Counts,
    ) -> Vec<u64> {
        let mut acknowledged = vec![];
        let (mut refusals, mut poisoned) = (0, false);
        for line in said {
            if let Some(number) = line.strip_prefix("ack ") {
                assert!(!poisoned, "{what}: acknowledged after poison: {said:?}");
                acknowledged.push(number.parse().unwrap());
            } else if let Some(error) = line.strip_prefix("refused ") {
                assert!(error.contains(self.text), "{what}: {error}");
                assert!(!error.starts_with("unexpected"), "{what}: {error}");
                refusals += 1;
                poisoned |= error.starts_with("poisoned");
            } else if line == "open" {
                poisoned = false; // what failed before was another opening
            }
        }
        assert!(injected > 0 || refusals == 0, "{what}: refused without a reason: {said:?}");
        counts.reported += u64::from(refusals > 0);
        counts.poisoned += u64::from(said.iter().any(|line| line.starts_with("refused poisoned")));
        acknowledged
    }
}

/// Everything acknowledged is there, and nothing that was never written.
fn check_contents(what: &str, dir: &Path, acknowledged: &[u64]) {
    let db = Database::open(dir, config()).unwrap_or_else(|error| panic!("{what}: {error}"));
    let mut found = vec![];
    db.for_each(.., |key, bytes| {
        let number = u64::from_be_bytes(key.try_into().unwrap());
        assert!(number < PUTS && bytes == value(number), "{what}: {number}");
        found.push(number);
    })
    .unwrap();
    let lost: Vec<_> = acknowledged.iter().filter(|number| !found.contains(number)).collect();
    assert!(lost.is_empty(), "{what}: acknowledged and lost: {lost:?}");
    db.put("more", "data").unwrap();
    db.close().unwrap();
}

#[test]
#[cfg_attr(not(feature = "integration_tests"), ignore = "heavy: many processes under strace")]
fn calls_that_the_kernel_fails_lose_nothing_acknowledged() {
    let works = Command::new("strace").args(["-f", "-qq", "--seccomp-bpf", "true"]).output();
    if !works.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: no strace here, or it may not trace");
        return;
    }
    for injection in &INJECTIONS {
        let mut counts = Counts::default();
        for n in 1..=CALLS {
            injection.run(n, &mut counts);
        }
        println!("{} {}: {CALLS} runs, {counts:?}", injection.call, injection.error);
        assert!(counts.injected > 0 && counts.acknowledged > 0, "{}: {counts:?}", injection.call);
        assert!(counts.in_writer > 0 && counts.reported > 0, "{}: {counts:?}", injection.call);
    }
}
