//! Reads of a database as it is: their SeqNo is not told, so there must be one that explains all
//! that a read said at once.

use super::{
    super::{
        operation::inside,
        verbs::{Got, Seen},
    },
    Answer, Broken, CommitId, Least, LoadId, Model, Op, ReadBegan, Short, ShortValue, SpaceId,
    broken,
};
use std::collections::BTreeSet;

/// SeqNos from the first, and to the second but not including it.
type Interval = (u64, u64);

/// What explains a claim about a key.
#[derive(Default)]
struct Explained {
    /// SeqNos at which the claim is right.
    at: Vec<Interval>,
    /// A commit without an answer yet that makes it right.
    in_flight: Vec<CommitId>,
    /// A commit that makes it right, though its client was told of poison.
    poisoned: Option<CommitId>,
}

impl Model {
    /// Checks what a read said that began at a moment and has just ended.
    pub(in super::super) fn read_now(
        &mut self,
        space: SpaceId,
        seen: &Seen,
        began: &ReadBegan,
    ) -> Result<(), Broken> {
        if let Some(disorder) = &seen.disorder {
            return broken("I-12", disorder.clone());
        }
        let mut refused = None;
        for loads in self.loads_since(began).sets() {
            match self.explain_read(space, seen, began, &loads) {
                Ok(witnessed) => {
                    witnessed.into_iter().for_each(|id| self.commits[id].seen = true);
                    return Ok(());
                }
                Err(broken) => refused = Some(broken),
            }
        }
        refused.map_or(Ok(()), Err) // there is one set at least
    }

