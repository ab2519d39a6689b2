//! What a conversion tells: while it runs, and at its end.
use std::collections::BTreeMap;

use bolide_core::Digest;
use bytes::Bytes;
use serde::Serialize;

use crate::{ImageSource, Platform};

/// What happens while an image is converted. Layers are numbered from 0, image after image, bottom
/// to top, each blob once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Progress {
    /// A layer of this size, in bytes, is begun.
    Started {
        /// Number of the layer.
        layer: usize,
        /// Size of the source blob, in bytes.
        size: u64,
    },
    /// So many more bytes of a layer's source blob were read, or need not be.
    Read {
        /// Number of the layer.
        layer: usize,
        /// Bytes since the last report.
        bytes: u64,
    },
    /// A layer is stored at the destination.
    Stored {
        /// Number of the layer.
        layer: usize,
        /// Size of the new blob, in bytes.
        size: u64,
    },
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ConvertReport {
    /// Digest of the new manifest or index.
    pub digest: Digest,
    /// The images that were converted, in the order of the index.
    pub images: Vec<ConvertedImage>,
    /// The layers, image after image, bottom to top.
    pub layers: Vec<ConvertedLayer>,
    /// Where the image of the TOCs is, if they are not in the layers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub toc_image: Option<String>,
    /// Lines of a list of paths that no layer has anything for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unmatched: Vec<String>,
}

/// One image, before and after.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ConvertedImage {
    /// Digest of the source's manifest.
    pub source: Digest,
    /// Digest of the new manifest.
    pub digest: Digest,
    /// The platform it was made for, if that is told.
    pub platform: Option<Platform>,
    /// How many of the reported layers are of this image.
    pub layers: usize,
}

impl ConvertedImage {
    pub(super) fn new(image: &ImageSource, digest: Digest) -> Self {
        let layers = image.manifest().layers.len();
        Self { source: image.target().digest, digest, platform: image.platform(), layers }
    }
}

/// One layer, before and after.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ConvertedLayer {
    /// Digest of the source blob.
    pub source: Digest,
    /// Size of the source blob, in bytes.
    pub source_size: u64,
    /// Digest of the new blob.
    pub digest: Digest,
    /// Size of the new blob, in bytes.
    pub size: u64,
    /// Digest of the new uncompressed blob.
    pub diff_id: Digest,
    /// Size of the new uncompressed blob, in bytes; none where nobody had to know.
    pub uncompressed_size: Option<u64>,
    /// Digest of its TOC; none when it is not lazy.
    pub toc_digest: Option<Digest>,
    /// Whether the blob is the source's.
    pub reused: bool,
    /// Size of the prioritized area of the blob, in bytes.
    pub prioritized_size: u64,
    /// What its descriptor is annotated with; `None` when it keeps the source's annotations.
    #[serde(skip)]
    pub annotations: Option<BTreeMap<String, String>>,
    /// Its TOC, if the blob does not hold that.
    #[serde(skip)]
    pub external_toc: Option<Bytes>,
}
