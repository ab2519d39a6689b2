//! Which chunks a wish touches, and which members hold them. Pure.
use std::{
    collections::BTreeMap,
    ops::{ControlFlow, Range},
};

use bolide_core::{ByteRange, ChunkSpan, FetchTarget, NodeId, Result, TocIndex};

/// The chunks that hold a range of a file, in file order.
pub(super) fn spans(
    index: &dyn TocIndex,
    file: NodeId,
    range: Range<u64>,
) -> Result<Vec<ChunkSpan>> {
    let mut found = Vec::new();
    index.for_each_chunk(file, range, &mut |span| {
        found.push(span);
        ControlFlow::Continue(())
    })?;
    Ok(found)
}

/// The chunks of a target.
pub(super) fn target_spans(index: &dyn TocIndex, target: &FetchTarget) -> Result<Vec<ChunkSpan>> {
    match target {
        FetchTarget::File { file, range } => spans(index, *file, range.clone()),
        FetchTarget::Blob(range) => {
            let mut found = Vec::new();
            index.for_each_chunk_in_blob(*range, &mut |span| {
                found.push(span);
                ControlFlow::Continue(())
            })?;
            Ok(found)
        }
    }
}

/// The members that hold `spans`, each once, in blob order.
pub(super) fn members<'a>(spans: impl Iterator<Item = &'a ChunkSpan>) -> Vec<ByteRange> {
    let members: BTreeMap<u64, ByteRange> =
        spans.map(|span| (span.member.start(), span.member)).collect();
    members.into_values().collect()
}

/// All chunks of one member, in the order of their place in it.
pub(super) fn chunks_of(index: &dyn TocIndex, member: ByteRange) -> Result<Vec<ChunkSpan>> {
    target_spans(index, &FetchTarget::Blob(ByteRange::at(member.start(), 1)?))
}
