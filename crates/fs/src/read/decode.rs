//! From a compressed member to verified chunks.
use std::io::Read;

use bolide_core::{ChunkSpan, Codec, Error, ErrorKind, Result, VerifiedChunk};
use bytes::Bytes;

/// Decodes a member as far as its chunks need, and verifies each by itself: damage to one does not
/// take its neighbours along. What follows the last (tar headers, padding, or a bomb) is not decoded.
pub(super) fn decode(member: &[u8], spans: &[ChunkSpan]) -> Vec<Result<VerifiedChunk>> {
    let end = spans.iter().map(end_of).max().unwrap_or(0);
    let codec = spans.first().map_or(Codec::Stored, |span| span.codec);
    let (raw, failure) = match codec {
        Codec::Stored => (Bytes::copy_from_slice(member), None),
        Codec::Gzip => inflate(flate2::bufread::MultiGzDecoder::new(member), end),
        Codec::Zstd => match zstd::Decoder::with_buffer(member) {
            Ok(decoder) => inflate(decoder, end),
            Err(error) => (Bytes::new(), Some(broken(&error))),
        },
    };
    spans.iter().map(|span| cut(&raw, failure.as_ref(), span)).collect()
}

/// One past the chunk's last byte in the decoded member.
pub(super) fn end_of(span: &ChunkSpan) -> u64 {
    span.inner_offset.saturating_add(span.key.len)
}

/// What could be decoded, and why that is not all.
fn inflate(decoder: impl Read, end: u64) -> (Bytes, Option<Error>) {
    let mut raw = Vec::with_capacity(usize::try_from(end).unwrap_or(0));
    let failure = decoder.take(end).read_to_end(&mut raw).err().map(|error| broken(&error));
    (raw.into(), failure)
}

fn cut(raw: &Bytes, failure: Option<&Error>, span: &ChunkSpan) -> Result<VerifiedChunk> {
    let at = |offset| usize::try_from(offset).unwrap_or(usize::MAX);
    let (start, end) = (at(span.inner_offset), at(end_of(span)));
    if end > raw.len() {
        let short = || {
            Error::new(ErrorKind::Corrupt, "decode::cut", "the member ends before its chunk does")
        };
        let error = failure.cloned().unwrap_or_else(short);
        return Err(error
            .with_context("expected", span.key.digest)
            .with_context("decoded", raw.len()));
    }
    let bytes = raw.slice(start..end);
    // A cache that keeps a small chunk must not keep the whole member alive through it.
    let bytes = if bytes.len() < raw.len() / 2 { Bytes::copy_from_slice(&bytes) } else { bytes };
    VerifiedChunk::verify(span.key, bytes)
}

pub(super) fn broken(error: &std::io::Error) -> Error {
    Error::new(
        ErrorKind::Corrupt,
        "decode::inflate",
        format!("the member cannot be decompressed: {error}"),
    )
}