    /// The keys of a keyspace that may have a value, if these loads are in.
    fn known_keys<'a>(
        &'a self,
        space: SpaceId,
        loads: &[LoadId],
    ) -> impl Iterator<Item = &'a Vec<u8>> {
        let base = self.base.contents.get(&space).into_iter().flatten().map(|(key, _)| key);
        let all = (space, vec![])..(space + 1, vec![]);
        let written = self.writers.range(all).map(|((_, key), _)| key);
        let loaded = self.placed(loads).into_iter().flat_map(|(_, ops)| ops.iter());
        let loaded = loaded.filter_map(move |op| match op {
            Op::Put(of, key, _) if *of == space => Some(key),
            _ => None,
        });
        base.chain(written).chain(loaded)
    }

    /// Explains what a read said if these loads are in. Returns the commits without an answer that it shows.
    fn explain_read(
        &self,
        space: SpaceId,
        seen: &Seen,
        began: &ReadBegan,
        loads: &[LoadId],
    ) -> Result<BTreeSet<CommitId>, Broken> {
        let claims = seen.claims(self.known_keys(space, loads));
        let place = self.placed(loads).first().map_or(0, |(place, _)| *place);
        let mut possible = vec![(began.acknowledged_seq.max(place), u64::MAX)];
        let mut witnessed = BTreeSet::new();
        for (key, got) in &claims {
            for got in got {
                let explained = self.explain_claim(space, key, got, loads);
                if explained.in_flight.is_empty() {
                    let before = std::mem::take(&mut possible);
                    possible = common(&before, &explained.at);
                    if possible.is_empty() {
                        return Err(self.unexplained(space, key, got, &explained, &before));
                    }
                } else if let ([only], []) = (&explained.in_flight[..], &explained.at[..]) {
                    witnessed.insert(*only);
                }
            }
        }
        Ok(witnessed)
    }

    /// Checks what a transaction has read of a keyspace at a SeqNo, but for the keys that are its own.
    pub(in super::super) fn right_at(
        &self,
        space: SpaceId,
        seen: &Seen,
        seq: u64,
        began: &ReadBegan,
        is_own: &dyn Fn(&[u8]) -> bool,
    ) -> Result<(), Broken> {
        let loads = self.loads_since(began);
        if loads.are_too_many() {
            return Ok(()); // a long transaction beside many loads: each might be seen or not
        }
        let mut refused = None;
        for loads in loads.sets() {
            let mut claims = seen.claims(self.known_keys(space, &loads)).into_iter();
            let wrong = claims.find_map(|(key, got)| {
                let wrong = |got: &Got| {
                    let explained = self.explain_claim(space, &key, got, &loads);
                    let at = |(from, to): &Interval| (*from..*to).contains(&seq);
                    let right = explained.at.iter().any(at) || !explained.in_flight.is_empty();
                    (!right && !is_own(&key)).then_some(explained.at)
                };
                let at = got.iter().find_map(wrong)?;
                let (key, got) = (Short(&key), ShortValue(got[0].value().map(Vec::as_slice)));
                Some(format!(
                    "key {key} of keyspace {space} reads {got} in a transaction, at SeqNo {seq}, which is right at {at:?}"
                ))
            });
            match wrong {
                None => return Ok(()),
                some => refused = some,
            }
        }
        refused.map_or(Ok(()), |message| broken("transaction", message))
    }

    /// The SeqNos of all states that a view may show which was taken behind the beginning of a read and before a
    /// moment, as far as answers tell.
    pub(in super::super) fn views_between(&self, began: &ReadBegan, until: u64) -> Vec<u64> {
        let later = self.acknowledged.range(began.acknowledged_seq + 1..);
        // Whoever comes behind one that was submitted later has a higher SeqNo.
        let before = |id: &&CommitId| self.commits[**id].submitted < until;
        let later = later.map(|(_, id)| id).take_while(before);
        let later = later.filter_map(|id| self.commits[*id].last_seq());
        std::iter::once(began.acknowledged_seq).chain(later).collect()
    }

    /// The key of a keyspace that the engine has told by its checksum.
    pub(in super::super) fn key_told(&self, space: SpaceId, told: u64) -> Option<Vec<u8>> {
        let all: Vec<_> = (0..self.loads.len()).collect();
        let mut keys = self.known_keys(space, &all);
        keys.find(|key| u64::from(crc32fast::hash(key)) + 1 == told).cloned()
    }

    /// A commit between two SeqNos, the second included, that writes what `ops` write.
    pub(in super::super) fn changed_between(
        &self,
        ops: &[Op],
        after: u64,
        until: u64,
    ) -> Option<CommitId> {
        let between = |id: &CommitId| match self.commits[*id].answer {
            Answer::Acknowledged(seq) => after < seq && seq <= until,
            _ => false,
        };
        ops.iter().find_map(|op| match op {
            Op::Put(space, key, _) | Op::Delete(space, key) => {
                self.commits_on(*space, key).find(between)
            }
            Op::DeleteRange(space, bounds) => {
                let all = (*space, vec![])..(space + 1, vec![]);
                let within = self.writers.range(all).filter(|((_, key), _)| inside(bounds, key));
                within.flat_map(|(_, ids)| ids).copied().find(between)
            }
        })
    }

    /// Checks what a database shows after it was opened, up to a SeqNo, as far as it can be read: each
    /// value for itself.
    pub(in super::super) fn recovered_in_part(
        &self,
        space: SpaceId,
        seen: &Seen,
        seq: u64,
    ) -> Result<(), Broken> {
        if seq < self.base.seq {
            return self.history(false).recovered_in_part(space, seen, seq);
        }
        if let Some(disorder) = &seen.disorder {
            return broken("I-12", disorder.clone());
        }
        let sets = self.loads_after_boot(Least::Vouched(0)).sets();
        let all = sets.first().map_or(&[][..], |all| all);
        for (key, got) in seen.claims(self.known_keys(space, all)) {
            for got in got {
                let right = sets.iter().any(|loads| {
                    let explained = self.explain_claim(space, &key, &got, loads);
                    let at = |(from, to): &Interval| (*from..*to).contains(&seq);
                    explained.at.iter().any(at)
                        || explained.poisoned.is_some()
                        || !explained.in_flight.is_empty()
                });
                if !right {
                    let got = match &got {
                        Got::Value(value) => ShortValue(value.as_deref()).to_string(),
                        Got::Present(present) => format!("present: {present}"),
                    };
                    let key = Short(&key);
                    let message = format!(
                        "key {key} of keyspace {space} reads {got}, which is wrong at SeqNo {seq}"
                    );
                    return broken("I-4", message);
                }
            }
        }
        Ok(())
    }

    /// At which SeqNos a claim about a key is right.
    fn explain_claim(&self, space: SpaceId, key: &[u8], got: &Got, loads: &[LoadId]) -> Explained {
        let mut explained = Explained::default();
        let base = self.base.contents.get(&space).and_then(|entries| entries.get(key));
        let mut states = vec![(self.base.seq, got.fits(base.map(Vec::as_slice)))];
        for id in self.commits_on(space, key) {
            let commit = &self.commits[id];
            let Some(value) = commit.effect(space, key) else {
                continue;
            };
            match (commit.answer, got.fits(value)) {
                (Answer::Acknowledged(seq), fits) => states.push((seq, fits)),
                (Answer::InFlight, true) => explained.in_flight.push(id),
                (Answer::Unknown, true) => explained.poisoned = Some(id),
                (Answer::InFlight | Answer::Unknown | Answer::Refused, _) => {}
            }
        }
        explained.in_flight.dedup();
        // Behind the commits, also behind that in whose place they stand.
        for (place, ops) in self.placed(loads) {
            states.extend(ops.effect(space, key).map(|value| (place, got.fits(value))));
        }
        states.sort_by_key(|(seq, _)| *seq);
        states.dedup();
        for (n, (seq, fits)) in states.iter().enumerate() {
            if *fits {
                explained.at.push((*seq, states.get(n + 1).map_or(u64::MAX, |next| next.0)));
            }
        }
        explained
    }

    fn unexplained(
        &self,
        space: SpaceId,
        key: &[u8],
        got: &Got,
        explained: &Explained,
        possible: &[Interval],
    ) -> Broken {
        if let Some(id) = explained.poisoned {
            let message = format!(
                "{} is visible, though its client was told that the database is poisoned",
                self.describe(id)
            );
            return Broken { invariant: "I-8", message };
        }
        let got = match got {
            Got::Value(value) => ShortValue(value.as_deref()).to_string(),
            Got::Present(present) => format!("present: {present}"),
        };
        let message = format!(
            "key {} of keyspace {space} reads {got}, which is right at the SeqNos {:?} only, but \
             what was acknowledged before, and the rest of the read, need one of {possible:?}",
            Short(key),
            explained.at,
        );
        Broken { invariant: "I-12", message }
    }
}

