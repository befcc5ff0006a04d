//! Processes that a test starts in order to kill them: this binary runs itself, with one test that
//! does nothing unless a variable names what to do. What the child says stands on lines of its
//! own, each written by one call, so that a kill never leaves half of one to be believed.

use crate::{feed, full_disk, injected, kill};
use std::{
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    sync::{Arc, Condvar, Mutex},
    thread::JoinHandle,
    time::{Duration, Instant},
};

const ROLE: &str = "LIGHTNING_TEST_ROLE";
const DIR: &str = "LIGHTNING_TEST_DIR";
const ARGUMENT: &str = "LIGHTNING_TEST_ARGUMENT";
const MARK: &str = "@ ";

/// What a child does instead of testing.
#[test]
fn child() {
    let (Ok(role), Ok(dir)) = (std::env::var(ROLE), std::env::var(DIR)) else {
        return;
    };
    let argument = std::env::var(ARGUMENT).unwrap_or_default();
    let dir = PathBuf::from(dir);
    say("begun");
    match role.as_str() {
        "count" => kill::count(&dir, &argument),
        "create" => kill::create(&dir),
        "follow" => feed::follow(&dir),
        "fill" => full_disk::fill(&dir, &argument),
        "injected" => injected::write(&dir),
        "few files" => full_disk::write_with_few_files(&dir),
        other => panic!("no such role: {other}"),
    }
    say("done");
    std::process::exit(0);
}

/// Tells the parent. Used by children only.
pub(crate) fn say(line: &str) {
    // The line before may be one that the test harness has begun.
    std::io::stdout().write_all(format!("\n{MARK}{line}\n").as_bytes()).unwrap();
    std::io::stdout().flush().unwrap();
}

#[derive(Default)]
struct Said {
    lines: Vec<String>,
    ended: bool,
}

pub(crate) struct Child {
    process: std::process::Child,
    said: Arc<(Mutex<Said>, Condvar)>,
    reader: JoinHandle<()>,
}

impl Child {
    pub(crate) fn start(role: &str, dir: &Path, argument: &str) -> Child {
        Child::start_as(Command::new(std::env::current_exe().unwrap()), role, dir, argument)
    }

    /// With at most `files` open files.
    pub(crate) fn start_with_few_files(files: u32, role: &str, dir: &Path) -> Child {
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(format!("ulimit -n {files}; exec \"$0\" \"$@\""));
        shell.arg(std::env::current_exe().unwrap());
        Child::start_as(shell, role, dir, "")
    }

    /// Run by `command`, which ends with this binary's path.
    pub(crate) fn start_as(mut command: Command, role: &str, dir: &Path, argument: &str) -> Child {
        command.args(["--exact", "child::child", "--nocapture", "--test-threads=1"]);
        command.env(ROLE, role).env(DIR, dir).env(ARGUMENT, argument);
        let mut process = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let stdout = process.stdout.take().unwrap();
        let said = Arc::new((Mutex::new(Said::default()), Condvar::new()));
        let reader = std::thread::spawn({
            let said = Arc::clone(&said);
            move || listen(BufReader::new(stdout), &said)
        });
        Child { process, said, reader }
    }

    /// Returns once the child has said a line that begins so, or has ended. Tells which.
    pub(crate) fn wait_for(&self, line: &str) -> bool {
        self.wait_for_lines(line, 1, None)
    }

    /// Returns once the child has said so many lines that begin so (true), or has ended or used up its
    /// time (false). A child that says nothing at all for a minute hangs.
    pub(crate) fn wait_for_lines(&self, line: &str, n: u64, most: Option<Duration>) -> bool {
        let (said, more) = &*self.said;
        let mut said = said.lock().unwrap();
        let (begun, mut heard, mut counted) = (Instant::now(), 0, 0);
        loop {
            counted += said.lines[heard..].iter().filter(|l| l.starts_with(line)).count() as u64;
            heard = said.lines.len();
            if counted >= n {
                return true;
            }
            if said.ended || most.is_some_and(|most| begun.elapsed() > most) {
                return false;
            }
            let (next, timeout) = more.wait_timeout(said, Duration::from_secs(60)).unwrap();
            assert!(!timeout.timed_out(), "the child hangs before it says {line:?}");
            said = next;
        }
    }

    /// Whether it ended by itself.
    pub(crate) fn has_ended(&self) -> bool {
        self.said.0.lock().unwrap().ended
    }

    /// SIGKILL. Returns all that it said.
    pub(crate) fn kill(mut self) -> Vec<String> {
        self.process.kill().unwrap();
        self.end().1
    }

    /// Waits for its end.
    pub(crate) fn end(mut self) -> (ExitStatus, Vec<String>) {
        let status = self.process.wait().unwrap();
        self.reader.join().unwrap();
        let lines = std::mem::take(&mut self.said.0.lock().unwrap().lines);
        (status, lines)
    }
}

fn listen(mut from: impl BufRead, (said, more): &(Mutex<Said>, Condvar)) {
    loop {
        let mut line = String::new();
        let ended = from.read_line(&mut line).unwrap() == 0;
        let mut said = said.lock().unwrap();
        said.ended = ended;
        // A line without its end is one that the kill cut.
        if let Some(line) = line.strip_prefix(MARK).and_then(|l| l.strip_suffix('\n')) {
            said.lines.push(line.into());
        }
        more.notify_all();
        if ended {
            return;
        }
    }
}
