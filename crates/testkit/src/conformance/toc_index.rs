//! The contract of [`TocIndex`], clause by clause: what must hold for any index of any layer.
use std::{collections::BTreeSet, ffi::OsString, ops::ControlFlow};

use bolide_core::{
    ByteRange, ChunkIndex, ChunkSpan, ErrorKind, NodeId, NodeKind, Result, TocIndex,
};

use super::verdict::{Broken, Verdict, hold, succeed};

/// Runs every clause against an index.
pub fn all(index: &dyn TocIndex) -> Verdict {
    let nodes = reachable(index)?;
    unknown_ids_are_not_found(index)?;
    children_are_ordered(index, &nodes)?;
    breaks_end_walks(index, &nodes)?;
    parents_agree_with_walks(index, &nodes)?;
    attributes_are_ordered(index, &nodes)?;
    walks_resume(index, &nodes)?;
    lookups_agree_with_walks(index, &nodes)?;
    chunks_tile_files(index, &nodes)?;
    chunks_are_laid_out(index)?;
    blob_walk_is_ordered(index)
}

fn children(index: &dyn TocIndex, dir: NodeId, skip: usize) -> Result<Vec<(OsString, NodeId)>> {
    let mut out = Vec::new();
    index.for_each_child(dir, skip, &mut |name, id| {
        out.push((name.to_owned(), id));
        ControlFlow::Continue(())
    })?;
    Ok(out)
}

/// Every node, as a walk from the root meets it.
pub fn reachable(index: &dyn TocIndex) -> Result<BTreeSet<NodeId>, Broken> {
    let mut seen = BTreeSet::from([index.root()]);
    let mut todo = vec![index.root()];
    while let Some(dir) = todo.pop() {
        for (_, id) in succeed("walk", children(index, dir, 0))? {
            if seen.insert(id) {
                todo.push(id);
            }
        }
    }
    hold(
        "len counts nodes",
        seen.len() == index.len(),
        format!("{} of {}", seen.len(), index.len()),
    )?;
    Ok(seen)
}

/// An id or chunk number the index never gave is `NotFound`.
pub fn unknown_ids_are_not_found(index: &dyn TocIndex) -> Verdict {
    let kind = index.attr(NodeId(u32::MAX)).err().map(|error| error.kind());
    hold("total", kind == Some(ErrorKind::NotFound), format!("{kind:?} for an unknown node"))?;
    let kind = index.chunk(ChunkIndex(u32::MAX)).err().map(|error| error.kind());
    hold("total", kind == Some(ErrorKind::NotFound), format!("{kind:?} for an unknown chunk"))
}

/// Children come in the bytewise order of their names, each once.
pub fn children_are_ordered(index: &dyn TocIndex, nodes: &BTreeSet<NodeId>) -> Verdict {
    for dir in nodes {
        let names = succeed("ordered", children(index, *dir, 0))?;
        hold("ordered", names.windows(2).all(|pair| pair[0].0 < pair[1].0), format!("{names:?}"))?;
    }
    Ok(())
}

/// A visitor that answers `Break` is asked no more.
pub fn breaks_end_walks(index: &dyn TocIndex, nodes: &BTreeSet<NodeId>) -> Verdict {
    let clause = "break ends a walk";
    let whole = succeed(clause, ByteRange::new(0..u64::MAX))?;
    for node in nodes {
        let mut visits = [0; 4];
        let [names, xattrs, chunks, members] = &mut visits;
        let walks = [
            index.for_each_child(*node, 0, &mut |_, _| once(names)),
            index.for_each_xattr(*node, &mut |_, _| once(xattrs)),
            index.for_each_chunk(*node, 0..u64::MAX, &mut |_| once(chunks)),
            index.for_each_chunk_in_blob(whole, &mut |_| once(members)),
        ];
        for walk in walks {
            succeed(clause, walk)?;
        }
        hold(clause, visits.iter().all(|visits| *visits <= 1), format!("{visits:?} of {node:?}"))?;
    }
    Ok(())
}