/// What two sets of SeqNos have in common.
fn common(a: &[Interval], b: &[Interval]) -> Vec<Interval> {
    let pairs = a.iter().flat_map(|a| b.iter().map(move |b| (a.0.max(b.0), a.1.min(b.1))));
    pairs.filter(|(start, end)| start < end).collect()
}

#[cfg(test)]
mod tests {
    use super::{
        super::{DEFAULT_SPACE, Op},
        *,
    };
    use std::time::Duration;

    fn put(model: &mut Model, key: &str, value: &str, seq: Option<u64>) {
        let op = Op::Put(DEFAULT_SPACE, key.into(), value.into());
        let id = model.submit(vec![op], false);
        if let Some(seq) = seq {
            model.acknowledge(id, seq, Duration::ZERO).expect("a fresh SeqNo");
        }
    }

    fn seen(values: &[(&str, Option<&str>)]) -> Seen {
        let points = values.iter().map(|(key, value)| {
            (key.as_bytes().to_vec(), Got::Value(value.map(|v| v.as_bytes().to_vec())))
        });
        Seen { points: points.collect(), ..Seen::default() }
    }

    /// A read that mixes two moments, and one that is older than what was acknowledged before it.
    #[test]
    fn a_read_shows_one_moment_and_none_that_has_passed() {
        let mut model = Model::new(false);
        put(&mut model, "a", "a1", Some(1));
        let early = model.begin_read();
        put(&mut model, "b", "b2", Some(2));
        put(&mut model, "a", "a3", Some(3));
        put(&mut model, "b", "b4", Some(4));
        put(&mut model, "c", "c5", None);
        let late = model.begin_read();
        let mut check = |began: &ReadBegan, values: &[(&str, Option<&str>)]| {
            let result = model.read_now(DEFAULT_SPACE, &seen(values), began);
            result.map_err(|broken| broken.invariant)
        };
        assert_eq!(check(&early, &[("a", Some("a1")), ("b", None)]), Ok(()));
        assert_eq!(check(&early, &[("a", Some("a1")), ("b", Some("b2"))]), Ok(()));
        assert_eq!(check(&early, &[("a", Some("a3")), ("b", Some("b2"))]), Ok(()));
        assert_eq!(check(&early, &[("a", Some("a1")), ("b", Some("b4"))]), Err("I-12"));
        assert_eq!(check(&early, &[("a", Some("a3")), ("b", None)]), Err("I-12"));
        assert_eq!(check(&late, &[("a", Some("a1"))]), Err("I-12"));
        assert_eq!(check(&late, &[("a", Some("a3")), ("c", Some("c5"))]), Ok(()));
        assert_eq!(check(&late, &[("c", None)]), Ok(()));
        assert_eq!(check(&late, &[("c", Some("never"))]), Err("I-12"));
    }

