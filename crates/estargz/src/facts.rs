//! What is known of a layer once its TOC was found: of its blob, and why its TOC is believed.
use std::{collections::BTreeMap, sync::Arc};

use bolide_core::{Digest, Error, ErrorKind, Result};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{EstargzIndex, format};

/// On what ground a TOC is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TocTrust {
    /// Its digest is annotated in a verified manifest.
    Digest(Digest),
    /// The digest it has as it lies in its blob, compressed, is annotated in a verified manifest: all
    /// that containers/storage says of a zstd:chunked layer.
    Compressed(Digest),
    /// The operator turned verification off, by name.
    Unverified,
}

impl TocTrust {
    /// What the annotations of a layer's descriptor vouch for; `None` when they say nothing.
    ///
    /// The digest of the document is preferred: it names the same tree however that is compressed.
    /// `Malformed`, naming the annotation, when its value is no digest.
    pub fn of_annotations(annotations: &BTreeMap<String, String>) -> Result<Option<Self>> {
        let said = |key: &'static str| {
            let parsed = annotations.get(key).map(|text| text.parse());
            parsed.transpose().map_err(|error: Error| error.with_context("annotation", key))
        };
        for key in [format::ANNOTATION_TOC_DIGEST, format::ANNOTATION_OWN_TOC_DIGEST] {
            if let Some(digest) = said(key)? {
                return Ok(Some(Self::Digest(digest)));
            }
        }
        let checksum = match said(format::ANNOTATION_PODMAN_CHECKSUM)? {
            Some(digest) => Some(digest),
            None => said(format::ANNOTATION_ZSTD_CHECKSUM)?,
        };
        Ok(checksum.map(Self::Compressed))
    }

    /// `Corrupt` when the digest of what is to be believed is not the one that vouches.
    pub(crate) fn check(self, actual: Digest) -> Result<()> {
        let Some(expected) = self.digest().filter(|expected| *expected != actual) else {
            return Ok(());
        };
        Err(Error::new(
            ErrorKind::Corrupt,
            "estargz::from_toc",
            "the TOC does not match the digest its layer is annotated with",
        )
        .with_context("expected", expected)
        .with_context("actual", actual))
    }

    /// The digest that vouches. It names the index, and what is kept of it.
    #[must_use]
    pub const fn digest(self) -> Option<Digest> {
        match self {
            Self::Digest(digest) | Self::Compressed(digest) => Some(digest),
            Self::Unverified => None,
        }
    }
}

/// Which format a layer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LayerFormat {
    /// eStargz.
    Estargz,
    /// stargz as CRFS wrote it.
    LegacyStargz,
    /// eStargz whose TOC lies in an image of its own.
    EstargzExternalToc,
    /// zstd:chunked with the footer of the reference.
    ZstdChunked,
    /// zstd:chunked with the longer footer of containers/storage (Podman, Buildah, skopeo).
    ZstdChunkedPodman,
}

impl LayerFormat {
    /// Whether members are compressed by zstd, and otherwise by gzip.
    #[must_use]
    pub const fn is_zstd(self) -> bool {
        matches!(self, Self::ZstdChunked | Self::ZstdChunkedPodman)
    }
}

/// What must be known of a blob, beside its TOC, to mount the layer again without asking anyone.
///
/// It is kept on disk as JSON, so fields and names of formats stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobFacts {
    /// Digest of the blob.
    pub blob: Digest,
    /// Size of the blob, in bytes.
    pub blob_size: u64,
    /// Where payloads end, in bytes: at the TOC, or what stands in its place.
    pub toc_offset: u64,
    /// Format.
    pub format: LayerFormat,
}

/// A layer whose TOC was read and verified.
#[derive(Clone, Debug)]
pub struct OpenedLayer {
    /// Its index.
    pub index: Arc<EstargzIndex>,
    /// Its TOC document.
    pub toc: Bytes,
    /// What [`EstargzIndex::from_toc`] makes the same index of, on the same ground: the document, or
    /// its compressed form where only that is vouched for.
    pub kept: Bytes,
    /// What was learned of the blob.
    pub facts: BlobFacts,
}
