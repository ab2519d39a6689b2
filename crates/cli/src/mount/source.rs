//! The image that is shown: its documents, and a way to its layers.
use anyhow::{Context as _, Result, bail, ensure};
use bolide_core::Digest;
use bolide_estargz::TocTrust;
use bolide_image::{Access, ImageSource, Location, Platform, manifest::Descriptor};
use bolide_snapshotter::RemoteLayerRequest;
use serde::Deserialize;

use crate::{registry, sandbox::ImageProgram};

/// A way to an image that is to be mounted where it lies.
pub(crate) fn mountable(location: &Location, plain_http: &[String]) -> Result<Access> {
    match location {
        Location::Layout { .. } => Ok(Access::layouts()),
        Location::Registry(_) => {
            Ok(Access::layouts().with_registries(registry::client(plain_http)?))
        }
        _ => {
            bail!("only images of registries and OCI layouts are mounted; convert it to oci:DIR")
        }
    }
}

/// An image whose documents were read.
#[derive(Debug)]
pub(crate) struct SourceImage {
    /// Its place in the words of a layer request.
    reference: String,
    image: ImageSource,
}

impl SourceImage {
    /// Reads the documents of the image at a place, for this machine.
    pub(crate) async fn open(location: &Location, access: &Access) -> Result<Self> {
        let image = ImageSource::open(access, location, &Platform::host()).await?;
        ensure!(!image.manifest().layers.is_empty(), "an image without layers has nothing to show");
        Ok(Self { reference: location.to_string(), image })
    }

    /// The same of an image that is to be mounted where it lies, on this machine.
    pub(crate) async fn open_mountable(location: &Location) -> Result<Self> {
        Self::open(location, &mountable(location, &[])?).await
    }

    /// The image and its blobs.
    pub(crate) fn image(&self) -> &ImageSource {
        &self.image
    }

    /// Digest of its manifest.
    pub(crate) fn digest(&self) -> Digest {
        self.image.target().digest
    }

    /// Its layers, lowest first.
    pub(crate) fn layers(&self) -> &[Descriptor] {
        &self.image.manifest().layers
    }

    /// What to ask a node for; `None` for a layer that cannot be lazy.
    pub(crate) fn request(&self, number: usize) -> Option<RemoteLayerRequest> {
        let layer = self.layers().get(number)?;
        let trust = TocTrust::of_annotations(&layer.annotations).ok().flatten()?;
        let chain = self.image.config().chain_ids();
        let name = |at: Option<&Digest>| at.map_or_else(String::new, Digest::to_string);
        Some(RemoteLayerRequest {
            target: name(chain.get(number)),
            parent: name(number.checked_sub(1).and_then(|below| chain.get(below))),
            reference: self.reference.clone(),
            layer_digest: layer.digest,
            trust: Some(trust),
            image_manifest: None,
            prefetch_size: None,
            skip_verify: false,
            image_layers: Vec::new(),
        })
    }

    /// How a container of the image runs.
    pub(crate) fn runtime_config(&self) -> Result<RuntimeConfig> {
        let config = self.image.config().other.get("config").cloned().unwrap_or_default();
        let config: Option<RuntimeConfig> =
            serde_json::from_value(config).context("the image's configuration is broken")?;
        Ok(config.unwrap_or_default())
    }

    /// What the image runs, or `command` in its place.
    pub(crate) fn program(&self, command: &[String]) -> Result<ImageProgram> {
        let config = self.runtime_config()?;
        let command = if command.is_empty() {
            let entry = config.entrypoint.unwrap_or_default();
            entry.into_iter().chain(config.cmd.unwrap_or_default()).collect()
        } else {
            command.to_vec()
        };
        ensure!(!command.is_empty(), "the image names no program: give one after --");
        Ok(ImageProgram {
            command,
            environment: config.env.unwrap_or_default(),
            directory: config.working_dir,
            user: config.user,
        })
    }
}

/// How a container of the image runs (image-spec, "config").
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct RuntimeConfig {
    pub(crate) user: String,
    pub(crate) env: Option<Vec<String>>,
    pub(crate) entrypoint: Option<Vec<String>>,
    pub(crate) cmd: Option<Vec<String>>,
    pub(crate) working_dir: String,
}
