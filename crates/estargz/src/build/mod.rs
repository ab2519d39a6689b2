//! Writes eStargz layers.
pub(crate) mod entry;
mod members;
mod order;
mod tar_entries;
pub(crate) mod tar_reader;
mod writer;

use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};

use bolide_core::{Digest, Error, ErrorKind, Result};

pub use tar_entries::TarEntries;
pub use tar_reader::TarEntry;

use crate::format;

/// How to write a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildOptions {
    /// Largest chunk, in bytes; at least 1.
    pub chunk_size: u64,
    /// Compression level of zlib, 0 to 9.
    pub level: u32,
    /// Paths that are used first, in the order of first use. What they need (parent directories,
    /// targets of hard links) goes before them.
    pub prioritized: Vec<String>,
    /// Whether a prioritized path that the layer does not have is passed over, or an error.
    pub allow_missing: bool,
}

impl Default for BuildOptions {
    fn default() -> Self {
        Self {
            chunk_size: format::DEFAULT_CHUNK_SIZE,
            level: 6,
            prioritized: Vec::new(),
            allow_missing: true,
        }
    }
}

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BuildReport {
    /// Digest of the blob.
    pub blob_digest: Digest,
    /// Size of the blob, in bytes.
    pub blob_size: u64,
    /// Digest of the uncompressed blob.
    pub diff_id: Digest,
    /// Size of the uncompressed blob, in bytes.
    pub uncompressed_size: u64,
    /// Digest of the TOC document.
    pub toc_digest: Digest,
    /// Entries of the TOC that are not chunks.
    pub entries: u32,
}

/// Room for the uncompressed tar while it is put in another order.
pub trait Spool: Read + Write + Seek {}

impl<T: Read + Write + Seek> Spool for T {}

/// Reads a layer (tar, gzip or zstd over tar) and writes it as eStargz.
///
/// A `spool` is needed when paths are prioritized; then, of two entries with one path, only the
/// later is written. Without one both are, and readers take the later.
///
/// `Malformed` when the input is not a tar,
/// `Unsupported` for entries no container runtime unpacks (GNU sparse files, multi-volume parts),
/// `Io` when reading or writing fails.
pub fn convert_layer(
    input: &mut dyn Read,
    output: &mut dyn Write,
    options: &BuildOptions,
    spool: Option<&mut dyn Spool>,
) -> Result<BuildReport> {
    let mut tar = decompress(BufReader::with_capacity(64 * 1024, input))?;
    if options.prioritized.is_empty() {
        return writer::write_in_order(&mut *tar, output, options);
    }
    let spool = spool.ok_or_else(|| {
        Error::new(
            ErrorKind::Config,
            "estargz::convert",
            "a spool file is needed to put prioritized files first",
        )
    })?;
    std::io::copy(&mut *tar, spool).map_err(read_failed)?;
    spool.seek(SeekFrom::Start(0)).map_err(read_failed)?;
    order::write_prioritized(spool, output, options)
}

pub(crate) fn decompress<'a>(mut input: impl BufRead + 'a) -> Result<Box<dyn Read + 'a>> {
    let magic = input.fill_buf().map_err(read_failed)?;
    if magic.starts_with(&[0x1f, 0x8b]) {
        return Ok(Box::new(flate2::bufread::MultiGzDecoder::new(input)));
    }
    if magic.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) || is_skippable(magic) {
        let decoder = zstd::Decoder::with_buffer(input).map_err(read_failed)?;
        return Ok(Box::new(decoder));
    }
    Ok(Box::new(input))
}

/// A zstd stream may begin with a frame that is to be skipped (RFC 8878, section 3.1.2).
fn is_skippable(magic: &[u8]) -> bool {
    matches!(magic, [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..])
}

fn read_failed(error: std::io::Error) -> Error {
    Error::io("estargz::convert", error)
}
