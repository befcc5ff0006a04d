//! Changes of one key that depend on what is there. Each is one step: what it says was there was so just before its
//! own commit. One that changes nothing has seen something that was so between its beginning and its end.

use super::{
    client::Client,
    model::{CommitId, Op, SpaceId},
    operation::{Expects, Level, Place, Read, Value, key_bytes},
    session::{OpenSpace, Over},
    transactions::{Begun, Done, Noted, Script, Stop},
    verbs::{Got, Seen, end_of},
};
use crate::world::Listener;
use lightning_db::Result;
use parking_lot::Mutex;
use std::{ops::Bound, sync::Arc};

/// The commit of a pop that is under way, and the key that it takes out.
type Popping = Arc<Mutex<Option<(CommitId, Vec<u8>)>>>;

fn of_one_key(key: &[u8], value: Option<Vec<u8>>) -> Seen {
    Seen { points: vec![(key.to_vec(), Got::Value(value))], ..Seen::default() }
}

impl Client {
    pub(super) fn compare_and_swap(
        &self,
        (place, key): (Place, u64),
        expects: Expects,
        value: Option<&Value>,
        nanos: u64,
    ) -> Result<(), Over> {
        let (process, db) = (&self.session.process, &self.session.db);
        let old = match expects {
            Expects::Nothing => None,
            Expects::Found => match self.seen(place, &Read::Get(key))? {
                None => return Ok(()),
                Some(seen) => seen.points.first().and_then(|(_, got)| got.value().cloned()),
            },
            Expects::Other => Some(self.value(&Value { bytes: 16, random: false })),
        };
        self.sleep(nanos);
        let (keyspace, space) = self.space(place).clone();
        let (key, new) = (key_bytes(key), value.map(|value| self.value(value)));
        let (begun, closed) = (self.about_to_begin(), process.closing().done);
        let mut done = Done { complete: true, ..Done::default() };
        done.own.of(space).entries.insert(key.clone(), new.clone());
        self.submit_transaction(&mut done, process.syncs_by_default());
        process.world().take_told();
        let (expected, new) = (old.as_deref(), new.as_deref());
        let answer = match place {
            Place::Default => db.compare_and_swap(&key, expected, new),
            _ => keyspace.compare_and_swap(&key, expected, new),
        };
        let ended = match answer {
            Ok(Ok(())) => {
                self.saw(&mut done, space, of_one_key(&key, old), begun);
                Ok(process.world().take_told().unwrap_or(0))
            }
            Ok(Err(found)) if found == old => {
                return self.wrong_step("compare_and_swap found what it was to find, and refused");
            }
            Ok(Err(found)) => {
                process.world().count("compare_and_swap finds something else");
                self.changed_nothing(&mut done, (space, of_one_key(&key, found)), begun)?;
                Ok(0)
            }
            Err(error) => Err(Stop::Failed(error)),
        };
        self.step_ended(Level::Snapshot, ended, done, (begun, closed))
    }

    pub(super) fn fetch_and_update(
        &self,
        (place, key): (Place, u64),
        value: Option<&Value>,
        nanos: u64,
    ) -> Result<(), Over> {
        let (process, db) = (&self.session.process, &self.session.db);
        let (keyspace, space) = self.space(place).clone();
        let key = key_bytes(key);
        let (begun, closed) = (self.about_to_begin(), process.closing().done);
        let (mut done, mut last) = (Done::default(), None);
        let mut change = |old: Option<&[u8]>| {
            if self.refuse_try(&mut done) {
                process.world().count("transactions tried again");
            }
            last = old.map(<[u8]>::to_vec);
            self.sleep(nanos);
            let new = value.map(|value| self.value(value));
            done.own.of(space).entries.insert(key.clone(), new.clone());
            self.submit_transaction(&mut done, process.syncs_by_default());
            process.world().take_told();
            new
        };
        let answer = match place {
            Place::Default => db.fetch_and_update(&key, &mut change),
            _ => keyspace.fetch_and_update(&key, &mut change),
        };
        let ended = match answer {
            Ok(found) if found != last => {
                return self.wrong_step("fetch_and_update returns what it has not shown");
            }
            Ok(found) => {
                self.saw(&mut done, space, of_one_key(&key, found), begun);
                Ok(process.world().take_told().unwrap_or(0))
            }
            Err(error) => Err(Stop::Failed(error)),
        };
        self.step_ended(Level::Snapshot, ended, done, (begun, closed))
    }

