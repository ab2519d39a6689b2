//! The image that is read.
use std::{fmt, sync::Arc};

use bolide_core::{
    BlobOpener, BlobRef, ByteRange, Error, ErrorKind, OpenedBlob, ReadOptions, Result,
};
use bytes::Bytes;
use futures::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use serde::de::DeserializeOwned;

use crate::{
    Access, Location, Platform,
    backend::{self, Origin, check_document_size},
    blob_reader::blocking,
    manifest::{self, Descriptor, ImageConfig, Index, Manifest, media_type},
};

/// How deep indexes may lie in indexes.
const MAX_NESTING: usize = 4;

/// One image of one platform: its verified documents, and a way to its layers.
#[derive(Clone)]
pub struct ImageSource {
    blobs: Arc<dyn BlobOpener>,
    target: Descriptor,
    manifest: Manifest,
    config: ImageConfig,
}

impl ImageSource {
    /// Reads the documents of the image at `location`, choosing `platform` where there are
    /// several.
    ///
    /// `NotFound` when there is no such image or platform, `Corrupt` when a document does not match
    /// its digest, `Malformed` when it breaks the image specification, `Exhausted` when it is too
    /// large, `Unsupported` when it is no container image, `Config` when `access` lacks what the
    /// location needs, and whatever a registry fails with.
    pub async fn open(access: &Access, location: &Location, platform: &Platform) -> Result<Self> {
        let read = async { Self::read(&*backend::origin(location, access)?, platform).await };
        read.await.map_err(|error| error.with_context("image", location))
    }

    async fn read(origin: &dyn Origin, platform: &Platform) -> Result<Self> {
        let (mut target, mut document) = origin.root().await?;
        let mut depth = 0;
        while target.is_index() {
            depth += 1;
            check_depth(depth, &target)?;
            let index: Index = decode(&target, document).await?;
            target = choose(index, platform)?;
            document = origin.manifest(&target).await?;
        }
        let manifest: Manifest = decode(&target, document).await?;
        Self::of_manifest(origin.blobs(), target, manifest).await
    }

    /// The image of a verified manifest. Reads its configuration.
    pub(crate) async fn of_manifest(
        blobs: Arc<dyn BlobOpener>,
        target: Descriptor,
        manifest: Manifest,
    ) -> Result<Self> {
        check_kind(&manifest)?;
        let name = &manifest.config;
        check_document_size(name.digest, name.size)?;
        let wanted = BlobRef { digest: name.digest, size: Some(name.size) };
        // The tail of that size is the whole.
        let document = blobs.open(wanted, name.size).await?.tail;
        let config: ImageConfig = decode(name, document).await?;
        if config.rootfs.diff_ids.len() != manifest.layers.len() {
            return Err(malformed("a configuration lists one diffID for each layer", &target));
        }
        Ok(Self { blobs, target, manifest, config })
    }

    /// The descriptor of the manifest.
    #[must_use]
    pub fn target(&self) -> &Descriptor {
        &self.target
    }

    /// The manifest.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &ImageConfig {
        &self.config
    }

    /// The platform that the configuration says the image was made for.
    #[must_use]
    pub fn platform(&self) -> Option<Platform> {
        let text = |key: &str| self.config.other.get(key)?.as_str().filter(|text| !text.is_empty());
        let (os, architecture) = (text("os")?, text("architecture")?);
        let variant = text("variant").map(|variant| format!("/{variant}")).unwrap_or_default();
        format!("{os}/{architecture}{variant}").parse().ok()
    }

    /// Opens a blob of the image and reads its last `tail_hint` bytes, unverified.
    pub async fn open_blob(&self, name: &Descriptor, tail_hint: u64) -> Result<OpenedBlob> {
        self.blobs.open(BlobRef { digest: name.digest, size: Some(name.size) }, tail_hint).await
    }

    /// Streams a blob of the image. The bytes are not verified.
    pub async fn blob(&self, name: &Descriptor) -> Result<BoxStream<'static, Result<Bytes>>> {
        stream_blob(&*self.blobs, name).await
    }
}

/// Streams a blob. The bytes are not verified.
pub(crate) async fn stream_blob(
    blobs: &dyn BlobOpener,
    name: &Descriptor,
) -> Result<BoxStream<'static, Result<Bytes>>> {
    let wanted = BlobRef { digest: name.digest, size: Some(name.size) };
    let source = blobs.open(wanted, 0).await?.source;
    Ok(match ByteRange::new(0..source.size()) {
        Ok(whole) => source.stream(whole, ReadOptions::default()),
        Err(_) => stream::empty().boxed(),
    })
}

/// `Malformed` when indexes lie too deep in indexes.
pub(crate) fn check_depth(depth: usize, document: &Descriptor) -> Result<()> {
    if depth <= MAX_NESTING {
        return Ok(());
    }
    Err(malformed("indexes may lie in indexes four deep", document))
}

/// Verifies and parses a document, which may have megabytes.
pub(crate) async fn decode<T: DeserializeOwned + Send + 'static>(
    name: &Descriptor,
    document: Bytes,
) -> Result<T> {
    let name = name.clone();
    blocking(move || {
        manifest::verify(&name, &document)?;
        manifest::parse(&name, &document)
    })
    .await
}

impl fmt::Debug for ImageSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImageSource").field("target", &self.target.digest).finish_non_exhaustive()
    }
}

/// The manifest of an index that was made for `platform`; `NotFound`, with what is offered, if none.
pub fn choose(index: Index, platform: &Platform) -> Result<Descriptor> {
    let offered: Vec<_> = index
        .manifests
        .iter()
        .map(|m| m.platform.as_ref().map_or_else(|| "unnamed".to_owned(), ToString::to_string))
        .collect();
    let fits = |m: &Descriptor| m.platform.as_ref().is_some_and(|p| platform.accepts(p));
    index.manifests.into_iter().find(fits).ok_or_else(|| {
        Error::new(ErrorKind::NotFound, "image::open", "the image was not made for this platform")
            .with_context("platform", platform)
            .with_context("offered", offered.join(", "))
    })
}

/// `Unsupported` when a manifest is not that of a container image.
pub fn check_kind(manifest: &Manifest) -> Result<()> {
    let config = manifest.config.media_type.as_str();
    if [media_type::OCI_CONFIG, media_type::DOCKER_CONFIG].contains(&config) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Unsupported, "image::open", "the manifest is no container image")
        .with_context("config_media_type", config))
}

fn malformed(rule: &'static str, document: &Descriptor) -> Error {
    Error::new(ErrorKind::Malformed, "image::open", rule).with_context("document", document.digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(platform: &str) -> Descriptor {
        let mut name = Descriptor::of(media_type::OCI_MANIFEST, platform.as_bytes());
        name.platform = Some(platform.parse().expect("platform"));
        name
    }

    #[test]
    fn the_asked_platform_is_chosen() {
        let index = Index {
            schema_version: 2,
            media_type: None,
            manifests: vec![offer("linux/amd64"), offer("linux/arm64/v8")],
            other: serde_json::Map::new(),
        };
        let arm: Platform = "linux/arm64".parse().expect("platform");
        assert_eq!(
            choose(index.clone(), &arm).expect("found").digest,
            offer("linux/arm64/v8").digest
        );
        let other: Platform = "linux/s390x".parse().expect("platform");
        let error = choose(index, &other).expect_err("not offered");
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert_eq!(error.context("offered"), Some("linux/amd64, linux/arm64/v8"));
    }
}
