//! Why a command did not do what it was asked to, and the exit code that says so.

use lightning_db::Error;
use std::{fmt, io};

pub(crate) const USAGE: u8 = 2;
pub(crate) const NOT_FOUND: u8 = 3;
pub(crate) const CORRUPTION: u8 = 4;
pub(crate) const LOCKED: u8 = 5;

pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

/// Why a command ended early.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Whoever read our output has seen enough. Not an error.
    Hangup,
    /// The arguments make no sense.
    Usage(String),
    /// What was to be read is not there.
    NotFound(String),
    /// The database said no, while doing what is named (or speaking for itself).
    Engine(Option<String>, Error),
    /// What is on disk is not what was written.
    Corrupt(String),
    /// Anything else: input that cannot be read, output that cannot be written.
    Other(String),
}

impl Failure {
    /// The exit code.
    pub(crate) fn code(&self) -> u8 {
        match self {
            Failure::Hangup => 0,
            Failure::Usage(_) => USAGE,
            Failure::NotFound(_) => NOT_FOUND,
            Failure::Corrupt(_) => CORRUPTION,
            Failure::Other(_) => 1,
            Failure::Engine(_, error) if error.is_corruption() => CORRUPTION,
            Failure::Engine(_, error) => match error {
                Error::NotFound { .. } | Error::KeyspaceNotFound { .. } => NOT_FOUND,
                Error::Locked { .. } => LOCKED,
                Error::InvertedRange => USAGE,
                _ => 1,
            },
        }
    }

    /// What writing to standard output ended with.
    pub(crate) fn output(error: io::Error) -> Failure {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::Hangup,
            _ => Failure::Other(format!("cannot write to standard output: {error}")),
        }
    }

    /// What reading a value piece by piece ended with: within it is the database's error.
    pub(crate) fn value(error: io::Error) -> Failure {
        match error.downcast::<Error>() {
            Ok(error) => error.into(),
            Err(error) => Failure::Other(format!("cannot read a value: {error}")),
        }
    }

    /// A file that is not the database's could not be used.
    pub(crate) fn file(doing: &str, file: impl fmt::Display, error: io::Error) -> Failure {
        Failure::Other(format!("cannot {doing} {file}: {error}"))
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Engine(None, error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Hangup => f.write_str("nobody reads the output"),
            Failure::Usage(why)
            | Failure::NotFound(why)
            | Failure::Corrupt(why)
            | Failure::Other(why) => f.write_str(why),
            Failure::Engine(None, error) => error.fmt(f),
            Failure::Engine(Some(doing), error) => write!(f, "{doing}: {error}"),
        }
    }
}

/// Says what was being done when the database said no.
pub(crate) trait While<T> {
    /// Names what was being done.
    fn doing(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T> While<T> for lightning_db::Result<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| Failure::Engine(Some(what()), error))
    }
}
