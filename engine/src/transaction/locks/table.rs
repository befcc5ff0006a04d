//! Who holds what, who waits for whom, and who goes next. Nothing here waits.

use super::{
    Mode, Owner, SIGNALS, Target,
    nodes::{List, NONE, Node, Nodes, Place, State},
};
use crate::{
    error::{Error, Result},
    sync::sometimes,
    types::KeyspaceId,
};
use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    sync::Arc,
};

#[derive(Default)]
pub(super) struct Table {
    /// Ordered by their ids. Those without locks stay while they are few.
    keyspaces: Vec<Keyspace>,
    nodes: Nodes,
    owners: BTreeMap<u64, Owned>,
    /// All that wait.
    waiting: Vec<u32>,
    last_number: u64,
    /// Bit n: something was decided for a request that waits for signal n.
    pub(super) decided: u16,
}

const _: () = assert!(SIGNALS <= 16, "one bit each");

/// How many keyspaces stay in the table without locks.
const IDLE_KEYSPACES: usize = 8;

/// The locks of a keyspace, held and waited for.
struct Keyspace {
    id: KeyspaceId,
    /// No list is empty.
    keys: BTreeMap<Arc<[u8]>, List>,
    ranges: List,
}

/// An owner's locks, each the first of a chain.
struct Owned {
    age: u64,
    held: u32,
    /// One at most, if the owner makes one request at a time.
    waiting: u32,
}

/// A request, whether it is in the table yet or not.
#[derive(Clone, Copy)]
struct Ask<'a> {
    number: u64,
    owner: u64,
    target: Target<'a>,
    mode: Mode,
}

impl Node {
    fn ask(&self) -> Ask<'_> {
        let Node { number, owner, mode, .. } = *self;
        Ask { number, owner, target: self.place.target(), mode }
    }
}

/// A request that waits.
#[derive(Clone, Copy)]
pub(super) struct Request {
    id: u32,
    pub(super) number: u64,
}

pub(super) enum Asked {
    Granted,
    Waits(Request),
}

impl Table {
    /// Whether a transaction holds or waits for anything.
    pub(super) fn is_in_use(&self) -> bool {
        self.nodes.of_transactions() > 0
    }

    /// Grants the lock, or puts the request behind those who came before it, unless it is too `late` to wait.
    pub(super) fn ask(
        &mut self,
        owner: Owner,
        target: Target<'_>,
        mode: Mode,
        late: impl Fn() -> bool,
    ) -> Result<Asked> {
        let number = self.last_number + 1;
        let ask = Ask { number, owner: owner.id, target, mode };
        if target.is_empty() {
            return Ok(Asked::Granted);
        }
        let free = self.is_free(target);
        if !free && self.is_covered(&ask) {
            return Ok(Asked::Granted);
        }
        if free || self.blockers(&ask).next().is_none() {
            self.add(owner, &ask, State::Held);
            return Ok(Asked::Granted);
        }
        if late() {
            return Err(Error::LockTimeout);
        }
        let id = self.add(owner, &ask, State::Waiting);
        self.break_circles(id)?;
        match self.nodes[id].state {
            State::Waiting => Ok(Asked::Waits(Request { id, number })),
            // Whoever gave way was all that it waited for.
            _ => Ok(Asked::Granted),
        }
    }

    /// Whether it is a key that nobody has asked for: the common case, seen by one look.
    fn is_free(&self, target: Target<'_>) -> bool {
        let Ok(at) = self.find(target.keyspace()) else { return true };
        let Keyspace { keys, ranges, .. } = &self.keyspaces[at];
        matches!(target, Target::Key(_, key) if ranges.is_empty() && !keys.contains_key(key))
    }

    /// Whether the owner holds all of it already.
    fn is_covered(&self, ask: &Ask<'_>) -> bool {
        if self.owners.get(&ask.owner).is_none_or(|owned| owned.held == NONE) {
            return false;
        }
        self.overlapping(ask.target).any(|node| {
            node.owner == ask.owner
                && node.state == State::Held
                && node.mode >= ask.mode
                && node.place.target().covers(ask.target)
        })
    }

