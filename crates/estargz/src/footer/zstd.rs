//! The footer of zstd:chunked: a frame that decompressors skip, which says where the TOC lies.
//!
//! The reference writes 40 bytes, containers/storage (Podman, Buildah, skopeo) 64, the additional
//! ones for tar-split (reference facts, section 2.6). Numbers are little-endian words of 64 bits.
use bolide_core::ByteRange;

use super::misplaced;

/// First four bytes of a frame that decompressors skip (RFC 8878, section 3.1.2).
const SKIPPABLE: [u8; 4] = [0x50, 0x2a, 0x4d, 0x18];
/// Bytes before the content of such a frame: the mark and its length.
pub(super) const SKIPPABLE_HEADER: u64 = 8;
const REFERENCE_MAGIC: [u8; 8] = *b"GnUlInUx";
const PODMAN_MAGIC: [u8; 8] = *b"GNUlInUx";
/// "Offsets are those of the format described above"; there is no other.
pub(crate) const MANIFEST_TYPE: u64 = 1;
const WORD: usize = 8;

/// A document in a blob, compressed by zstd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ZstdDocument {
    /// Where its compressed bytes lie in the blob; its skippable header lies 8 bytes before.
    pub range: ByteRange,
    /// Size once decompressed, in bytes.
    pub raw_size: u64,
}

/// What the footer of a zstd:chunked blob says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ZstdFooter {
    /// The TOC.
    pub toc: ZstdDocument,
    /// What rebuilds the tar to the byte; in blobs of containers/storage.
    pub tar_split: Option<ZstdDocument>,
    /// Whether it has the form of containers/storage.
    pub podman: bool,
}

impl ZstdFooter {
    /// Size of the reference's footer, in bytes.
    pub const SIZE: usize = 5 * WORD;
    /// Size of the footer of containers/storage, in bytes.
    pub const PODMAN_SIZE: usize = 8 * WORD;

    /// Size of this footer, in bytes; the header of its frame lies before it.
    #[must_use]
    pub const fn size(&self) -> usize {
        if self.podman { Self::PODMAN_SIZE } else { Self::SIZE }
    }

    /// The bytes that end the blob: a whole skippable frame.
    #[must_use]
    pub fn write(&self) -> Vec<u8> {
        let mut words =
            vec![self.toc.range.start(), self.toc.range.len(), self.toc.raw_size, MANIFEST_TYPE];
        if self.podman {
            let split = self
                .tar_split
                .map(|split| [split.range.start(), split.range.len(), split.raw_size]);
            words.extend(split.unwrap_or_default());
        }
        let magic = if self.podman { PODMAN_MAGIC } else { REFERENCE_MAGIC };
        let content: Vec<u8> = words.into_iter().flat_map(u64::to_le_bytes).chain(magic).collect();
        // As many bytes as `size` says.
        let len = if self.podman { 64 } else { 40 };
        [&skippable_header(len)[..], &content].concat()
    }

    /// `None` when the tail ends otherwise.
    pub(super) fn parse(tail: &[u8], blob_size: u64) -> Option<bolide_core::Result<Self>> {
        let (podman, size) = if tail.ends_with(&PODMAN_MAGIC) {
            (true, Self::PODMAN_SIZE)
        } else if tail.ends_with(&REFERENCE_MAGIC) {
            (false, Self::SIZE)
        } else {
            return None;
        };
        let footer = &tail[tail.len().checked_sub(size)?..];
        let words: Vec<u64> = footer
            .chunks_exact(WORD)
            .map(|word| word.try_into().map_or(0, u64::from_le_bytes))
            .collect();
        let room = blob_size.saturating_sub(size as u64 + SKIPPABLE_HEADER);
        let toc = document(&words, room).filter(|_| words.get(3) == Some(&MANIFEST_TYPE));
        // A tar-split that lies nowhere is none: nothing is read from it.
        let tar_split =
            if podman { words.get(4..).and_then(|split| document(split, room)) } else { None };
        Some(toc.map(|toc| Self { toc, tar_split, podman }).ok_or_else(|| misplaced(blob_size)))
    }
}

/// Offset, compressed and raw size of a document that lies before `room`.
fn document(words: &[u64], room: u64) -> Option<ZstdDocument> {
    let [start, len, raw_size, ..] = *words else { return None };
    let end = start.checked_add(len).filter(|end| *end <= room)?;
    (start >= SKIPPABLE_HEADER).then_some(())?;
    Some(ZstdDocument { range: ByteRange::new(start..end).ok()?, raw_size })
}

/// The header of a frame that decompressors skip.
pub(crate) fn skippable_header(len: u32) -> [u8; 8] {
    let mut header = [0; 8];
    header[..4].copy_from_slice(&SKIPPABLE);
    header[4..].copy_from_slice(&len.to_le_bytes());
    header
}

#[cfg(test)]
mod tests {
    use bolide_core::ErrorKind;

    use super::{super::Footer, *};

    fn document(start: u64) -> ZstdDocument {
        ZstdDocument { range: ByteRange::new(start..start + 100).expect("range"), raw_size: 1000 }
    }

    #[test]
    fn both_forms_round_trip() {
        for start in (8..200_000).step_by(1023) {
            for podman in [false, true] {
                let tar_split = podman.then(|| document(start + 200));
                let footer = ZstdFooter { toc: document(start), tar_split, podman };
                let bytes = footer.write();
                assert_eq!(bytes.len(), footer.size() + 8);
                let parsed = Footer::parse(&bytes, 300_000).expect("parses");
                assert_eq!(parsed, Footer::ZstdChunked(footer));
            }
        }
    }

    #[test]
    fn documents_outside_of_the_blob_are_refused() {
        let footer = ZstdFooter { toc: document(900), tar_split: None, podman: false };
        let error = Footer::parse(&footer.write(), 1000).expect_err("outside");
        assert_eq!(error.kind(), ErrorKind::Malformed);
        let mut bytes = footer.write();
        bytes[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
        assert_eq!(Footer::parse(&bytes, 1000).expect_err("overflow").kind(), ErrorKind::Malformed);
    }
}
