//! Clients that follow the commits to a keyspace, also across crashes: the model knows where each of them is.

use super::{
    client::Client,
    model::{From, Op, SpaceId},
    operation::Place,
    session::{OpenSpace, Over},
};
use crate::world::NO_SPACE;
use lightning_db::{Error, Result, SeqNo, Subscription};
use std::{ops::Bound, time::Duration};

/// A subscription, and to which life of a keyspace.
pub(super) struct Following {
    commits: Subscription,
    space: SpaceId,
}

impl Client {
    /// Takes up to `most` commits, each waited for. Subscribes first, if `again` or not done yet.
    pub(super) fn follow(
        &mut self,
        place: Place,
        again: bool,
        most: u64,
        patience: Duration,
    ) -> Result<(), Over> {
        let space = self.space(place).clone();
        if place == Place::Own {
            self.come_to_the_end(space.1)?;
        }
        if again {
            self.following.retain(|following| following.space != space.1);
        }
        if !self.following.iter().any(|following| following.space == space.1) {
            if self.own.as_ref().is_some_and(|(_, id)| *id == space.1) {
                self.check_earlier(&space)?;
            }
            let Some(commits) = self.subscribe(&space)? else { return Ok(()) };
            self.following.push(Following { commits, space: space.1 });
        }
        for _ in 0..most {
            if !self.take_commit(space.1, patience)? {
                break;
            }
        }
        Ok(())
    }

    /// A subscription to what was dropped yields what was committed before, and then says so.
    fn come_to_the_end(&mut self, now: SpaceId) -> Result<(), Over> {
        let shared: Vec<_> = self.session.shared.iter().map(|(_, (_, id))| *id).collect();
        let is_gone =
            |following: &Following| following.space != now && !shared.contains(&following.space);
        while let Some(space) = self.following.iter().find(|f| is_gone(f)).map(|f| f.space) {
            while self.take_commit(space, Duration::ZERO)? {}
            if self.following.iter().any(|following| following.space == space) {
                return Ok(()); // a fault; the next time it is tried again
            }
        }
        Ok(())
    }

    /// Nobody goes on in a keyspace with a copy of an earlier one that had its name.
    fn check_earlier(&self, (keyspace, space): &OpenSpace) -> Result<(), Over> {
        let shared: Vec<_> = self.session.shared.iter().map(|(_, (_, id))| *id).collect();
        let process = &self.session.process;
        let earlier = process.model.lock().earlier_positions(self.number, *space);
        let earlier =
            earlier.into_iter().filter(|(of, _)| !shared.contains(of)).map(|(_, from)| from).max();
        let Some(from) = earlier else { return Ok(()) };
        match self.perhaps_committing(*space, || keyspace.subscribe(SeqNo(from)))? {
            Ok(_) => {
                let what = format!("keyspace {space} is followed from {from}, as an earlier one");
                process.world().violate("feed", what);
                Err(Over)
            }
            Err(Error::Lagged { .. }) => {
                process.world().count("feeds of an earlier keyspace refused");
                Ok(())
            }
            Err(error) => process.check_error("feed", "a subscription", &error),
        }
    }

    fn subscribe(&mut self, (keyspace, space): &OpenSpace) -> Result<Option<Subscription>, Over> {
        let follower = (self.number, *space);
        let from = self.session.process.model.lock().follows_from(follower);
        let from = match from {
            From::Seq(seq) => seq,
            From::Snapshot => {
                let process = &self.session.process;
                let snapshot = process.checked_read("a snapshot", self.session.db.snapshot())?;
                // Nobody goes on from what a crash may take back.
                let made = self.session.db.checkpoint();
                if let Err(error) = made {
                    return process.check_error("I-9", "a checkpoint", &error).map(|()| None);
                }
                let seq = snapshot.seq().0;
                let mut model = process.model.lock();
                model.durable(seq);
                model.begins_from(follower, seq + 1);
                process.world().count("feeds begun with a snapshot");
                seq + 1
            }
        };
        let closed = self.session.process.closing().done;
        let loads = self.session.process.model.lock().loads_in(*space);
        let answer = self.perhaps_committing(*space, || keyspace.subscribe(SeqNo(from)))?;
        let process = &self.session.process;
        process.world().record("subscribe", &[from, u64::from(answer.is_ok())], || {
            format!("keyspace {space} from {from}: {:?}", answer.as_ref().map(drop))
        });
        match answer {
            Ok(commits) => {
                process.check_was_open(closed, "subscribe")?;
                let result = process.model.lock().goes_on(follower, loads);
                process.check(result)?;
                process.world().count("feeds begun");
                Ok(Some(commits))
            }
            Err(error) => self.not_followed(*space, (from, from), &error, false).map(|()| None),
        }
    }

