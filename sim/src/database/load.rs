//! Bulk loads, and what may be answered to them.

use super::{
    client::{Client, EVERYTHING},
    model::LoadId,
    operation::{Place, Value, key_bytes},
    session::Over,
};
use lightning_db::{Error, env::Env};
use std::{collections::BTreeMap, time::Duration};

type Entries = BTreeMap<Vec<u8>, Vec<u8>>;

/// Why a load ended early.
#[derive(Debug)]
pub(super) enum Ended {
    /// The input failed, as it was to.
    Input,
    /// The database refused it.
    Refused(Error),
}

impl From<Error> for Ended {
    fn from(error: Error) -> Ended {
        Ended::Refused(error)
    }
}

/// Whether an input of these entries fails that is to behind so many of them.
pub(super) fn ends_early(entries: &Entries, fails: Option<u64>) -> bool {
    fails.is_some_and(|fails| fails <= entries.len() as u64)
}

/// The entries one by one, up to where the input fails, if so. `before` is called before each and before
/// the end.
pub(super) fn ending<'a>(
    entries: &'a Entries,
    fails: Option<u64>,
    mut before: impl FnMut() + 'a,
) -> impl Iterator<Item = Result<(&'a [u8], &'a [u8]), Ended>> + 'a {
    let mut left = entries.iter();
    let mut number = 0;
    std::iter::from_fn(move || {
        before();
        number += 1;
        if fails == Some(number - 1) {
            return Some(Err(Ended::Input));
        }
        left.next().map(|(key, value)| Ok((key.as_slice(), value.as_slice())))
    })
}

impl Client {
    /// Loads entries into a keyspace, which is emptied first or not; waits for each for so long, and ends with
    /// an error behind so many.
    pub(super) fn bulk_load(
        &mut self,
        place: Place,
        entries: &[(u64, Value)],
        (empties, nanos, fails): (bool, u64, Option<u64>),
    ) -> Result<(), Over> {
        if empties {
            self.delete_range(place, EVERYTHING)?;
        }
        let process = &self.session.process;
        let (keyspace, space) = self.space(place).clone();
        // Nobody else writes there.
        let alone = place == Place::Own && self.own.is_some();
        let was_empty = match alone {
            true => Some(process.checked_read("a read", keyspace.first())?.is_none()),
            false => None,
        };
        let entries: Entries =
            entries.iter().map(|(key, value)| (key_bytes(*key), self.value(value))).collect();
        let world = process.world();
        let closed = process.closing().done;
        let id = process.model.lock().begin_load(space, entries.clone());
        world.take_told();
        let before = || {
            if let Some(told) = world.take_told() {
                process.model.lock().load_has_place(id, told - 1);
            }
            if nanos > 0 {
                process.boot.env.clock().sleep(Duration::from_nanos(nanos));
            }
        };
        let answer = keyspace.try_bulk_load(ending(&entries, fails, before));
        world.record("bulk load", &[id as u64, u64::from(answer.is_ok())], || {
            format!("{id} of {} entries into {space}: {answer:?}", entries.len())
        });
        match answer {
            Ok(loaded) => {
                process.check_was_open(closed, "bulk_load")?;
                process.model.lock().load_done(id);
                world.count("bulk loads done");
                let whole = loaded == entries.len() as u64 && !ends_early(&entries, fails);
                if whole && was_empty != Some(false) {
                    return Ok(());
                }
                let count = entries.len();
                self.wrong(format!("{loaded} of {count} entries, fails {fails:?}"))
            }
            Err(Ended::Input) => {
                process.model.lock().load_refused(id);
                world.count("bulk loads whose input failed");
                match ends_early(&entries, fails) {
                    true => Ok(()),
                    false => self.wrong("an error that its input did not have".into()),
                }
            }
            Err(Ended::Refused(error)) => self.not_loaded(id, &error, was_empty),
        }
    }

    fn wrong(&self, what: String) -> Result<(), Over> {
        self.session.process.world().violate("bulk", format!("bulk_load answered {what}"));
        Err(Over)
    }

    fn not_loaded(&self, id: LoadId, error: &Error, was_empty: Option<bool>) -> Result<(), Over> {
        let process = &self.session.process;
        process.world().count("bulk loads refused");
        match error {
            Error::Poisoned { .. } => process.model.lock().load_poisoned(id),
            _ => process.model.lock().load_refused(id),
        }
        match error {
            Error::NotEmpty { .. } => match was_empty {
                Some(true) => self.wrong("that an empty keyspace is not".into()),
                _ => Ok(()),
            },
            // Another client is at it.
            Error::InvalidArgument { what: "bulk load", .. } => match was_empty {
                Some(_) => self.wrong("that another client loads its own keyspace".into()),
                None => Ok(()),
            },
            Error::Poisoned { .. } | Error::Closed => {
                process.check_error("I-9", "a bulk load", error)?;
                Err(Over)
            }
            _ => {
                process.check_error("I-9", "a bulk load", error)?;
                let pause = process.dice("not loaded").skewed(100..500_000);
                process.boot.env.clock().sleep(Duration::from_micros(pause));
                Ok(())
            }
        }
    }
}
