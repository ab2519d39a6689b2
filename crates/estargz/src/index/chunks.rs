//! Where the chunks of a layer lie: in the blob, and in the layer image.
use std::collections::BTreeSet;

use bolide_core::{ByteRange, ChunkKey, Digest, Error, ErrorKind, Result};

use super::zeros::Zeros;

const BLOCK: u64 = 4096;

/// One chunk, ready for use.
#[derive(Clone, Debug)]
pub(super) struct Chunk {
    pub(super) file: u32,
    pub(super) file_offset: u64,
    pub(super) image_offset: u64,
    pub(super) member: ByteRange,
    pub(super) inner_offset: u64,
    pub(super) key: ChunkKey,
}

/// One chunk as the TOC says it.
#[derive(Clone, Debug)]
pub(super) struct RawChunk {
    pub(super) file_offset: u64,
    /// 0 means to the end of the file.
    pub(super) len: u64,
    pub(super) offset: u64,
    pub(super) inner_offset: u64,
    pub(super) content: Content,
}

/// What a chunk holds, and what vouches for it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Content {
    /// Bytes of this digest.
    Chunk(Digest),
    /// All bytes of the file, which has this digest.
    File(Digest),
    /// Zeros. The TOC says so, and it was verified; their digest says it again.
    Zeros(Option<Digest>),
}

/// A file and its chunks, as the TOC says them.
#[derive(Debug)]
pub(super) struct RawFile {
    pub(super) node: u32,
    pub(super) size: u64,
    pub(super) chunks: Vec<RawChunk>,
}

/// The chunks of a layer, numbered. Holes are none of them.
#[derive(Debug, Default)]
pub(super) struct Layout {
    pub(super) chunks: Vec<Chunk>,
    /// Node and part of `chunks` of each file.
    pub(super) files: Vec<(u32, std::ops::Range<u32>)>,
    pub(super) blob_order: Vec<u32>,
    pub(super) image_size: u64,
    zeros: Zeros,
}

/// Numbers and places every chunk: files in the order of their payloads in the blob, so that what
/// was put first for being used first also lies together in the layer image.
pub(super) fn lay_out(
    mut files: Vec<RawFile>,
    members: &BTreeSet<u64>,
    payload_end: u64,
) -> Result<Layout> {
    // The node's number decides between equal places, or equal TOCs would be numbered differently.
    files.sort_by_key(|file| {
        let first = file.chunks.first();
        (first.map(|chunk| (chunk.offset, chunk.inner_offset)), file.node)
    });
    let mut layout = Layout::default();
    for file in &files {
        let first = number(layout.chunks.len())?;
        place(file, members, payload_end, &mut layout)
            .map_err(|error| error.with_context("node", file.node))?;
        layout.files.push((file.node, first..number(layout.chunks.len())?));
    }
    let place_of = |chunk: &Chunk| (chunk.member.start(), chunk.inner_offset);
    if !layout.chunks.is_sorted_by_key(place_of) {
        let mut order: Vec<u32> = (0..number(layout.chunks.len())?).collect();
        order.sort_by_key(|at| layout.chunks.get(*at as usize).map(place_of));
        layout.blob_order = order;
    }
    layout.chunks.shrink_to_fit();
    Ok(layout)
}

fn number(count: usize) -> Result<u32> {
    u32::try_from(count)
        .ok()
        .filter(|count| *count < u32::MAX)
        .ok_or_else(|| refuse("a layer may have 2^32 - 2 chunks"))
}

fn place(
    file: &RawFile,
    members: &BTreeSet<u64>,
    payload_end: u64,
    layout: &mut Layout,
) -> Result<()> {
    let base = layout.image_size;
    let mut at = 0;
    for (position, raw) in file.chunks.iter().enumerate() {
        if raw.file_offset != at {
            return Err(refuse(
                "the chunks of a file must follow each other without gap or overlap",
            )
            .with_context("chunk_offset", raw.file_offset)
            .with_context("expected", at));
        }
        let len = length(file, position, raw)?;
        if let Some(digest) = vouched(file, raw, len, &mut layout.zeros)? {
            layout.chunks.push(Chunk {
                file: file.node,
                file_offset: at,
                image_offset: base + at,
                member: member(raw.offset, members, payload_end)?,
                inner_offset: raw.inner_offset,
                key: ChunkKey { digest, len },
            });
        }
        at += len;
    }
    if at != file.size {
        return Err(refuse("the chunks of a file must cover it")
            .with_context("covered", at)
            .with_context("size", file.size));
    }
    layout.image_size = base
        .checked_add(file.size.next_multiple_of(BLOCK))
        .filter(|size| *size <= crate::format::MAX_FILE_SIZE)
        .ok_or_else(|| refuse("the files of a layer may have 2^62 bytes together"))?;
    Ok(())
}

/// The digest of a chunk; `None` for a hole.
fn vouched(file: &RawFile, raw: &RawChunk, len: u64, zeros: &mut Zeros) -> Result<Option<Digest>> {
    match raw.content {
        Content::Chunk(digest) => Ok(Some(digest)),
        Content::File(digest) if file.chunks.len() == 1 => Ok(Some(digest)),
        Content::File(_) => {
            Err(refuse("each chunk of a file in several must have a chunkDigest of sha256"))
        }
        Content::Zeros(digest) if digest.is_none_or(|digest| zeros.may_be(digest, len)) => Ok(None),
        Content::Zeros(_) => Err(refuse("a chunk of zeros must have the digest of zeros")
            .with_context("chunk_offset", raw.file_offset)),
    }
}

fn length(file: &RawFile, position: usize, raw: &RawChunk) -> Result<u64> {
    let rest = file.size - raw.file_offset.min(file.size);
    let last = position + 1 == file.chunks.len();
    let len = if raw.len == 0 && last { rest } else { raw.len };
    if len == 0 || len > rest {
        return Err(refuse("a chunk must hold at least one byte and end inside its file")
            .with_context("chunk_offset", raw.file_offset)
            .with_context("chunk_size", raw.len)
            .with_context("size", file.size));
    }
    Ok(len)
}

/// A member goes on to the start of the next one, or to the TOC.
fn member(offset: u64, members: &BTreeSet<u64>, payload_end: u64) -> Result<ByteRange> {
    let next = members.range(offset + 1..).next().copied().unwrap_or(payload_end);
    ByteRange::new(offset..next.min(payload_end)).map_err(|_| {
        refuse("a payload must start before the TOC")
            .with_context("offset", offset)
            .with_context("toc_offset", payload_end)
    })
}

fn refuse(rule: &'static str) -> Error {
    Error::new(ErrorKind::Malformed, "toc::chunks", rule)
}
