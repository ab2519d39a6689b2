//! Writes eStargz layers.
pub(crate) mod entry;
mod members;
mod order;
mod tar_entries;
pub(crate) mod tar_reader;
mod writer;

use std::{
    collections::BTreeMap,
    fmt,
    io::{BufRead, BufReader, Read, Seek, SeekFrom, Write},
    num::NonZeroUsize,
    str::FromStr,
};

use bolide_core::{Digest, Error, ErrorKind, Result};
use bytes::Bytes;

pub use tar_entries::TarEntries;
pub use tar_reader::TarEntry;

use crate::format;

/// What kind of blob to write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum BlobFormat {
    /// eStargz: gzip members, TOC at the end.
    #[default]
    Estargz,
    /// eStargz whose TOC goes into an image of its own.
    EstargzExternalToc,
    /// zstd:chunked as the reference writes it.
    ZstdChunked,
    /// zstd:chunked as containers/storage (Podman, Buildah, skopeo) writes it.
    ZstdChunkedPodman,
    /// A tar in gzip, not lazy.
    TarGzip,
    /// A tar in zstd, not lazy.
    TarZstd,
}

impl BlobFormat {
    /// All of them, by the names that people write.
    pub const ALL: [(Self, &str); 6] = [
        (Self::Estargz, "estargz"),
        (Self::EstargzExternalToc, "estargz-external-toc"),
        (Self::ZstdChunked, "zstd-chunked"),
        (Self::ZstdChunkedPodman, "zstd-chunked-podman"),
        (Self::TarGzip, "tar-gzip"),
        (Self::TarZstd, "tar-zstd"),
    ];

    /// Whether its blobs are compressed by zstd, and otherwise by gzip.
    #[must_use]
    pub const fn is_zstd(self) -> bool {
        matches!(self, Self::ZstdChunked | Self::ZstdChunkedPodman | Self::TarZstd)
    }

    /// Whether its layers can be read file by file.
    #[must_use]
    pub const fn is_lazy(self) -> bool {
        !matches!(self, Self::TarGzip | Self::TarZstd)
    }
}

impl fmt::Display for BlobFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::ALL.iter().find(|(format, _)| format == self).map_or("", |(_, name)| name);
        f.write_str(name)
    }
}

impl FromStr for BlobFormat {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let found = Self::ALL.iter().find(|(_, name)| *name == text);
        found.map(|(format, _)| *format).ok_or_else(|| {
            let known: Vec<_> = Self::ALL.iter().map(|(_, name)| *name).collect();
            Error::new(ErrorKind::Malformed, "estargz::format", "there is no such format of layers")
                .with_context("format", format!("{text:?}"))
                .with_context("known", known.join(", "))
        })
    }
}

/// How to write a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildOptions {
    /// What kind of blob to write.
    pub format: BlobFormat,
    /// Largest chunk, in bytes; at least 1.
    pub chunk_size: u64,
    /// Files are packed into one member until it has so many compressed bytes; 0 packs none.
    pub min_chunk_size: u64,
    /// Compression level: of gzip 0 to 9, of zstd 1 to 22; the format's own default if not given.
    pub level: Option<u32>,
    /// Whether the tar stays as it is to the byte, so that diffID and size stay too.
    pub keep_diff_id: bool,
    /// Paths that are used first, in the order of first use. What they need (parent directories,
    /// targets of hard links) goes before them.
    pub prioritized: Vec<String>,
    /// Whether a prioritized path that the layer does not have is passed over, or an error.
    pub allow_missing: bool,
    /// Latest modification time to write, in seconds since 1970; later ones become this
    /// (`SOURCE_DATE_EPOCH` of reproducible-builds.org).
    pub latest_mtime: Option<i64>,
    /// Threads that compress. The bytes written do not depend on it.
    pub parallelism: NonZeroUsize,
}

impl Default for BuildOptions {
    fn default() -> Self {
        Self {
            format: BlobFormat::default(),
            chunk_size: format::DEFAULT_CHUNK_SIZE,
            min_chunk_size: 0,
            level: None,
            keep_diff_id: false,
            prioritized: Vec::new(),
            allow_missing: true,
            latest_mtime: None,
            parallelism: NonZeroUsize::MIN,
        }
    }
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildReport {
    /// Digest of the blob.
    pub blob_digest: Digest,
    /// Size of the blob, in bytes.
    pub blob_size: u64,
    /// Digest of the uncompressed blob.
    pub diff_id: Digest,
    /// Size of the uncompressed blob, in bytes.
    pub uncompressed_size: u64,
    /// Digest of the TOC document; none in formats that have none.
    pub toc_digest: Option<Digest>,
    /// The TOC document, when the blob does not hold it.
    pub external_toc: Option<Bytes>,
    /// What the layer's descriptor must be annotated with.
    pub annotations: BTreeMap<String, String>,
    /// Entries of the TOC that are not chunks.
    pub entries: u32,
    /// Size of the prioritized area of the blob, in bytes.
    pub prioritized_size: u64,
}

/// Room for the uncompressed tar while it is put in another order.
pub trait Spool: Read + Write + Seek + Send {}

impl<T: Read + Write + Seek + Send> Spool for T {}

/// Reads a layer (tar, gzip or zstd over tar) and writes it as eStargz.
///
/// A `spool` is needed when paths are prioritized; then, of two entries with one path, only the
/// later is written. Without one both are, and readers take the later.
///
/// `Malformed` when the input is not a tar,
/// `Unsupported` for entries no container runtime unpacks (GNU sparse files, multi-volume parts),
/// `Io` when reading or writing fails.
pub fn convert_layer(
    input: &mut (dyn Read + Send),
    output: &mut (dyn Write + Send),
    options: &BuildOptions,
    spool: Option<&mut dyn Spool>,
) -> Result<BuildReport> {
    if options.format != BlobFormat::Estargz || options.keep_diff_id || options.min_chunk_size > 0 {
        return Err(Error::new(
            ErrorKind::Unsupported,
            "estargz::convert",
            "only eStargz is written",
        ));
    }
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
