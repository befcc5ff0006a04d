//! The built binary, run as a user runs it: every command, every exit code, and the promise that
//! what goes in comes out.

mod csv;
mod data;
mod demo;
mod exits;

use std::{
    ffi::OsStr,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};
use tempfile::TempDir;

/// A directory for a test, with commands that run in it.
struct Place(TempDir);

/// What a command did.
struct Ran {
    code: i32,
    out: Vec<u8>,
    err: String,
}

impl Place {
    fn new() -> Place {
        Place(tempfile::tempdir().expect("a temporary directory"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), bytes).expect("a file");
    }

    /// Runs the binary in this place.
    fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Ran {
        self.run_with(args, b"")
    }

    /// Runs it with something on standard input.
    fn run_with<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>, input: &[u8]) -> Ran {
        let mut child = command(self.0.path())
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let mut stdin = child.stdin.take().expect("a pipe");
        let input = input.to_vec();
        // It may end without reading it all.
        let feed = std::thread::spawn(move || {
            let _ = stdin.write_all(&input);
        });
        let output = child.wait_with_output().expect("the binary ends");
        feed.join().expect("the feeding thread");
        Ran::of(output)
    }

    /// Runs words separated by spaces, which must succeed, and returns what it printed.
    fn ok(&self, words: &str) -> String {
        let ran = self.run(words.split(' '));
        assert_eq!(ran.code, 0, "{words}: {}", ran.err);
        ran.text()
    }

    /// Runs words separated by spaces, which must end with this code, and returns its message.
    fn fails(&self, code: i32, words: &str) -> String {
        let ran = self.run(words.split(' '));
        assert_eq!(ran.code, code, "{words}: {}", ran.err);
        assert_eq!(ran.text(), "", "{words}");
        ran.err
    }
}

impl Ran {
    fn of(output: Output) -> Ran {
        Ran {
            code: output.status.code().unwrap_or(-1),
            out: output.stdout,
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    fn text(&self) -> String {
        String::from_utf8(self.out.clone()).expect("output is UTF-8")
    }
}

fn command(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lightning-cli"));
    command.current_dir(dir);
    command
}
