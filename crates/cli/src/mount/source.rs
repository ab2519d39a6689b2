//! The image that is shown: its documents, and a way to its layers.
use anyhow::{Context as _, Result, bail, ensure};
use bolide_core::Digest;
use bolide_estargz::TocTrust;
use bolide_image::{Access, ImageSource, Location, Platform, manifest::Descriptor};
use bolide_snapshotter::RemoteLayerRequest;
use serde::Deserialize;

use crate::{registry, sandbox::ImageProgram};

/// An image whose documents were read.
#[derive(Debug)]
pub(crate) struct SourceImage {
    /// Its place in the words of a layer request.
    reference: String,
    image: ImageSource,
}

impl SourceImage {
    /// Reads the documents of the image at a place, for this machine.
    pub(crate) async fn open(location: &Location, plain_http: &[String]) -> Result<Self> {
        let access = match location {
            Location::Layout { .. } => Access::layouts(),
            Location::Registry(_) => {
                Access::layouts().with_registries(registry::client(plain_http)?)
            }
            _ => bail!(
                "only images of registries and OCI layouts are mounted; convert it to oci:DIR"
            ),
        };
        let image = ImageSource::open(&access, location, &Platform::host()).await?;
        ensure!(!image.manifest().layers.is_empty(), "an image without layers has nothing to show");
        Ok(Self { reference: location.to_string(), image })
    }

    /// The image and its blobs.
    pub(crate) fn image(&self) -> &ImageSource {
        &self.image
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

    /// What the image runs, or `command` in its place.
    pub(crate) fn program(&self, command: &[String]) -> Result<ImageProgram> {
        let config = self.image.config().other.get("config").cloned().unwrap_or_default();
        let config: Option<RuntimeConfig> =
            serde_json::from_value(config).context("the image's configuration is broken")?;
        let config = config.unwrap_or_default();
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
#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct RuntimeConfig {
    user: String,
    env: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    working_dir: String,
}
