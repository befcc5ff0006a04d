//! The graph of dependencies, its components, and shortest ways in it. Nothing here recurses.

use super::report::Dependency;
use std::collections::VecDeque;

/// One transaction comes before another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Edge {
    pub(super) from: u32,
    pub(super) to: u32,
    pub(super) dependency: Dependency,
    /// It is an anti-dependency that was told as a lost update.
    pub(super) lost: bool,
    /// The key that shows it.
    pub(super) chain: u32,
}

#[derive(Debug)]
pub(super) struct Graph {
    nodes: usize,
    /// By the node that they leave.
    edges: Vec<Edge>,
    /// Where the edges of each node begin.
    starts: Vec<u32>,
    /// Numbers of edges, by the node that they enter.
    entering: Vec<u32>,
    entering_starts: Vec<u32>,
}

impl Graph {
    /// Of edges that differ only in the key one is kept.
    pub(super) fn new(nodes: usize, mut edges: Vec<Edge>) -> Graph {
        edges.sort_unstable();
        edges.dedup_by(|a, b| Edge { chain: 0, ..*a } == Edge { chain: 0, ..*b });
        let starts = starts_of(nodes, edges.iter().map(|edge| edge.from));
        let entering_starts = starts_of(nodes, edges.iter().map(|edge| edge.to));
        let mut free = entering_starts.clone();
        let mut entering = vec![0; edges.len()];
        for (at, edge) in edges.iter().enumerate() {
            let place = &mut free[edge.to as usize];
            entering[*place as usize] = at as u32;
            *place += 1;
        }
        Graph { nodes, edges, starts, entering, entering_starts }
    }

    pub(super) fn edges(&self) -> &[Edge] {
        &self.edges
    }

    pub(super) fn leaving(&self, node: u32) -> &[Edge] {
        let node = node as usize;
        &self.edges[self.starts[node] as usize..self.starts[node + 1] as usize]
    }

    fn entering(&self, node: u32) -> &[u32] {
        let node = node as usize;
        let range = self.entering_starts[node]..self.entering_starts[node + 1];
        &self.entering[range.start as usize..range.end as usize]
    }

    /// The strongly connected components of the edges that are kept, as a number for each node.
    /// An edge between two of them leads to the lower number. (Tarjan 1972.)
    pub(super) fn components(&self, keep: impl Fn(&Edge) -> bool) -> Vec<u32> {
        let mut walk = Walk {
            component: vec![NONE; self.nodes],
            visit: vec![0; self.nodes],
            lowest: vec![0; self.nodes],
            visits: 0,
            components: 0,
            undecided: Vec::new(),
        };
        let mut path: Vec<(u32, u32)> = Vec::new();
        for root in 0..self.nodes as u32 {
            if walk.visit[root as usize] == 0 {
                walk.enter(root);
                path.push((root, self.starts[root as usize]));
            }
            while let Some((node, next)) = path.last_mut() {
                let (here, at) = (*node, *next);
                if at < self.starts[here as usize + 1] {
                    *next += 1;
                    let edge = &self.edges[at as usize];
                    if keep(edge) && walk.is_new(here, edge.to) {
                        walk.enter(edge.to);
                        path.push((edge.to, self.starts[edge.to as usize]));
                    }
                } else {
                    path.pop();
                    walk.leave(here, path.last().map(|(parent, _)| *parent));
                }
            }
        }
        walk.component
    }
}

/// For each node where its entries begin, and where the last one's end.
fn starts_of(nodes: usize, ends: impl Iterator<Item = u32>) -> Vec<u32> {
    let mut starts = vec![0; nodes + 1];
    for node in ends {
        starts[node as usize + 1] += 1;
    }
    for node in 0..nodes {
        starts[node + 1] += starts[node];
    }
    starts
}

const NONE: u32 = u32::MAX;

/// A depth-first walk that finds components.
struct Walk {
    component: Vec<u32>,
    /// When a node was first seen; 0: not yet.
    visit: Vec<u32>,
    /// The earliest visit that is reached from it among the undecided.
    lowest: Vec<u32>,
    visits: u32,
    components: u32,
    /// Nodes that were seen and have no component yet.
    undecided: Vec<u32>,
}