fn once(visits: &mut usize) -> ControlFlow<()> {
    *visits += 1;
    ControlFlow::Break(())
}

/// The parent of a directory is where a walk met it, that of a file where its path says; the root
/// holds itself.
pub fn parents_agree_with_walks(index: &dyn TocIndex, nodes: &BTreeSet<NodeId>) -> Verdict {
    let clause = "parent";
    let root = succeed(clause, index.parent(index.root()))?;
    hold(clause, root == index.root(), format!("{root:?} holds the root"))?;
    for dir in nodes {
        for (name, id) in succeed(clause, children(index, *dir, 0))? {
            if succeed(clause, index.attr(id))?.kind != NodeKind::Directory {
                let parent = succeed(clause, index.parent(id))?;
                let above = succeed(clause, index.path(parent))?;
                let path = succeed(clause, index.path(id))?;
                let right = path.parent() == Some(&*above);
                hold(clause, right, format!("{} is not in {}", path.display(), above.display()))?;
                continue;
            }
            let parent = succeed(clause, index.parent(id))?;
            hold(clause, parent == *dir, format!("{}: {parent:?} not {dir:?}", name.display()))?;
            let path = succeed(clause, index.path(id))?;
            let right = path.file_name() == Some(&*name) && path.is_relative();
            hold(clause, right, format!("{} is called {}", name.display(), path.display()))?;
        }
    }
    Ok(())
}

/// Extended attributes come in the bytewise order of their names, each once.
pub fn attributes_are_ordered(index: &dyn TocIndex, nodes: &BTreeSet<NodeId>) -> Verdict {
    let clause = "attributes in order";
    for node in nodes {
        let mut names = Vec::new();
        let walked = index.for_each_xattr(*node, &mut |name, _| {
            names.push(name.to_owned());
            ControlFlow::Continue(())
        });
        succeed(clause, walked)?;
        hold(clause, names.windows(2).all(|pair| pair[0] < pair[1]), format!("{names:?}"))?;
    }
    Ok(())
}

/// A walk that skips goes on exactly where another stopped.
pub fn walks_resume(index: &dyn TocIndex, nodes: &BTreeSet<NodeId>) -> Verdict {
    for dir in nodes {
        let whole = succeed("resumable", children(index, *dir, 0))?;
        for skip in [1, whole.len() / 2, whole.len(), whole.len() + 1] {
            let rest = succeed("resumable", children(index, *dir, skip))?;
            let expected = whole.get(skip..).unwrap_or_default();
            hold("resumable", rest == expected, format!("skip {skip} of {}", whole.len()))?;
        }
    }
    Ok(())
}

/// Every child is found by its name, and no other name is.
pub fn lookups_agree_with_walks(index: &dyn TocIndex, nodes: &BTreeSet<NodeId>) -> Verdict {
    let clause = "lookup";
    for dir in nodes {
        for (mut name, id) in succeed(clause, children(index, *dir, 0))? {
            let found = succeed(clause, index.lookup(*dir, &name))?;
            hold(
                clause,
                found == Some(id),
                format!("{}: {found:?} instead of {id:?}", name.display()),
            )?;
            name.push("\u{1}");
            let found = succeed(clause, index.lookup(*dir, &name))?;
            hold(clause, found.is_none(), format!("{} is found", name.display()))?;
        }
    }
    Ok(())
}