    /// Takes a commit, if there is one.
    fn take_commit(&mut self, space: SpaceId, patience: Duration) -> Result<bool, Over> {
        let Some(at) = self.following.iter().position(|following| following.space == space) else {
            return Ok(false);
        };
        let mut following = self.following.swap_remove(at);
        let from = following.commits.position().0;
        let loads = self.session.process.model.lock().loads_in(space);
        let closed = self.session.process.closing().done;
        let answer = self.perhaps_committing(space, || following.commits.next(Some(patience)))?;
        let process = &self.session.process;
        let to = following.commits.position().0;
        process.world().record("follow", &[from, to], || {
            let what = answer.as_ref().map(|next| next.as_ref().map(|c| c.operations().len()));
            format!("keyspace {space} from {from} to {to}: {what:?}")
        });
        let next = match answer {
            Ok(next) => next,
            Err(Error::Closed) => {
                return self.not_followed(space, (from, to), &Error::Closed, true).map(|()| false);
            }
            Err(error) => {
                let ended = matches!(error, Error::Lagged { .. } | Error::KeyspaceNotFound { .. });
                if !ended {
                    self.following.push(following);
                }
                return self.not_followed(space, (from, to), &error, true).map(|()| false);
            }
        };
        process.check_was_open(closed, "next of a subscription")?;
        let yielded = next.as_ref().map(|commit| (commit.seq().0, commit.operations()));
        let follower = (self.number, space);
        let result = {
            let mut model = process.model.lock();
            let followed = model.followed(follower, (from, to), yielded);
            followed.and_then(|()| model.goes_on(follower, loads))
        };
        process.check(result)?;
        self.following.push(following);
        if next.is_some() {
            process.world().count("commits followed");
        }
        Ok(next.is_some())
    }

    /// Does what may use up a SeqNo, if it is refused because of a bulk load, which may come meanwhile, or of an earlier
    /// keyspace of the name.
    fn perhaps_committing<T>(
        &self,
        space: SpaceId,
        call: impl FnOnce() -> Result<T>,
    ) -> Result<Result<T>, Over> {
        let process = &self.session.process;
        let range = (Bound::Included(vec![]), Bound::Excluded(vec![]));
        let nothing = vec![Op::DeleteRange(space, range)];
        let commit = process.model.lock().submit(nothing, process.syncs_by_default());
        process.world().take_told();
        let answer = call();
        let told = process.world().take_told();
        let now = process.world().now();
        let mut model = process.model.lock();
        match (&answer, told) {
            (Err(Error::Poisoned { .. }), Some(_)) => model.poison(commit),
            (_, Some(seq)) => {
                process.world().count("commits of nothing");
                let result = model.acknowledge(commit, seq, now);
                drop(model);
                process.check(result)?;
            }
            (_, None) => model.refuse(commit),
        }
        Ok(answer)
    }

    /// What may keep a subscription from going on.
    fn not_followed(
        &mut self,
        space: SpaceId,
        (from, to): (u64, u64),
        error: &Error,
        attached: bool,
    ) -> Result<(), Over> {
        let process = &self.session.process;
        let wrong = |what: String| {
            process
                .world()
                .violate("feed", format!("from SeqNo {from} of keyspace {space}: {what}"));
            Err(Over)
        };
        match error {
            Error::Lagged { wanted, oldest } => {
                if !(from..=to).contains(&wanted.0) || oldest <= wanted {
                    return wrong(error.to_string());
                }
                let mut model = process.model.lock();
                let kept = attached
                    && process.workload.settings.retention_bytes.is_none()
                    && NO_SPACE.iter().all(|kind| process.world().counted(kind) == 0)
                    && !model.may_be_loaded(space);
                model.goes_on_from((self.number, space), From::Snapshot);
                drop(model);
                process.world().count("feeds that lagged");
                if kept { wrong(format!("{error}, though it was to be kept")) } else { Ok(()) }
            }
            Error::KeyspaceNotFound { .. } => {
                let is_there = self.own.as_ref().is_some_and(|(_, id)| *id == space)
                    || self.session.shared.iter().any(|(_, (_, id))| *id == space);
                if is_there { wrong(error.to_string()) } else { Ok(()) }
            }
            Error::Closed => process.check_error("feed", "a subscription", error).and(Err(Over)),
            error => process.check_error("feed", "a subscription", error),
        }
    }
}
