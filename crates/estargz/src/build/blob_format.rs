//! The kinds of blobs that are written, and their names.
use std::{fmt, str::FromStr};

use bolide_core::{Error, ErrorKind, Result};

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
