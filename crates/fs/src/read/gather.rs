//! Puts the bytes of a read together, from what is present.
use std::ops::Range;

use bolide_core::{ChunkSpan, Error, ErrorKind, LayerImage, Result};
use bytes::Bytes;

/// Longest single read, in bytes. The kernel asks for a MiB; a hole may be as long as it likes, and its
/// zeros take memory once they are read.
const MAX_READ: u64 = 1 << 30;

/// The range, unless it is longer than one read may be.
pub(super) fn check(range: Range<u64>) -> Result<Range<u64>> {
    if range.end - range.start <= MAX_READ {
        return Ok(range);
    }
    Err(Error::new(ErrorKind::OutOfRange, "read::gather", "one read may have 1 GiB")
        .with_context("offset", range.start)
        .with_context("len", range.end - range.start))
}

/// Reads chunks that are present; `None` when one is not. What none of them covers is a hole, which
/// reads as zeros.
pub(super) fn gather(
    image: &dyn LayerImage,
    spans: &[ChunkSpan],
    range: &Range<u64>,
) -> Result<Option<Bytes>> {
    let outside =
        || Error::new(ErrorKind::Unexpected, "read::gather", "a chunk lies outside of the read");
    let at = |offset: u64| usize::try_from(offset - range.start).map_err(|_| outside());
    let mut buf = vec![0; at(range.end)?];
    for span in spans {
        let start = range.start.max(span.file_offset);
        let end = range.end.min(span.file_offset + span.key.len);
        let part = buf.get_mut(at(start)?..at(end)?).ok_or_else(outside)?;
        if !image.try_read(&span.slot(), start - span.file_offset, part)? {
            return Ok(None);
        }
    }
    Ok(Some(buf.into()))
}
