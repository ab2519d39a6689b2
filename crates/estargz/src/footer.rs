//! The last bytes of a blob: where the TOC starts.
use bolide_core::{Error, ErrorKind, Result};

/// A gzip header with an extra field, as far as its fixed part: magic, deflate, FEXTRA.
const GZIP_HEADER: [u8; 10] = [0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 0xff];
/// An empty final stored block, and the checksum and length of nothing.
const EMPTY_DEFLATE: [u8; 13] = [1, 0, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0];
const MAGIC: &[u8; 6] = b"STARGZ";

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
}

impl Footer {
    /// Size of an eStargz footer, in bytes.
    pub const SIZE: usize = 51;
    /// Size of a legacy footer, in bytes.
    pub const LEGACY_SIZE: usize = 47;

    /// Offset of the TOC's member in the blob, in bytes.
    #[must_use]
    pub const fn toc_offset(self) -> u64 {
        match self {
            Self::Estargz { toc_offset } | Self::Legacy { toc_offset } => toc_offset,
        }
    }

    /// Size of this footer, in bytes.
    #[must_use]
    pub const fn size(self) -> usize {
        match self {
            Self::Estargz { .. } => Self::SIZE,
            Self::Legacy { .. } => Self::LEGACY_SIZE,
        }
    }

    /// Reads the footer at the end of a blob of `blob_size` bytes, of which `tail` is the end.
    ///
    /// `Unsupported` when the blob ends otherwise: it is a plain tar.gz. `Malformed` when the
    /// footer points outside the blob.
    pub fn parse(tail: &[u8], blob_size: u64) -> Result<Self> {
        let footer = parse_modern(tail).or_else(|| parse_legacy(tail)).ok_or_else(|| {
            Error::new(
                ErrorKind::Unsupported,
                "footer::parse",
                "the blob has no eStargz footer; convert the image to have it pulled lazily",
            )
        })?;
        let room = blob_size.checked_sub(footer.size() as u64);
        if room.is_none_or(|room| footer.toc_offset() >= room) {
            return Err(Error::new(
                ErrorKind::Malformed,
                "footer::parse",
                "the footer must point to a TOC inside the blob",
            )
            .with_context("toc_offset", footer.toc_offset())
            .with_context("blob_size", blob_size));
        }
        Ok(footer)
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
