//! Cycles of dependencies, by what they are made of.
//!
//! Where to look is known from the components of the graph. For a cycle with one anti-dependency
//! each of them is tried: is there a way back over other edges? Such edges lead to commits that
//! are later in their order, so that only those between the two have to be passed.

use super::{
    graph::{Edge, Graph, Search},
    history::Level,
    reads::Told,
    report::{Anomaly, Dependency, Link, Tally, Witness},
    versions::{Versions, key_name},
};
use std::collections::BTreeSet;

/// How many edges may be looked at for one kind of cycle.
const STEPS_MAX: u64 = 200_000_000;
/// From how many edges of a component a cycle is searched, of which the shortest is told.
const TRIES: usize = 32;

pub(super) fn find(versions: &Versions<'_>, told: Told, tally: &mut Tally) {
    let Told { edges, without_snapshot, mut explained } = told;
    let graph = Graph::new(versions.txns.len(), edges);
    let search = Search::new(&graph);
    let mut cycles = Cycles { versions, graph: &graph, search, tally };
    explained.append(&mut cycles.without_anti_dependencies());
    explained.append(&mut cycles.with_one());
    cycles.with_several();
    for txn in without_snapshot.into_iter().filter(|txn| !explained.contains(txn)) {
        let forbidden = versions.level(txn).forbids(Anomaly::NoSnapshot);
        let text = || {
            let name = versions.name(txn);
            format!("the reads of {name} fit to no single moment in the order of commits")
        };
        tally.add(Anomaly::NoSnapshot, forbidden, || versions.told(&[txn], text()));
    }
}

struct Cycles<'a, 'h> {
    versions: &'a Versions<'h>,
    graph: &'a Graph,
    search: Search,
    tally: &'a mut Tally,
}

fn is_write(edge: &Edge) -> bool {
    edge.dependency == Dependency::Overwritten
}

fn is_no_anti(edge: &Edge) -> bool {
    !edge.dependency.is_anti()
}

impl Cycles<'_, '_> {
    /// G0 and G1c. Every level forbids them, and every edge of them obliges. Returns the
    /// transactions of those that were told.
    fn without_anti_dependencies(&mut self) -> BTreeSet<u32> {
        let (graph, versions) = (self.graph, self.versions);
        let mut of = BTreeSet::new();
        for cycle in self.in_components(is_write, is_write, false) {
            self.tally.add(Anomaly::WriteCycle, true, || told(versions, graph, &cycle));
        }
        let is_read = |edge: &Edge| edge.dependency == Dependency::Read;
        for cycle in self.in_components(is_no_anti, is_read, false) {
            of.extend(cycle.iter().map(|at| graph.edges()[*at as usize].from));
            self.tally.add(Anomaly::CircularInformation, true, || told(versions, graph, &cycle));
        }
        of
    }

    /// G-single, of keys and of predicates. Returns the transactions that it was found of.
    fn with_one(&mut self) -> BTreeSet<u32> {
        let (graph, versions) = (self.graph, self.versions);
        let heights = self.heights();
        let height = |node: u32| heights[node as usize];
        self.search.allow(STEPS_MAX);
        let mut of = BTreeSet::new();
        for (at, edge) in graph.edges().iter().enumerate() {
            let is_behind = height(edge.to) <= height(edge.from);
            if edge.lost || !edge.dependency.is_anti() || !is_behind {
                continue;
            }
            let lowest = height(edge.to);
            let keep = |back: &Edge| is_no_anti(back) && height(back.from) >= lowest;
            let Some(way) = self.search.way(graph, (edge.to, edge.from), false, keep) else {
                continue;
            };
            let anomaly = match edge.dependency {
                Dependency::AntiPredicate => Anomaly::ScanSkew,
                _ => Anomaly::ReadSkew,
            };
            of.insert(edge.from);
            let cycle: Vec<u32> = [at as u32].into_iter().chain(way).collect();
            let forbidden = versions.level(edge.from).forbids(anomaly);
            self.tally.add(anomaly, forbidden, || told(versions, graph, &cycle));
        }
        self.note_exhaustion();
        of
    }

    /// G2-item and G2: first whatever is there, then what is left if only those anti-dependencies
    /// oblige that leave Serializable transactions.
    fn with_several(&mut self) {
        let is_predicate = |edge: &Edge| edge.dependency == Dependency::AntiPredicate;
        let is_item = |edge: &Edge| edge.dependency == Dependency::Anti;
        let (graph, versions) = (self.graph, self.versions);
        let obliges =
            |edge: &Edge| is_no_anti(edge) || versions.level(edge.from) == Level::Serializable;
        for cycle in self.in_components(|edge| !is_predicate(edge), is_item, true) {
            self.tally.add(Anomaly::WriteSkew, false, || told(versions, graph, &cycle));
        }
        for cycle in self.in_components(|edge| !is_predicate(edge) && obliges(edge), is_item, true)
        {
            self.tally.forbid(Anomaly::WriteSkew, || told(versions, graph, &cycle));
        }
        for cycle in self.in_components(|_| true, is_predicate, true) {
            self.tally.add(Anomaly::Phantom, false, || told(versions, graph, &cycle));
        }
        for cycle in self.in_components(obliges, is_predicate, true) {
            self.tally.forbid(Anomaly::Phantom, || told(versions, graph, &cycle));
        }
    }

