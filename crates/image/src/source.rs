//! The image that is read.
use std::fmt;

use bolide_core::{Error, ErrorKind, Result};
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream::BoxStream};
use tokio_util::io::ReaderStream;

use crate::{
    Layout, Location, Platform,
    manifest::{self, Descriptor, ImageConfig, Index, Manifest, media_type},
};

/// Pieces in which a blob is read from disk, in bytes.
const READ_SIZE: usize = 128 * 1024;

/// How deep indexes may lie in indexes.
const MAX_NESTING: usize = 4;

/// One image of one platform: its verified documents, and a way to its layers.
#[derive(Clone)]
pub struct ImageSource {
    layout: Layout,
    target: Descriptor,
    manifest: Manifest,
    config: ImageConfig,
}

impl ImageSource {
    /// Reads the documents of the image at `location`, choosing `platform` where there are
    /// several.
    ///
    /// `NotFound` when there is no such image or platform, `Corrupt` when a document does not match
    /// its digest, `Malformed` when it breaks the image specification, `Unsupported` when it is no
    /// container image, or its location cannot be read from.
    pub async fn open(location: &Location, platform: &Platform) -> Result<Self> {
        let Location::Layout { dir, tag } = location else {
            return Err(registry_unsupported(location));
        };
        let (dir, tag, platform) = (dir.clone(), tag.clone(), platform.clone());
        crate::blob_reader::blocking(move || Self::open_layout(dir, tag.as_deref(), &platform))
            .await
            .map_err(|error| error.with_context("image", location))
    }

    fn open_layout(
        dir: std::path::PathBuf,
        tag: Option<&str>,
        platform: &Platform,
    ) -> Result<Self> {
        let layout = Layout::open(dir)?;
        let mut target = layout.resolve(tag)?;
        let mut depth = 0;
        while target.is_index() {
            depth += 1;
            if depth > MAX_NESTING {
                return Err(malformed("indexes may lie in indexes four deep", &target));
            }
            let index: Index = manifest::parse(&target, &layout.document(&target)?)?;
            target = choose(index, platform)?;
        }
        let manifest: Manifest = manifest::parse(&target, &layout.document(&target)?)?;
        check_kind(&manifest)?;
        let document = layout.document(&manifest.config)?;
        let config: ImageConfig = manifest::parse(&manifest.config, &document)?;
        if config.rootfs.diff_ids.len() != manifest.layers.len() {
            return Err(malformed("a configuration lists one diffID for each layer", &target));
        }
        Ok(Self { layout, target, manifest, config })
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

    /// Streams a blob of the image. The bytes are not verified.
    pub async fn blob(&self, name: &Descriptor) -> Result<BoxStream<'static, Result<Bytes>>> {
        let path = self.layout.blob_path(name.digest);
        let digest = name.digest;
        let failed = move |error| Error::io("image::read_blob", error).with_context("blob", digest);
        let file = tokio::fs::File::open(path).await.map_err(failed)?;
        Ok(ReaderStream::with_capacity(file, READ_SIZE).map_err(failed).boxed())
    }
}

impl fmt::Debug for ImageSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImageSource").field("target", &self.target.digest).finish_non_exhaustive()
    }
}

pub(crate) fn registry_unsupported(location: &Location) -> Error {
    Error::new(
        ErrorKind::Unsupported,
        "image::open",
        "registries cannot be read or written yet; use an image layout, oci:DIR[:TAG]",
    )
    .with_context("location", location)
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
