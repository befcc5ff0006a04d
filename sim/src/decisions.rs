//! What interferes with the tasks of one boot, each time by name and number: which fault strikes
//! at which pass of its site, where tasks are preempted, which buggified branch is taken.
//!
//! Drawn, each site has a stream of its own; listed, exactly what the list says happens, and
//! leaving one out does not move the others. What was drawn is written down, and gives the list.

use crate::site::Site;
use lightning_faults::{Dice, site_hash};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, time::Duration};

/// Who goes on when several tasks can.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Any, anew each time.
    #[default]
    Uniform,
    /// The one with the highest priority, which is drawn once for each task. Preempted tasks fall
    /// behind all others. Finds what needs few, but precise, switches.
    Priorities,
}

/// What happens to a task that is preempted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Act {
    Pause(Duration),
    Demote,
}

/// A fault, or a branch of the engine that is taken for once: at which pass of its site, counted
/// from 0 in each boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Strike {
    /// Where.
    pub site: Site,
    /// When.
    pub pass: u64,
}

/// A preemption: at which pass of its site by a task, counted from 0 in each boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preemption {
    /// Where.
    pub site: Site,
    /// Whom.
    pub task: String,
    /// When.
    pub pass: u64,
    /// For how long. Without it the task falls behind all others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause_nanos: Option<u64>,
}

/// All of one boot.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interference {
    /// Faults, and branches taken.
    pub strikes: Vec<Strike>,
    /// Preemptions.
    pub preemptions: Vec<Preemption>,
    /// Preemptions are drawn all the same, in place of those listed.
    #[serde(skip)]
    pub draws_preemptions: bool,
}

/// A site, and the task that passes it where that matters.
type Place = (u64, u64);

/// What strikes a place besides what strikes it anyway.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Aimed {
    /// In which share of the passes; 0 if this one is not meant.
    pub(crate) rate: f64,
    /// How often in the boot, at most.
    pub(crate) most: u64,
}

#[derive(Default)]
struct Passes {
    passes: u64,
    /// The pass of the next strike, once it was drawn, and how many were drawn before.
    next: Option<u64>,
    drawn: u64,
}

impl Passes {
    /// Counts a pass, and draws from a stream if it strikes.
    fn strikes(&mut self, key: u64, place: Place, rate: f64) -> Option<Dice> {
        let pass = self.passes;
        self.passes += 1;
        if rate <= 0.0 {
            return None;
        }
        // The gap to the next strike is drawn, so that a pass without one costs no random number.
        let draw = |number: u64| {
            let mut dice = Dice::of_hash(key, place.0.rotate_left(7) ^ place.1, number);
            let gap = dice.unit().ln() / (1.0 - rate).ln();
            (gap as u64, dice)
        };
        let next = *self.next.get_or_insert_with(|| pass.saturating_add(draw(0).0));
        if pass < next {
            return None;
        }
        self.drawn += 1;
        let (gap, dice) = draw(self.drawn);
        self.next = Some(pass.saturating_add(1).saturating_add(gap));
        Some(dice)
    }
}

/// See the [module](self).
pub(crate) struct Decisions {
    key: u64,
    places: BTreeMap<Place, Passes>,
    /// Passes that were aimed at.
    aimed: BTreeMap<Place, Passes>,
    listed: Option<BTreeMap<Place, BTreeMap<u64, Option<u64>>>>,
    draws_preemptions: bool,
    pub(crate) recorded: Interference,
}

impl Decisions {
    /// Of a boot: its seed, its stream, and the list, if there is one.
    pub(crate) fn new(seed: u64, stream: u64, listed: Option<&Interference>) -> Decisions {
        let draws_preemptions = listed.is_none_or(|list| list.draws_preemptions);
        let listed = listed.map(|list| {
            let mut listed: BTreeMap<Place, BTreeMap<u64, Option<u64>>> = BTreeMap::new();
            for strike in &list.strikes {
                let place = (site_hash(strike.site.name()), 0);
                listed.entry(place).or_default().insert(strike.pass, None);
            }
            for p in list.preemptions.iter().filter(|_| !draws_preemptions) {
                let place = (site_hash(p.site.name()), site_hash(&p.task));
                listed.entry(place).or_default().insert(p.pass, p.pause_nanos);
            }
            listed
        });
        let key = seed ^ stream.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let (places, aimed, recorded) = Default::default();
        Decisions { key, places, aimed, listed, draws_preemptions, recorded }
    }

    /// Whether something that happens in this share of the passes of a site happens in this one.
    pub(crate) fn strikes(&mut self, site: &'static str, rate: f64, aimed: Option<Aimed>) -> bool {
        self.struck(site, rate, aimed).is_some()
    }

    /// The same; tells which pass it is.
    pub(crate) fn struck(
        &mut self,
        site: &'static str,
        rate: f64,
        aimed: Option<Aimed>,
    ) -> Option<u64> {
        let place = (site_hash(site), 0);
        let Struck { pass, .. } = match self.listed {
            None => self.draws(place, rate, aimed)?,
            Some(_) => self.lists(place)?,
        };
        self.recorded.strikes.push(Strike { site: Site::known(site), pass });
        Some(pass)
    }

