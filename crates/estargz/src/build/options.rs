//! How to write a layer, and what of it makes no sense.
use std::{num::NonZeroUsize, ops::RangeInclusive};

use bolide_core::{Error, ErrorKind, Result};

use super::BlobFormat;
use crate::format;

/// Compression levels of gzip, and the one of the reference.
const GZIP: (RangeInclusive<u32>, u32) = (0..=9, 9);
/// Compression levels of zstd, and the one of the reference.
const ZSTD: (RangeInclusive<u32>, u32) = (1..=22, 3);

/// How to write a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildOptions {
    /// What kind of blob to write.
    pub format: BlobFormat,
    /// Largest chunk, in bytes; at least 1. In zstd-chunked-podman none has more than 4 MiB.
    pub chunk_size: u64,
    /// Files are packed into one member until it has so many compressed bytes; 0 packs none. A
    /// member ends earlier where 4 MiB of uncompressed bytes do, so that threads share the work.
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
    /// Threads that compress, at most 64. The bytes written do not depend on it. Each holds some
    /// MiB; at the levels of zstd above 8, tens of MiB.
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

impl BuildOptions {
    /// `Config` when the options contradict each other or lie outside of their ranges.
    pub(super) fn check(&self) -> Result<()> {
        let (levels, _) = self.levels();
        if let Some(level) = self.level.filter(|level| !levels.contains(level)) {
            let rule = if self.format.is_zstd() {
                "compression levels of zstd go from 1 to 22"
            } else {
                "compression levels of gzip go from 0 to 9"
            };
            return Err(refuse(rule).with_context("level", level));
        }
        if self.chunk_size == 0 {
            return Err(refuse("a chunk has at least 1 byte"));
        }
        if self.keep_diff_id && self.format == BlobFormat::Estargz {
            return Err(refuse(
                "eStargz keeps its TOC inside of the tar, which changes the diffID; to keep it \
                 choose estargz-external-toc, zstd-chunked or zstd-chunked-podman",
            ));
        }
        if self.keep_diff_id && !self.prioritized.is_empty() {
            return Err(refuse(
                "prioritized files change the order of the tar and so its diffID; give up one of \
                 the two",
            ));
        }
        if self.min_chunk_size > 0 && self.format == BlobFormat::ZstdChunkedPodman {
            return Err(refuse(
                "containers/storage reads one chunk a frame; min_chunk_size must be 0 for \
                 zstd-chunked-podman",
            ));
        }
        Ok(())
    }

    /// The level to compress at.
    pub(super) fn effective_level(&self) -> u32 {
        self.level.unwrap_or(self.levels().1)
    }

    fn levels(&self) -> (RangeInclusive<u32>, u32) {
        if self.format.is_zstd() { ZSTD } else { GZIP }
    }
}

fn refuse(rule: &'static str) -> Error {
    Error::new(ErrorKind::Config, "estargz::options", rule)
}