    /// A snapshot that shows one of several commits shows which only by what that one alone wrote. Seed
    /// 78 once accused a commit that never reached the log.
    #[test]
    fn a_commit_is_seen_by_what_it_alone_wrote() {
        let lost = |ops: [Op; 2], shown: &[(&str, &str)]| {
            let mut model = Model::new(false);
            ops.into_iter().for_each(|op| _ = model.submit(vec![op], true));
            let entry = |(key, value): &(&str, &str)| (Vec::from(*key), Vec::from(*value));
            let shown = shown.iter().map(entry).collect();
            let read = std::iter::once((DEFAULT_SPACE, shown)).collect();
            assert!(model.read_at(1, &ReadBegan::default(), &read).is_ok());
            model.crashed(true);
            model
                .recovered(0, Default::default(), super::super::Least::Promised)
                .map_err(|broken| broken.invariant)
        };
        let delete = |key: &str| Op::Delete(DEFAULT_SPACE, key.into());
        let put = |key: &str, value: &str| Op::Put(DEFAULT_SPACE, key.into(), value.into());
        assert_eq!(lost([delete("a"), delete("b")], &[]), Ok(()));
        assert_eq!(lost([put("a", "same"), put("a", "same")], &[("a", "same")]), Ok(()));
        assert_eq!(lost([put("a", "1"), put("a", "2")], &[("a", "2")]), Err("I-14"));
    }

    #[test]
    fn a_scan_that_leaves_a_key_out_is_wrong() {
        let mut model = Model::new(false);
        put(&mut model, "a", "a1", Some(1));
        put(&mut model, "b", "b2", Some(2));
        let began = model.begin_read();
        let all = (std::ops::Bound::Unbounded, std::ops::Bound::Unbounded);
        let mut seen = Seen { covered: vec![all], ..Seen::default() };
        seen.entries.insert("b".into(), "b2".into());
        let left_out = model.read_now(DEFAULT_SPACE, &seen, &began);
        assert_eq!(left_out.map_err(|broken| broken.invariant), Err("I-12"));
        seen.entries.insert("a".into(), "a1".into());
        assert!(model.read_now(DEFAULT_SPACE, &seen, &began).is_ok());
    }
}