    /// Whom a request waits for: conflicting locks of others, and conflicting requests of others that came
    /// before it, except those which its own owner keeps waiting.
    fn blockers<'a>(&'a self, ask: &'a Ask<'_>) -> impl Iterator<Item = &'a Node> {
        self.overlapping(ask.target).filter(|node| {
            node.owner != ask.owner
                && node.mode.conflicts(ask.mode)
                && match node.state {
                    State::Held => true,
                    State::Waiting => {
                        node.number < ask.number && !self.keeps_waiting(ask.owner, node)
                    }
                    State::Lost(_) => false,
                }
        })
    }

    /// Whether `request` cannot be granted before `owner` lets go of what it holds. Then whatever else that one
    /// asks for is granted before it, as both would wait for each other otherwise. Above all, who holds a shared
    /// lock and wants it exclusively waits only for those who hold it too.
    ///
    /// That is so where a lock of the owner conflicts with it. It is also so where the owner has a shared lock
    /// on a key, and the request is a shared one for that key alone: what this waits for can only be an exclusive
    /// request that includes the key, and with that the lock conflicts.
    fn keeps_waiting(&self, owner: u64, request: &Node) -> bool {
        let Some(owned) = self.owners.get(&owner) else { return false };
        let of_one_key = matches!(request.place, Place::Key(..));
        self.nodes.chain(owned.held).any(|id| {
            let held = &self.nodes[id];
            (of_one_key || held.mode.conflicts(request.mode))
                && held.place.target().overlaps(request.place.target())
        })
    }

    /// All locks and requests on any key of `target`.
    fn overlapping<'a>(&'a self, target: Target<'a>) -> impl Iterator<Item = &'a Node> {
        let keyspace = self.find(target.keyspace()).ok().map(|at| &self.keyspaces[at]);
        keyspace.into_iter().flat_map(move |keyspace| {
            let nodes = &self.nodes;
            let keys = keyspace.keys.range::<[u8], _>(target.bounds());
            let on_keys = keys.flat_map(move |(_, list)| list.iter(nodes));
            let ranges = keyspace.ranges.iter(nodes);
            on_keys.chain(ranges.filter(move |node| node.place.target().overlaps(target)))
        })
    }

    fn find(&self, keyspace: KeyspaceId) -> Result<usize, usize> {
        self.keyspaces.binary_search_by_key(&keyspace, |keyspace| keyspace.id)
    }

    fn add(&mut self, owner: Owner, ask: &Ask<'_>, state: State) -> u32 {
        self.last_number = ask.number;
        let id = ask.target.keyspace();
        let at = self.find(id).unwrap_or_else(|at| {
            let (keys, ranges) = Default::default();
            self.keyspaces.insert(at, Keyspace { id, keys, ranges });
            at
        });
        let keyspace = &mut self.keyspaces[at];
        let (place, list) = match ask.target {
            Target::Key(_, key) => {
                let list = keyspace.keys.entry(key.into());
                let key = Arc::clone(list.key());
                (Place::Key(id, key), list.or_default())
            }
            Target::Range(_, start, end) => {
                (Place::Range(id, start.into(), end.map(Arc::from)), &mut keyspace.ranges)
            }
        };
        let owned = self.owners.entry(owner.id).or_insert(Owned {
            age: owner.age,
            held: NONE,
            waiting: NONE,
        });
        let waits = state == State::Waiting;
        let chain = if waits { &mut owned.waiting } else { &mut owned.held };
        let mut node = Node::new(ask.number, ask.owner, place, ask.mode, state);
        (node.next, node.plain) = (*chain, owner.plain);
        let id = self.nodes.add(node);
        *chain = id;
        list.push(&mut self.nodes, id);
        if waits {
            self.waiting.push(id);
        }
        id
    }

    /// What was decided for a request, told once; `None` while it waits.
    pub(super) fn decision(&mut self, request: Request) -> Option<Result<()>> {
        let Some(node) = self.nodes.numbered(request.id, request.number) else {
            return Some(Ok(())); // granted, and let go of again
        };
        match &mut node.state {
            State::Held => Some(Ok(())),
            State::Waiting => None,
            State::Lost(cycle) => {
                let cycle = std::mem::take(cycle);
                self.nodes.remove(request.id);
                Some(Err(Error::Deadlock { cycle }))
            }
        }
    }

    /// Takes back a request, for this reason, unless it was decided meanwhile.
    pub(super) fn withdraw(&mut self, request: Request, reason: Error) -> Result<()> {
        if let Some(decision) = self.decision(request) {
            sometimes("locks: decided just before its waiter gave up");
            return decision;
        }
        self.forget(request.id);
        self.nodes.remove(request.id);
        Err(reason)
    }

    pub(super) fn unlock_all(&mut self, owner: u64) {
        let Entry::Occupied(mut owned) = self.owners.entry(owner) else { return };
        let mut id = std::mem::replace(&mut owned.get_mut().held, NONE);
        if owned.get().waiting == NONE {
            owned.remove();
        }
        let mut shared = false;
        while id != NONE {
            let next = self.nodes[id].next;
            shared |= self.unlink(id);
            self.nodes.remove(id);
            id = next;
        }
        self.hand_over(shared);
    }

    /// Takes a node out of the list of its key or of the ranges. Whether someone else may have waited for it,
    /// other than for a range.
    fn unlink(&mut self, id: u32) -> bool {
        let place = std::mem::take(&mut self.nodes[id].place);
        let Ok(at) = self.find(place.target().keyspace()) else { return false };
        let keyspace = &mut self.keyspaces[at];
        let shared = match place {
            Place::Nowhere => return false,
            Place::Range(..) => {
                keyspace.ranges.remove(&mut self.nodes, id);
                true
            }
            Place::Key(_, key) => {
                let Entry::Occupied(mut list) = keyspace.keys.entry(key) else { return false };
                list.get_mut().remove(&mut self.nodes, id);
                if list.get().is_empty() {
                    list.remove();
                    false
                } else {
                    true
                }
            }
        };
        let is_idle = keyspace.keys.is_empty() && keyspace.ranges.is_empty();
        if is_idle && self.keyspaces.len() > IDLE_KEYSPACES {
            self.keyspaces.remove(at);
        }
        shared
    }

    /// Grants every request that nobody blocks any more; those for keys only if their lists were touched.
    ///
    /// Once through is enough: a request that is granted frees nobody, as it blocks as a lock whom it blocked as
    /// a request.
    fn hand_over(&mut self, keys_too: bool) {
        let mut at = 0;
        while let Some(&id) = self.waiting.get(at) {
            let request = &self.nodes[id];
            let look = keys_too || matches!(request.place, Place::Range(..));
            if look && self.blockers(&request.ask()).next().is_none() {
                self.waiting.remove(at);
                self.leave_waiting(id);
                self.nodes[id].state = State::Held;
                let owner = self.nodes[id].owner;
                if let Some(owned) = self.owners.get_mut(&owner) {
                    self.nodes[id].next = std::mem::replace(&mut owned.held, id);
                }
                self.wake(id);
            } else {
                at += 1;
            }
        }
    }

    fn wake(&mut self, id: u32) {
        self.decided |= 1 << (self.nodes[id].number % SIGNALS);
    }

    /// Takes a request out of the chain of what its owner waits for.
    fn leave_waiting(&mut self, id: u32) {
        let (owner, next) = (self.nodes[id].owner, self.nodes[id].next);
        let Some(owned) = self.owners.get_mut(&owner) else { return };
        if owned.waiting == id {
            owned.waiting = next;
            return;
        }
        let before = self.nodes.chain(owned.waiting).find(|other| self.nodes[*other].next == id);
        if let Some(before) = before {
            self.nodes[before].next = next;
        }
    }

    /// Takes a request out of everything but the nodes, and grants what it blocked.
    fn forget(&mut self, id: u32) {
        self.waiting.retain(|other| *other != id);
        self.leave_waiting(id);
        let owner = self.nodes[id].owner;
        if let Entry::Occupied(owned) = self.owners.entry(owner)
            && (owned.get().held, owned.get().waiting) == (NONE, NONE)
        {
            owned.remove();
        }
        let shared = self.unlink(id);
        self.hand_over(shared);
    }

    /// Breaks every circle that a request which begins to wait has closed: the youngest owner of each gives
    /// way. Fails if that is the one who asks.
    ///
    /// No other moment can close a circle, so no other looks for one. Who waits for whom changes
    /// - when a request begins to wait. Only its owner waits anew: the others stand before it
    /// - when a lock is granted, at once or later. Others may wait anew for its owner, as it passed those whom it
    ///   [keeps waiting](Table::keeps_waiting); but that one waits for nobody
    /// - when locks or requests go. Then others wait for fewer. Only requests of the same owner could wait for
    ///   more, for those whom they passed because of its locks; but who lets go of locks is not waiting
    fn break_circles(&mut self, request: u32) -> Result<()> {
        let asking = self.nodes[request].owner;
        while self.nodes[request].state == State::Waiting {
            let Some(mut cycle) = self.circle_of(asking) else { break };
            sometimes("locks: a deadlock");
            let age = |id: u64| (self.owners.get(&id).map(|owned| owned.age), id);
            let youngest = (0..cycle.len()).max_by_key(|at| age(cycle[*at])).unwrap_or(0);
            cycle.rotate_left(youngest);
            if cycle[0] == asking {
                self.forget(request);
                self.nodes.remove(request);
                return Err(Error::Deadlock { cycle });
            }
            sometimes("locks: another one than who asks loses a deadlock");
            self.lose(&cycle);
        }
        Ok(())
    }

    /// The first of `cycle` gives way: its request is taken from the table, and it is told.
    fn lose(&mut self, cycle: &[u64]) {
        while let Some(owned) = self.owners.get(&cycle[0])
            && owned.waiting != NONE
        {
            let id = owned.waiting;
            self.forget(id);
            self.nodes[id].state = State::Lost(cycle.to_vec());
            self.wake(id);
        }
    }

    /// A shortest circle of owners from `first` on, each of whom waits for the one behind it, the last one for
    /// the first.
    fn circle_of(&self, first: u64) -> Option<Vec<u64>> {
        let owned = self.owners.get(&first)?;
        if owned.held == NONE {
            return None; // nobody waits for it: its request is the last one
        }
        // Each with the one through which it was found.
        let mut found = vec![(first, 0)];
        let mut seen = BTreeSet::from([first]);
        let mut at = 0;
        while let Some(&(owner, _)) = found.get(at) {
            let waiting = self.owners.get(&owner).map_or(NONE, |owned| owned.waiting);
            for request in self.nodes.chain(waiting) {
                for blocker in self.blockers(&self.nodes[request].ask()) {
                    if blocker.owner == first {
                        return Some(path(&found, at));
                    }
                    if seen.insert(blocker.owner) {
                        found.push((blocker.owner, at));
                    }
                }
            }
            at += 1;
        }
        None
    }
}

/// How `found[at]` was found, from the first one on.
fn path(found: &[(u64, usize)], mut at: usize) -> Vec<u64> {
    let mut path = vec![found[at].0];
    while at > 0 {
        at = found[at].1;
        path.push(found[at].0);
    }
    path.reverse();
    path
}

#[cfg(test)]
impl Table {
    /// How many locks are held or waited for.
    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    pub(super) fn count_waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Whether nothing is left of what was locked.
    pub(super) fn is_bare(&self) -> bool {
        let bare = |keyspace: &Keyspace| keyspace.keys.is_empty() && keyspace.ranges.is_empty();
        self.nodes.is_empty()
            && self.owners.is_empty()
            && self.waiting.is_empty()
            && self.keyspaces.len() <= IDLE_KEYSPACES
            && self.keyspaces.iter().all(bare)
    }
}
