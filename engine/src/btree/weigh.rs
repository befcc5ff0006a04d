//! How much of a tree cuts would free.

use super::{Cut, Held, Nodes, Root};
use crate::error::Result;

/// Pages of the leaves that lie within cuts as a whole, up to about `most`. Leaves are not read, nor branches once it is
/// so many.
pub(crate) fn pages_within(nodes: &dyn Nodes, root: Root, cuts: &[Cut], most: u64) -> Result<u64> {
    let mut pages = 0;
    part(nodes, root, (&[], None), cuts, most, &mut pages)?;
    Ok(pages)
}

fn part(
    nodes: &dyn Nodes,
    Root { pointer, level }: Root,
    (lower, upper): (&[u8], Option<&[u8]>),
    cuts: &[Cut],
    most: u64,
    pages: &mut u64,
) -> Result<()> {
    let passed = cuts.partition_point(|cut| cut.end.as_deref().is_some_and(|end| end <= lower));
    let cuts = &cuts[passed..];
    let reached = |cut: &&Cut| upper.is_none_or(|upper| cut.start.as_slice() < upper);
    let Some(cut) = cuts.first().filter(reached).filter(|_| *pages < most) else {
        return Ok(());
    };
    if level == 0 {
        let to_the_end =
            cut.end.as_deref().is_none_or(|end| upper.is_some_and(|upper| upper <= end));
        if to_the_end && cut.start.as_slice() <= lower {
            *pages += u64::from(pointer.pages);
        }
        return Ok(());
    }
    let held = Held::read(nodes, pointer, level)?;
    let node = held.node(nodes)?;
    let (mut lower, mut behind) = (lower.to_vec(), vec![]);
    for index in 0..node.len() {
        let last = index + 1 == node.len();
        let child = node.child(index).ok_or_else(|| held.refuse(nodes, index))?;
        if !last {
            behind.clear();
            let whole = node.append_key(index, &mut behind);
            whole.ok_or_else(|| held.refuse(nodes, index))?;
        }
        let upper = if last { upper } else { Some(behind.as_slice()) };
        let child = Root { pointer: child, level: level - 1 };
        part(nodes, child, (&lower, upper), cuts, most, pages)?;
        std::mem::swap(&mut lower, &mut behind);
    }
    Ok(())
}
