//! From a compressed member to verified chunks.
use std::io::Read;

use bolide_core::{ChunkSpan, Codec, Error, ErrorKind, Result, VerifiedChunk};
use bytes::Bytes;

/// Decodes a member as far as its chunks need, and verifies each. What follows (tar headers,
/// padding, or a bomb) is not decoded.
pub(super) fn decode(member: &[u8], spans: &[ChunkSpan]) -> Result<Vec<VerifiedChunk>> {
    let end = spans.iter().map(end_of).max().unwrap_or(0);
    let Some(codec) = spans.first().map(|span| span.codec) else { return Ok(Vec::new()) };
    let raw = match codec {
        Codec::Stored => Bytes::copy_from_slice(member),
        Codec::Gzip => inflate(flate2::bufread::MultiGzDecoder::new(member), end)?,
        Codec::Zstd => {
            let decoder = zstd::Decoder::with_buffer(member);
            inflate(decoder.map_err(|error| broken(&error))?, end)?
        }
    };
    spans.iter().map(|span| cut(&raw, span)).collect()
}

/// One past the chunk's last byte in the decoded member.
pub(super) fn end_of(span: &ChunkSpan) -> u64 {
    span.inner_offset.saturating_add(span.key.len)
}

fn inflate(decoder: impl Read, end: u64) -> Result<Bytes> {
    let mut raw = Vec::with_capacity(usize::try_from(end).unwrap_or(0));
    decoder.take(end).read_to_end(&mut raw).map_err(|error| broken(&error))?;
    Ok(raw.into())
}

fn cut(raw: &Bytes, span: &ChunkSpan) -> Result<VerifiedChunk> {
    let at = |offset| usize::try_from(offset).unwrap_or(usize::MAX);
    let (start, end) = (at(span.inner_offset), at(end_of(span)));
    if end > raw.len() {
        return Err(Error::new(
            ErrorKind::Corrupt,
            "decode::cut",
            "the member ends before its chunk does",
        )
        .with_context("expected", span.key.digest)
        .with_context("decoded", raw.len()));
    }
    VerifiedChunk::verify(span.key, raw.slice(start..end))
}

pub(super) fn broken(error: &std::io::Error) -> Error {
    Error::new(
        ErrorKind::Corrupt,
        "decode::inflate",
        format!("the member cannot be decompressed: {error}"),
    )
}