    /// `pop_first` or `pop_last`. The engine tells which key it takes out, so that it is known also where no answer
    /// comes.
    pub(super) fn pop(&self, place: Place, last: bool) -> Result<(), Over> {
        let (process, db) = (&self.session.process, &self.session.db);
        let world = process.world();
        let (keyspace, space): OpenSpace = self.space(place).clone();
        let (begun, closed) = (self.about_to_begin(), process.closing().done);
        let popping = Popping::default();
        let listening = world.listen("pop.found", self.pops(space, &popping));
        world.take_told();
        let answer = match (place, last) {
            (Place::Default, false) => db.pop_first(),
            (Place::Default, true) => db.pop_last(),
            (_, false) => keyspace.pop_first(),
            (_, true) => keyspace.pop_last(),
        };
        drop(listening);
        let mut done = Done { complete: true, ..Done::default() };
        let taken = popping.lock().take();
        if let Some((id, key)) = &taken {
            done.submitted = Some(*id);
            done.own.of(space).entries.insert(key.clone(), None);
        }
        let up_to = |key| match last {
            false => (Bound::Unbounded, Bound::Included(key)),
            true => (Bound::Included(key), Bound::Unbounded),
        };
        let ended = match answer {
            Ok(Some((key, _))) if taken.is_none_or(|(_, taken)| taken != key) => {
                return self.wrong_step("a pop returns a key that it has not found");
            }
            Ok(Some(entry)) => {
                self.saw(&mut done, space, end_of(Some(entry), up_to), begun);
                Ok(world.take_told().unwrap_or(0))
            }
            Ok(None) => {
                world.count("pops that find nothing");
                self.changed_nothing(&mut done, (space, end_of(None, up_to)), begun)?;
                Ok(0)
            }
            Err(error) => Err(Stop::Failed(error)),
        };
        self.step_ended(Level::Serializable, ended, done, (begun, closed))
    }

    /// Submits what a pop takes out once it is told, anew in each try.
    fn pops(&self, space: SpaceId, popping: &Popping) -> Listener {
        let process = &self.session.process;
        let (model, popping) = (Arc::clone(&process.model), Arc::clone(popping));
        let sync = process.syncs_by_default();
        Arc::new(move |told| {
            let (mut model, mut popping) = (model.lock(), popping.lock());
            if let Some((id, _)) = popping.take() {
                model.refuse(id); // the try before has not committed, and never will
            }
            let key = model.key_told(space, told);
            *popping =
                key.map(|key| (model.submit(vec![Op::Delete(space, key.clone())], sync), key));
        })
    }

    /// Notes what was there just before the commit.
    fn saw(&self, done: &mut Done, space: SpaceId, seen: Seen, begun: Begun) {
        let own = Default::default();
        done.noted.push(Noted { space, seen, own, began: begun.read, for_update: true });
    }

    /// What was submitted has not committed, and never will. Returns whether there was something.
    fn refuse_try(&self, done: &mut Done) -> bool {
        let tried = std::mem::take(done);
        done.complete = true;
        tried.submitted.inspect(|id| self.session.process.model.lock().refuse(*id)).is_some()
    }

    /// Checks what one has seen that changes nothing.
    fn changed_nothing(
        &self,
        done: &mut Done,
        (space, seen): (SpaceId, Seen),
        begun: Begun,
    ) -> Result<(), Over> {
        let process = &self.session.process;
        self.refuse_try(done);
        let result = process.model.lock().read_now(space, &seen, &begun.read);
        process.check(result)?;
        self.saw(done, space, seen, begun);
        Ok(())
    }

    fn step_ended(
        &self,
        level: Level,
        ended: Result<u64, Stop>,
        mut done: Done,
        (begun, closed): (Begun, bool),
    ) -> Result<(), Over> {
        if let Ok(seq) = &ended {
            self.session.process.check_was_open(closed, "a change of one key")?;
            // What it saw was not told, but for what it must have seen at least.
            done.seq = seq.saturating_sub(1);
        }
        self.transaction_ended(&Script::of_one(level), ended, done, begun)
    }

    fn wrong_step(&self, what: &str) -> Result<(), Over> {
        self.session.process.world().violate("atomic", what.into());
        Err(Over)
    }
}
