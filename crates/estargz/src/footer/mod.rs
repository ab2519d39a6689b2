//! The last bytes of a blob: where the TOC starts.
mod zstd;

use bolide_core::{Error, ErrorKind, Result};

use zstd::SKIPPABLE_HEADER;
pub(crate) use zstd::{MANIFEST_TYPE, skippable_header};
pub use zstd::{ZstdDocument, ZstdFooter};

/// A gzip header with an extra field, as far as its fixed part: magic, deflate, FEXTRA.
const GZIP_HEADER: [u8; 10] = [0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 0xff];
/// An empty final stored block, and the checksum and length of nothing.
const EMPTY_DEFLATE: [u8; 13] = [1, 0, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0];
const MAGIC: &[u8; 6] = b"STARGZ";
const EXTERNAL_MAGIC: &[u8; 17] = b"STARGZEXTERNALTOC";

/// Where the TOC of a blob starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Footer {
    /// eStargz, 51 bytes.
    Estargz {
        /// Offset of the TOC's member in the blob, in bytes.
        toc_offset: u64,
    },
    /// stargz as CRFS wrote it, 47 bytes.
    Legacy {
        /// Offset of the TOC's member in the blob, in bytes.
        toc_offset: u64,
    },
    /// eStargz whose TOC lies in an image of its own, 46 bytes.
    ExternalToc,
    /// zstd:chunked, 40 or 64 bytes.
    ZstdChunked(ZstdFooter),
}

impl Footer {
    /// Size of an eStargz footer, in bytes.
    pub const SIZE: usize = 51;
    /// Size of a legacy footer, in bytes.
    pub const LEGACY_SIZE: usize = 47;
    /// Size of the footer of a blob whose TOC is elsewhere, in bytes.
    pub const EXTERNAL_SIZE: usize = 46;
    /// Size of the longest footer, in bytes: what to read of a blob's end to know its kind.
    pub const MAX_SIZE: usize = ZstdFooter::PODMAN_SIZE;

    /// Size of this footer, in bytes.
    #[must_use]
    pub const fn size(self) -> usize {
        match self {
            Self::Estargz { .. } => Self::SIZE,
            Self::Legacy { .. } => Self::LEGACY_SIZE,
            Self::ExternalToc => Self::EXTERNAL_SIZE,
            Self::ZstdChunked(footer) => footer.size(),
        }
    }

    /// Where the payloads of a blob of `blob_size` bytes end, in bytes.
    #[must_use]
    pub const fn payload_end(self, blob_size: u64) -> u64 {
        match self {
            Self::Estargz { toc_offset } | Self::Legacy { toc_offset } => toc_offset,
            Self::ExternalToc => blob_size.saturating_sub(Self::EXTERNAL_SIZE as u64),
            Self::ZstdChunked(footer) => footer.toc.range.start().saturating_sub(SKIPPABLE_HEADER),
        }
    }

    /// Reads the footer at the end of a blob of `blob_size` bytes, of which `tail` is the end.
    ///
    /// `Unsupported` when the blob ends otherwise: it is a plain tar.gz. `Malformed` when the
    /// footer points outside the blob.
    pub fn parse(tail: &[u8], blob_size: u64) -> Result<Self> {
        if let Some(footer) = ZstdFooter::parse(tail, blob_size) {
            return footer.map(Self::ZstdChunked);
        }
        let gzip = parse_modern(tail).or_else(|| parse_legacy(tail));
        let footer = gzip.or_else(|| parse_external(tail)).ok_or_else(|| {
            Error::new(
                ErrorKind::Unsupported,
                "footer::parse",
                "the blob has no footer of eStargz or zstd:chunked; convert the image to have it \
                 pulled lazily",
            )
        })?;
        let room = blob_size.checked_sub(footer.size() as u64);
        let outside = footer != Self::ExternalToc
            && room.is_none_or(|room| footer.payload_end(blob_size) >= room);
        if outside { Err(misplaced(blob_size)) } else { Ok(footer) }
    }

    /// The 51 bytes of an eStargz footer.
    #[must_use]
    pub fn write(toc_offset: u64) -> [u8; Self::SIZE] {
        let mut out = [0; Self::SIZE];
        out[..10].copy_from_slice(&GZIP_HEADER);
        out[10..16].copy_from_slice(&[0x1a, 0, b'S', b'G', 0x16, 0]);
        out[16..32].copy_from_slice(format!("{toc_offset:016x}").as_bytes());
        out[32..38].copy_from_slice(MAGIC);
        out[38..].copy_from_slice(&EMPTY_DEFLATE);
        out
    }

