//! From the bytes of a blob to a TOC document, within bounds.
use std::io::Read as _;

use bolide_core::{Error, ErrorKind, Result};
use flate2::bufread::GzDecoder;

use crate::format;

/// Largest window of a zstd frame, as a power of two: the most that zstd writes unless it is told to
/// be read with a flag. A frame that asks for more is refused before anything is allocated for it.
const MAX_WINDOW_LOG: u32 = 27;

/// How a document is wrapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wrapping {
    /// As the one entry of a tar in gzip.
    GzipTar,
    /// As zstd frames that give so many bytes, or fewer.
    Zstd {
        /// What the footer says, which no digest covers.
        raw_size: u64,
    },
}

/// Unwraps a document.
pub(crate) fn unwrap(wrapped: &[u8], wrapping: Wrapping) -> Result<Vec<u8>> {
    match wrapping {
        Wrapping::GzipTar => untar(wrapped),
        Wrapping::Zstd { raw_size } => unzstd(wrapped, raw_size),
    }
}

/// The document in its member: one tar entry.
fn untar(compressed: &[u8]) -> Result<Vec<u8>> {
    // Room for the tar header, padding and end marks beside the document.
    let mut member = GzDecoder::new(compressed).take(format::MAX_TOC_BYTES + 4096);
    let mut header = [0; 512];
    let broken = |error| refuse("the TOC must be a whole gzip member").with_source(error);
    member.read_exact(&mut header).map_err(broken)?;
    let name_end = header[..100].iter().position(|byte| *byte == 0).unwrap_or(100);
    if &header[..name_end] != format::TOC_NAME.as_bytes() {
        return Err(refuse("the footer must point to a tar entry named stargz.index.json"));
    }
    let size =
        octal(&header[124..136]).ok_or_else(|| refuse("the tar header of the TOC has no size"))?;
    check_size("size", size)?;
    let mut document = Vec::new();
    let read = member.take(size).read_to_end(&mut document).map_err(broken)?;
    if read as u64 == size { Ok(document) } else { Err(refuse("the TOC ends early")) }
}

fn octal(field: &[u8]) -> Option<u64> {
    let text = str::from_utf8(field).ok()?.trim_matches(['\0', ' ']);
    u64::from_str_radix(text, 8).ok()
}

/// Decompresses as much as was announced, and refuses more.
fn unzstd(compressed: &[u8], raw_size: u64) -> Result<Vec<u8>> {
    check_size("raw_size", raw_size)?;
    let broken = |error| refuse("the TOC must be whole zstd frames").with_source(error);
    let mut decoder = zstd::Decoder::with_buffer(compressed).map_err(broken)?;
    decoder.window_log_max(MAX_WINDOW_LOG).map_err(broken)?;
    let mut document = Vec::new();
    decoder.take(raw_size + 1).read_to_end(&mut document).map_err(broken)?;
    if document.len() as u64 <= raw_size {
        return Ok(document);
    }
    Err(refuse("the TOC must not be longer than the footer says")
        .with_context("raw_size", raw_size))
}

/// `Exhausted` when a document is longer than one that is read.
pub(crate) fn check_size(what: &'static str, size: u64) -> Result<()> {
    if size <= format::MAX_TOC_BYTES {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Exhausted, "estargz::open", "a TOC may have 512 MiB")
        .with_context(what, size))
}

fn refuse(rule: &'static str) -> Error {
    Error::new(ErrorKind::Malformed, "estargz::open", rule)
}