impl Walk {
    fn enter(&mut self, node: u32) {
        self.visits += 1;
        self.visit[node as usize] = self.visits;
        self.lowest[node as usize] = self.visits;
        self.undecided.push(node);
    }

    /// Whether the end of an edge was not seen before; if it was, notes what that means.
    fn is_new(&mut self, node: u32, to: u32) -> bool {
        if self.visit[to as usize] == 0 {
            return true;
        }
        if self.component[to as usize] == NONE {
            let lowest = &mut self.lowest[node as usize];
            *lowest = (*lowest).min(self.visit[to as usize]);
        }
        false
    }

    fn leave(&mut self, node: u32, parent: Option<u32>) {
        let lowest = self.lowest[node as usize];
        if lowest == self.visit[node as usize] {
            while let Some(member) = self.undecided.pop() {
                self.component[member as usize] = self.components;
                if member == node {
                    break;
                }
            }
            self.components += 1;
        }
        if let Some(parent) = parent {
            let of_parent = &mut self.lowest[parent as usize];
            *of_parent = (*of_parent).min(lowest);
        }
    }
}

/// How a search came to a node.
#[derive(Debug, Clone, Copy)]
struct Reached {
    search: u32,
    /// The edge that leads on, `NONE` at the end of the way.
    by: u32,
    /// Whether there is an anti-dependency behind that edge.
    behind: bool,
}

/// Finds shortest ways, and counts what that costs.
#[derive(Debug)]
pub(super) struct Search {
    /// For each node, without and with an anti-dependency on the way from it.
    reached: Vec<[Reached; 2]>,
    searches: u32,
    queue: VecDeque<(u32, bool)>,
    steps_left: u64,
}

impl Search {
    pub(super) fn new(graph: &Graph) -> Search {
        let never = Reached { search: 0, by: NONE, behind: false };
        let reached = vec![[never; 2]; graph.nodes];
        Search { reached, searches: 0, queue: VecDeque::new(), steps_left: 0 }
    }

    /// So many edges may be looked at from now on.
    pub(super) fn allow(&mut self, steps: u64) {
        self.steps_left = steps;
    }

    pub(super) fn is_exhausted(&self) -> bool {
        self.steps_left == 0
    }

    /// The numbers of the edges of a shortest way over edges that are kept. Where `anti` is set,
    /// the way has at least one anti-dependency. It is searched from its end, so that `keep` can
    /// leave out edges by where they come from.
    pub(super) fn way(
        &mut self,
        graph: &Graph,
        (from, to): (u32, u32),
        anti: bool,
        keep: impl Fn(&Edge) -> bool,
    ) -> Option<Vec<u32>> {
        self.searches += 1;
        self.queue.clear();
        let search = self.searches;
        self.reach(to, !anti, Reached { search, by: NONE, behind: false });
        while let Some((node, has_anti)) = self.queue.pop_front() {
            if node == from && has_anti {
                return self.followed(graph, from);
            }
            for at in graph.entering(node) {
                if self.steps_left == 0 {
                    return None;
                }
                self.steps_left -= 1;
                let edge = &graph.edges[*at as usize];
                if keep(edge) {
                    let reached = Reached { search, by: *at, behind: has_anti };
                    self.reach(edge.from, has_anti || edge.dependency.is_anti(), reached);
                }
            }
        }
        None
    }

    fn reach(&mut self, node: u32, has_anti: bool, reached: Reached) {
        let before = &mut self.reached[node as usize][usize::from(has_anti)];
        if before.search != reached.search {
            *before = reached;
            self.queue.push_back((node, has_anti));
        }
    }

    /// The way that was found. `None` if it passes a node twice, as one that had to have an
    /// anti-dependency may: then it is several cycles, each found elsewhere.
    fn followed(&self, graph: &Graph, from: u32) -> Option<Vec<u32>> {
        let (mut way, mut passed) = (Vec::new(), vec![from]);
        let (mut node, mut layer) = (from, true);
        loop {
            let reached = self.reached[node as usize][usize::from(layer)];
            if reached.by == NONE {
                break;
            }
            way.push(reached.by);
            node = graph.edges[reached.by as usize].to;
            layer = reached.behind;
            passed.push(node);
        }
        let nodes = passed.len();
        passed.sort_unstable();
        passed.dedup();
        (passed.len() == nodes).then_some(way)
    }
}
