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

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use bolide_core::{ByteRange, ChunkIndex, ChunkKey, NodeId};

    use super::*;

    /// A member whose chunks follow each other.
    fn spans(codec: Codec, chunks: &[&[u8]]) -> Vec<ChunkSpan> {
        let mut inner_offset = 0;
        let span = |(number, chunk): (usize, &&[u8])| {
            let span = ChunkSpan {
                index: ChunkIndex(u32::try_from(number).expect("few")),
                file: NodeId(1),
                file_offset: 0,
                image_offset: 0,
                member: ByteRange::new(0..1).expect("not empty"),
                codec,
                inner_offset,
                key: ChunkKey::of(chunk),
            };
            inner_offset += chunk.len() as u64;
            span
        };
        chunks.iter().enumerate().map(span).collect()
    }

    fn gzip(raw: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
        encoder.write_all(raw).expect("memory");
        encoder.finish().expect("memory")
    }

    #[test]
    fn every_codec_gives_every_chunk() {
        let zstd = zstd::encode_all(&b"onetwo"[..], 1).expect("memory");
        for (codec, member) in [
            (Codec::Stored, b"onetwo".to_vec()),
            (Codec::Gzip, gzip(b"onetwo")),
            (Codec::Zstd, zstd),
        ] {
            let decoded = decode(&member, &spans(codec, &[b"one", b"two"]));
            let bytes: Vec<_> =
                decoded.into_iter().map(|chunk| chunk.expect("right").bytes().clone()).collect();
            assert_eq!(bytes, ["one", "two"], "{codec:?}");
        }
    }

    #[test]
    fn a_wrong_chunk_leaves_its_neighbour() {
        let decoded = decode(&gzip(b"oneTWO"), &spans(Codec::Gzip, &[b"one", b"two"]));
        assert!(decoded[0].is_ok());
        assert_eq!(decoded[1].as_ref().expect_err("wrong").kind(), ErrorKind::Corrupt);
        let cut = &gzip(b"one")[..12];
        assert!(decode(cut, &spans(Codec::Gzip, &[b"one"]))[0].is_err());
    }

    #[test]
    fn what_follows_the_last_chunk_is_not_decoded() {
        let mut member = gzip(b"one");
        member.extend_from_slice(b"no gzip at all");
        assert!(decode(&member, &spans(Codec::Gzip, &[b"one"]))[0].is_ok());
        // 64 MiB of zeros behind three bytes.
        let bomb = gzip(&[b"one".as_slice(), &vec![0; 64 << 20]].concat());
        let chunk = decode(&bomb, &spans(Codec::Gzip, &[b"one"])).remove(0).expect("right");
        assert_eq!(chunk.bytes().len(), 3);
    }
}
