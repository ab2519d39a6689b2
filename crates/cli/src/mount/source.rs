//! The image that is shown: its documents, and a way to its layers.
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use bolide_core::{BlobOpener, BlobRef, Digest};
use bolide_estargz::format::ANNOTATION_TOC_DIGEST;
use bolide_fetch::{
    ImageReference, Meter, OciLayoutOpener, RegistryClient, Repository, WrapOpener,
};
use bolide_image::{
    ImageSource, Location, Platform, check_kind, choose,
    manifest::{self, Descriptor, ImageConfig, Index, MAX_DOCUMENT_BYTES, Manifest},
};
use bolide_snapshotter::RemoteLayerRequest;
use serde::Deserialize;

use crate::sandbox::ImageProgram;

/// How deep indexes may lie in indexes.
const MAX_NESTING: usize = 4;

/// An image whose documents were read.
#[derive(Debug)]
pub(crate) struct SourceImage {
    /// Its place in the words of a layer request.
    reference: String,
    opener: Arc<dyn BlobOpener>,
    layers: Vec<Descriptor>,
    config: ImageConfig,
}

impl SourceImage {
    /// Reads the documents of the image at a place, for a platform.
    pub(crate) async fn open(
        location: &Location,
        platform: &Platform,
        registries: &Arc<RegistryClient>,
    ) -> Result<Self> {
        let opened = match location {
            Location::Layout { dir, .. } => {
                let image = ImageSource::open(location, platform).await?;
                Self {
                    reference: format!("oci:{}", dir.display()),
                    opener: Arc::new(OciLayoutOpener::new(dir)),
                    layers: image.manifest().layers.clone(),
                    config: image.config().clone(),
                }
            }
            Location::Registry(name) => {
                let reference: ImageReference = name.parse()?;
                let repository = registries.repository(&reference);
                let found = open_remote(&repository, &reference.target(), platform).await;
                let (layers, config) = found.with_context(|| format!("cannot open {reference}"))?;
                let opener = Arc::new(repository);
                Self { reference: reference.to_string(), opener, layers, config }
            }
        };
        ensure!(!opened.layers.is_empty(), "an image without layers has nothing to show");
        Ok(opened)
    }

    /// The same image, what is read of its layers counted.
    pub(crate) fn metered(mut self, meter: &Meter) -> Self {
        self.opener = Arc::new(WrapOpener::new(self.opener).with_meter(meter.clone()));
        self
    }

    /// Where its blobs are.
    pub(crate) fn opener(&self) -> Arc<dyn BlobOpener> {
        Arc::clone(&self.opener)
    }

    /// Its layers, lowest first.
    pub(crate) fn layers(&self) -> &[Descriptor] {
        &self.layers
    }

    /// What to ask a node for; `None` for a layer that cannot be lazy.
    pub(crate) fn request(&self, number: usize) -> Option<RemoteLayerRequest> {
        let layer = self.layers.get(number)?;
        let toc_digest = layer.annotations.get(ANNOTATION_TOC_DIGEST)?.parse().ok()?;
        let chain = self.config.chain_ids();
        let name = |at: Option<&Digest>| at.map_or_else(String::new, Digest::to_string);
        Some(RemoteLayerRequest {
            target: name(chain.get(number)),
            parent: name(number.checked_sub(1).and_then(|below| chain.get(below))),
            reference: self.reference.clone(),
            layer_digest: layer.digest,
            toc_digest: Some(toc_digest),
            prefetch_size: None,
            skip_verify: false,
            image_layers: Vec::new(),
        })
    }

    /// What the image runs, or `command` in its place.
    pub(crate) fn program(&self, command: &[String]) -> Result<ImageProgram> {
        let config = self.config.other.get("config").cloned().unwrap_or_default();
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

async fn open_remote(
    repository: &Repository,
    target: &str,
    platform: &Platform,
) -> Result<(Vec<Descriptor>, ImageConfig)> {
    let found = repository.manifest(target).await?;
    let mut name = Descriptor::new(&found.media_type, found.digest, found.bytes.len() as u64);
    let mut bytes = found.bytes;
    for depth in 0.. {
        if !name.is_index() {
            break;
        }
        ensure!(depth < MAX_NESTING, "{}: indexes may lie in indexes four deep", name.digest);
        let index: Index = manifest::parse(&name, &bytes)?;
        name = choose(index, platform)?;
        let found = repository.manifest(&name.digest.to_string()).await?;
        manifest::verify(&name, &found.bytes)?;
        bytes = found.bytes;
    }
    let manifest: Manifest = manifest::parse(&name, &bytes)?;
    check_kind(&manifest)?;
    let wanted = &manifest.config;
    ensure!(
        wanted.size <= MAX_DOCUMENT_BYTES,
        "a configuration may have 4 MiB, not {} bytes",
        wanted.size
    );
    let blob = BlobRef { digest: wanted.digest, size: Some(wanted.size) };
    // The end of it is all of it.
    let opened = repository.open(blob, wanted.size).await?;
    manifest::verify(wanted, &opened.tail)?;
    let config: ImageConfig = manifest::parse(wanted, &opened.tail)?;
    let (listed, layers) = (config.rootfs.diff_ids.len(), manifest.layers);
    ensure!(
        listed == layers.len(),
        "a configuration lists one diffID for each of {} layers, not {listed}",
        layers.len()
    );
    Ok((layers, config))
}