/// Chunks lie in their file in order, and what they leave out are its holes; other nodes have none.
pub fn chunks_tile_files(index: &dyn TocIndex, nodes: &BTreeSet<NodeId>) -> Verdict {
    let clause = "tiled";
    let mut met = 0;
    for node in nodes {
        let attr = succeed(clause, index.attr(*node))?;
        let size = if attr.kind == NodeKind::File { attr.size } else { 0 };
        let spans = succeed(clause, chunks(index, *node, 0..u64::MAX))?;
        let holes = succeed(clause, holes(index, *node, 0..u64::MAX))?;
        met += spans.len();
        let mut extents: Vec<_> = holes.clone();
        for span in &spans {
            let fits = span.file == *node && span.key.len > 0;
            hold(clause, fits, format!("{span:?} of {node:?}"))?;
            extents.push(span.file_offset..span.file_offset + span.key.len);
        }
        let in_order = spans.windows(2).all(|pair| pair[0].file_offset < pair[1].file_offset);
        hold(clause, in_order, format!("chunks of {node:?} out of order"))?;
        extents.sort_by_key(|extent| extent.start);
        let mut end = 0;
        for extent in extents {
            let follows = extent.start == end && extent.end > end;
            hold(clause, follows, format!("{extent:?} after {end} of {node:?}"))?;
            end = extent.end;
        }
        hold(clause, end == size, format!("{end} of {size} bytes of {node:?}"))?;
        if let Some(last) = spans.last() {
            let end = last.file_offset + last.key.len;
            let found = succeed(clause, chunks(index, *node, end - 1..end))?;
            hold(clause, found == [*last], format!("{found:?} at the last byte"))?;
        }
        for hole in holes {
            let inside = hole.start..hole.start + 1;
            let found = succeed(clause, chunks(index, *node, inside.clone()))?;
            hold(clause, found.is_empty(), format!("{found:?} in the hole {hole:?}"))?;
            let found = succeed(clause, self::holes(index, *node, inside.clone()))?;
            hold(clause, found == [inside], format!("{found:?} in the hole {hole:?}"))?;
        }
    }
    // A chunk that a walk leaves out would be taken for a hole.
    let all = index.chunk_count() as usize;
    hold(clause, met == all, format!("{met} of {all} chunks are met in files"))
}

fn holes(
    index: &dyn TocIndex,
    file: NodeId,
    range: std::ops::Range<u64>,
) -> Result<Vec<std::ops::Range<u64>>> {
    let mut out = Vec::new();
    index.for_each_hole(file, range, &mut |hole| {
        out.push(hole);
        ControlFlow::Continue(())
    })?;
    Ok(out)
}

fn chunks(
    index: &dyn TocIndex,
    file: NodeId,
    range: std::ops::Range<u64>,
) -> Result<Vec<ChunkSpan>> {
    let mut out = Vec::new();
    index.for_each_chunk(file, range, &mut |span| {
        out.push(span);
        ControlFlow::Continue(())
    })?;
    Ok(out)
}

/// Numbers follow places; files, their holes included, are extents from multiples of 4096; the spec
/// is sound.
pub fn chunks_are_laid_out(index: &dyn TocIndex) -> Verdict {
    let clause = "laid out";
    let spec = succeed(clause, index.image_spec())?;
    succeed(clause, spec.check())?;
    hold(clause, spec.size.is_multiple_of(4096), format!("size {}", spec.size))?;
    for number in 0..index.chunk_count() {
        let span = succeed(clause, index.chunk(ChunkIndex(number)))?;
        let start = span.image_offset.checked_sub(span.file_offset);
        let aligned = start.is_some_and(|start| start.is_multiple_of(4096));
        hold(clause, aligned && span.index.0 == number, format!("{span:?}"))?;
    }
    Ok(())
}

/// A walk over the blob meets every chunk once, in the order of members.
pub fn blob_walk_is_ordered(index: &dyn TocIndex) -> Verdict {
    let clause = "blob order";
    let whole = succeed(clause, ByteRange::new(0..u64::MAX))?;
    let mut spans = Vec::new();
    let walked = index.for_each_chunk_in_blob(whole, &mut |span| {
        spans.push(span);
        ControlFlow::Continue(())
    });
    succeed(clause, walked)?;
    let place = |span: &ChunkSpan| (span.member.start(), span.inner_offset);
    hold(clause, spans.is_sorted_by_key(place), "members out of order")?;
    let distinct: BTreeSet<_> = spans.iter().map(|span| span.index).collect();
    let (met, all) = (distinct.len(), index.chunk_count() as usize);
    hold(clause, met == all && spans.len() == all, format!("{met} distinct of {all}"))
}