    /// The 46 bytes that end a blob whose TOC lies elsewhere.
    #[must_use]
    pub fn write_external() -> [u8; Self::EXTERNAL_SIZE] {
        let mut out = [0; Self::EXTERNAL_SIZE];
        out[..10].copy_from_slice(&GZIP_HEADER);
        out[10..16].copy_from_slice(&[0x15, 0, b'S', b'G', 0x11, 0]);
        out[16..33].copy_from_slice(EXTERNAL_MAGIC);
        out[33..].copy_from_slice(&EMPTY_DEFLATE);
        out
    }
}

fn misplaced(blob_size: u64) -> Error {
    Error::new(
        ErrorKind::Malformed,
        "footer::parse",
        "the footer must point to a TOC inside the blob",
    )
    .with_context("blob_size", blob_size)
}

/// The extra field of the gzip header that the last `size` bytes begin with. The deflate part is
/// not compared: it was made by compressors that differ.
fn extra(tail: &[u8], size: usize, extra_len: u8) -> Option<&[u8]> {
    let footer = &tail[tail.len().checked_sub(size)?..];
    let (fixed, rest) = (footer.get(..4)?, footer.get(10..)?);
    let (len, rest) = (rest.get(..2)?, rest.get(2..)?);
    (fixed == &GZIP_HEADER[..4] && len == [extra_len, 0]).then_some(rest)?.get(..extra_len.into())
}

fn parse_modern(tail: &[u8]) -> Option<Footer> {
    let field = extra(tail, Footer::SIZE, 0x1a)?.strip_prefix(&[b'S', b'G', 0x16, 0])?;
    Some(Footer::Estargz { toc_offset: parse_offset(field)? })
}

fn parse_legacy(tail: &[u8]) -> Option<Footer> {
    let field = extra(tail, Footer::LEGACY_SIZE, 0x16)?;
    Some(Footer::Legacy { toc_offset: parse_offset(field)? })
}

fn parse_external(tail: &[u8]) -> Option<Footer> {
    let field = extra(tail, Footer::EXTERNAL_SIZE, 0x15)?.strip_prefix(&[b'S', b'G', 0x11, 0])?;
    (field == EXTERNAL_MAGIC).then_some(Footer::ExternalToc)
}

fn parse_offset(field: &[u8]) -> Option<u64> {
    let hex = field.strip_suffix(MAGIC)?;
    // from_str_radix takes a sign; the format does not.
    let plain = hex.len() == 16 && hex.iter().all(u8::is_ascii_hexdigit);
    let text = plain.then(|| str::from_utf8(hex).ok()).flatten()?;
    u64::from_str_radix(text, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn legacy(toc_offset: u64) -> Vec<u8> {
        let mut out = GZIP_HEADER.to_vec();
        out.extend([0x16, 0]);
        out.extend(format!("{toc_offset:016x}STARGZ").bytes());
        out.extend(EMPTY_DEFLATE);
        out.truncate(Footer::LEGACY_SIZE);
        out
    }

    #[test]
    fn offsets_round_trip() {
        for toc_offset in (0..200_000).step_by(1023) {
            let tail = [b"before".as_slice(), &Footer::write(toc_offset)].concat();
            let parsed = Footer::parse(&tail, 300_000).expect("parses");
            assert_eq!(parsed, Footer::Estargz { toc_offset });
            let parsed = Footer::parse(&legacy(toc_offset), 300_000).expect("parses");
            assert_eq!(parsed, Footer::Legacy { toc_offset });
        }
    }

    #[test]
    fn an_external_toc_is_told() {
        let tail = [b"before".as_slice(), &Footer::write_external()].concat();
        let footer = Footer::parse(&tail, 300_000).expect("parses");
        assert_eq!((footer, footer.payload_end(300_000)), (Footer::ExternalToc, 299_954));
    }

    #[test]
    fn every_damaged_byte_of_the_extra_field_is_noticed() {
        for at in (0..4).chain(10..16).chain(32..38) {
            let mut tail = Footer::write(77);
            tail[at] ^= 0x80;
            let error = Footer::parse(&tail, 1000).expect_err("damaged");
            assert_eq!(error.kind(), ErrorKind::Unsupported, "byte {at}");
        }
    }

    #[test]
    fn short_tails_and_offsets_outside_are_errors() {
        for len in 0..Footer::SIZE {
            assert!(Footer::parse(&Footer::write(1)[..len], 1000).is_err());
        }
        for toc_offset in [949, 1000, u64::MAX] {
            let error = Footer::parse(&Footer::write(toc_offset), 1000).expect_err("outside");
            assert_eq!(error.kind(), ErrorKind::Malformed);
        }
        assert!(Footer::parse(&Footer::write(948), 1000).is_ok());
    }
}