    /// For each component of the edges that are kept one cycle with an edge that is `on` it, a
    /// short one. Where `anti` is set, it has an anti-dependency besides that edge.
    fn in_components(
        &mut self,
        keep: impl Fn(&Edge) -> bool,
        on: impl Fn(&Edge) -> bool,
        anti: bool,
    ) -> Vec<Vec<u32>> {
        let graph = self.graph;
        let components = graph.components(&keep);
        let component = |node: u32| components[node as usize];
        let mut candidates = Vec::new();
        for (at, edge) in graph.edges().iter().enumerate() {
            if keep(edge) && on(edge) && component(edge.from) == component(edge.to) {
                // Those against the order of commits first: every cycle of anti-dependencies has one.
                let rank = |node: u32| self.versions.ranks[node as usize];
                let is_forward = rank(edge.from) == 0 || rank(edge.from) < rank(edge.to);
                candidates.push((component(edge.from), is_forward, at as u32));
            }
        }
        candidates.sort_unstable();
        self.search.allow(STEPS_MAX);
        let mut cycles = Vec::new();
        for group in candidates.chunk_by(|a, b| a.0 == b.0) {
            let inside = |edge: &Edge| keep(edge) && component(edge.from) == group[0].0;
            let mut best: Option<Vec<u32>> = None;
            for (tried, (_, _, at)) in group.iter().enumerate() {
                if tried >= TRIES && best.is_some() {
                    break;
                }
                let edge = &graph.edges()[*at as usize];
                let way = self.search.way(graph, (edge.to, edge.from), anti, inside);
                let cycle = way.map(|way| [*at].into_iter().chain(way).collect::<Vec<u32>>());
                best = match (best, cycle) {
                    (Some(best), Some(cycle)) if cycle.len() >= best.len() => Some(best),
                    (best, cycle) => cycle.or(best),
                };
            }
            cycles.extend(best);
        }
        self.note_exhaustion();
        cycles
    }

    /// For each transaction a number that does not fall along an edge that is no anti-dependency:
    /// the highest rank from which it can be reached. Where all is well that is its own.
    fn heights(&self) -> Vec<u32> {
        let components = self.graph.components(is_no_anti);
        let mut nodes: Vec<u32> = (0..components.len() as u32).collect();
        nodes.sort_unstable_by_key(|node| std::cmp::Reverse(components[*node as usize]));
        let mut highest = vec![0; components.len()];
        for (node, component) in components.iter().enumerate() {
            let highest: &mut u32 = &mut highest[*component as usize];
            *highest = (*highest).max(self.versions.ranks[node]);
        }
        for node in nodes {
            let height = highest[components[node as usize] as usize];
            for edge in self.graph.leaving(node).iter().filter(|edge| is_no_anti(edge)) {
                let highest = &mut highest[components[edge.to as usize] as usize];
                *highest = (*highest).max(height);
            }
        }
        components.iter().map(|component| highest[*component as usize]).collect()
    }

    fn note_exhaustion(&mut self) {
        if self.search.is_exhausted() {
            self.tally.cut_short();
        }
    }
}

fn told(versions: &Versions<'_>, graph: &Graph, cycle: &[u32]) -> Witness {
    let edges = || cycle.iter().map(|at| &graph.edges()[*at as usize]);
    let links: Vec<Link> = edges()
        .map(|edge| versions.link(edge.from, edge.to, edge.dependency, edge.chain))
        .collect();
    let words: Vec<String> = edges().map(|edge| sentence(versions, edge)).collect();
    let transactions = links.iter().map(|link| link.from).collect();
    Witness { transactions, cycle: links, text: words.join("; ") }
}

fn sentence(versions: &Versions<'_>, edge: &Edge) -> String {
    let chain = &versions.chains[edge.chain as usize];
    let key = key_name(chain.keyspace, chain.key);
    let (from, to) = (versions.name(edge.from), versions.name(edge.to));
    match edge.dependency {
        Dependency::Overwritten => format!("{to} overwrote what {from} left in {key}"),
        Dependency::Read => format!("{to} saw what {from} left in {key}"),
        Dependency::Anti => format!("{from} read {key} and did not see what {to} made of it"),
        Dependency::AntiPredicate => {
            format!("{from} scanned where {to} put {key}, and did not see it")
        }
    }
}