    /// Whether a task is preempted at this pass of a site.
    pub(crate) fn preempts(
        &mut self,
        site: &'static str,
        (task, hash): (&str, u64),
        rate: f64,
        order: Order,
        aimed: Option<(Aimed, Duration)>,
    ) -> Option<Act> {
        let (aimed, longest) = aimed.unzip();
        let mut struck = match self.draws_preemptions {
            true => self.draws((site_hash(site), hash), rate, aimed)?,
            false => self.lists((site_hash(site), hash))?,
        };
        let pause_nanos = match (struck.listed, order) {
            (Some(listed), _) => listed,
            (None, _) if struck.aimed => {
                Some(1 + struck.dice.below(longest.unwrap_or_default().as_nanos() as u64))
            }
            (None, Order::Priorities) => None,
            (None, Order::Uniform) => {
                let longest = struck.dice.pick(&[1_000, 20_000, 1_000_000]);
                Some(1 + struck.dice.below(longest))
            }
        };
        let (site, task, pass) = (Site::known(site), task.into(), struck.pass);
        self.recorded.preemptions.push(Preemption { site, task, pass, pause_nanos });
        Some(pause_nanos.map_or(Act::Demote, |nanos| Act::Pause(Duration::from_nanos(nanos))))
    }

    fn lists(&mut self, place: Place) -> Option<Struck> {
        let list = self.listed.as_ref()?.get(&place)?;
        let place = self.places.entry(place).or_default();
        let pass = place.passes;
        place.passes += 1;
        let listed = Some(*list.get(&pass)?);
        Some(Struck { pass, dice: Dice::new(0, "listed", 0), listed, aimed: false })
    }

    fn draws(&mut self, place: Place, rate: f64, aimed: Option<Aimed>) -> Option<Struck> {
        if rate <= 0.0 && aimed.is_none() {
            return None;
        }
        let passes = self.places.entry(place).or_default();
        let pass = passes.passes;
        let drawn = passes.strikes(self.key, place, rate);
        let aimed = aimed.filter(|aimed| aimed.rate > 0.0).and_then(|aimed| {
            let passes = self.aimed.entry(place).or_default();
            let struck = passes.strikes(!self.key, place, aimed.rate)?;
            (passes.drawn <= aimed.most).then_some(struck)
        });
        let struck = |dice, aimed| Struck { pass, dice, listed: None, aimed };
        aimed.map(|dice| struck(dice, true)).or_else(|| drawn.map(|dice| struck(dice, false)))
    }
}

struct Struck {
    pass: u64,
    dice: Dice,
    /// It was aimed at.
    aimed: bool,
    /// From a list: the pause in nanoseconds, or none.
    listed: Option<Option<u64>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Strikes of `rate` among 1,000 passes.
    fn struck(decisions: &mut Decisions, rate: f64) -> Vec<u64> {
        (0..1000).filter(|_| decisions.strikes("EIO on sync", rate, None)).collect()
    }

    #[test]
    fn what_was_drawn_can_be_listed_and_one_left_out_moves_no_other() {
        let mut drawn = Decisions::new(3, 1, None);
        let first = struck(&mut drawn, 0.05);
        assert!((20..100).contains(&first.len()), "{} of 1000 at 0.05", first.len());
        let mut list = drawn.recorded;
        assert_eq!(struck(&mut Decisions::new(9, 9, Some(&list)), 0.0), first);
        list.strikes.remove(3);
        let mut without = first.clone();
        without.remove(3);
        assert_eq!(struck(&mut Decisions::new(9, 9, Some(&list)), 0.5), without);
    }

    /// What is aimed at is listed by the same passes as what strikes anyway.
    #[test]
    fn what_was_aimed_at_can_be_listed() {
        for rate in [0.0, 0.02] {
            let mut drawn = Decisions::new(3, 1, None);
            let meant = |pass: u64| if pass.is_multiple_of(3) { 0.2 } else { 0.0 };
            let aimed = |pass| Some(Aimed { rate: meant(pass), most: 7 });
            let passes = |decisions: &mut Decisions| -> Vec<u64> {
                let all = 0..1000;
                all.filter(|pass| decisions.strikes("stall", rate, aimed(*pass))).collect()
            };
            let struck = passes(&mut drawn);
            let (hit, others): (Vec<u64>, Vec<u64>) =
                struck.iter().partition(|pass| pass.is_multiple_of(3));
            assert!(hit.len() >= 7 && others.is_empty() == (rate == 0.0), "{struck:?}");
            assert!(rate > 0.0 || hit.len() == 7, "{struck:?}");
            let mut listed = Decisions::new(9, 9, Some(&drawn.recorded));
            assert_eq!(passes(&mut listed), struck);
        }
    }

    #[test]
    fn boots_and_tasks_have_streams_of_their_own() {
        let preempted = |stream: u64, task: &str| -> Vec<usize> {
            let mut decisions = Decisions::new(3, stream, None);
            let passes = 0..500;
            let task = (task, site_hash(task));
            let preempted = passes
                .filter(|_| decisions.preempts("lock", task, 0.1, Order::Uniform, None).is_some());
            preempted.collect()
        };
        assert_eq!(preempted(0, "client 0"), preempted(0, "client 0"));
        assert_ne!(preempted(0, "client 0"), preempted(0, "client 1"));
        assert_ne!(preempted(0, "client 0"), preempted(1, "client 0"));
    }
}
