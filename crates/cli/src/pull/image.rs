//! From a name to the documents of one image, in containerd's content store.
use anyhow::{Context as _, Result, ensure};
use bolide_core::{BlobOpener, BlobRef, Digest};
use bolide_fetch::Repository;
use bolide_image::{
    Platform, check_kind, choose,
    manifest::{self, Descriptor, ImageConfig, Index, MAX_DOCUMENT_BYTES, Manifest, media_type},
};
use bytes::Bytes;

use super::{
    content::Store,
    labels::{self, Labels},
};

/// How deep indexes may lie in indexes.
const MAX_NESTING: usize = 4;

/// An image whose documents the store holds.
#[derive(Debug)]
pub(super) struct Image {
    /// What the name means: an index or a manifest.
    pub(super) target: Descriptor,
    /// The configuration.
    pub(super) config: Descriptor,
    /// The layers, lowest first.
    pub(super) layers: Vec<Layer>,
}

/// A layer and the names of what becomes of it.
#[derive(Clone, Debug)]
pub(super) struct Layer {
    /// Names the blob.
    pub(super) blob: Descriptor,
    /// Digest of its tar.
    pub(super) diff_id: Digest,
    /// Name of the snapshot that shows it upon those below.
    pub(super) chain_id: Digest,
}

/// Copies documents from a registry.
#[derive(Debug)]
pub(super) struct Documents<'a> {
    pub(super) store: &'a Store,
    pub(super) repository: &'a Repository,
    pub(super) registry: &'a dyn BlobOpener,
}

impl Documents<'_> {
    /// Finds the image of a tag or digest and a platform; stores its index, manifest and
    /// configuration.
    pub(super) async fn resolve(&self, tag: &str, platform: &Platform) -> Result<Image> {
        let found = self.repository.manifest(tag).await?;
        let target = Descriptor::new(&found.media_type, found.digest, found.bytes.len() as u64);
        let (mut name, mut bytes) = (target.clone(), found.bytes);
        for depth in 0.. {
            if !name.is_index() {
                break;
            }
            ensure!(depth < MAX_NESTING, "{}: indexes may lie in indexes four deep", name.digest);
            let index: Index = manifest::parse(&name, &bytes)?;
            self.store.put("index", &name, bytes, labels::of_index(&index)).await?;
            name = choose(index, platform)?;
            bytes = self.manifest(&name).await?;
        }
        let kinds = [media_type::OCI_MANIFEST, media_type::DOCKER_MANIFEST];
        let kind = name.media_type.as_str();
        ensure!(kinds.contains(&kind), "{} is no image manifest but {kind:?}", name.digest);
        let manifest: Manifest = manifest::parse(&name, &bytes)?;
        check_kind(&manifest)?;
        self.store.put("manifest", &name, bytes, labels::of_manifest(&manifest)).await?;
        let bytes = self.config(&manifest.config).await?;
        let config: ImageConfig = manifest::parse(&manifest.config, &bytes)?;
        self.store.put("config", &manifest.config, bytes, Labels::new()).await?;
        Ok(Image { target, config: manifest.config, layers: layers(manifest.layers, &config)? })
    }

    async fn manifest(&self, name: &Descriptor) -> Result<Bytes> {
        if let Some(bytes) = self.store.document(name).await? {
            return Ok(bytes);
        }
        let found = self.repository.manifest(&name.digest.to_string()).await?;
        manifest::verify(name, &found.bytes)?;
        Ok(found.bytes)
    }

    async fn config(&self, name: &Descriptor) -> Result<Bytes> {
        let size = name.size;
        ensure!(size <= MAX_DOCUMENT_BYTES, "a configuration may have 4 MiB, not {size} bytes");
        if let Some(bytes) = self.store.document(name).await? {
            return Ok(bytes);
        }
        // The end of it is all of it.
        let blob = BlobRef { digest: name.digest, size: Some(size) };
        let opened =
            self.registry.open(blob, size).await.context("cannot read the configuration")?;
        manifest::verify(name, &opened.tail)?;
        Ok(opened.tail)
    }
}

fn layers(blobs: Vec<Descriptor>, config: &ImageConfig) -> Result<Vec<Layer>> {
    let diff_ids = &config.rootfs.diff_ids;
    let (found, wanted) = (diff_ids.len(), blobs.len());
    ensure!(
        found == wanted,
        "a configuration lists a diffID for each of {wanted} layers, not {found}"
    );
    ensure!(wanted > 0, "an image without layers has nothing to mount");
    let names = diff_ids.iter().zip(config.chain_ids());
    let pairs = blobs.into_iter().zip(names);
    Ok(pairs
        .map(|(blob, (diff_id, chain_id))| Layer { blob, diff_id: *diff_id, chain_id })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_layer_has_a_diff_id_and_a_chain_id() {
        let ids = [Digest::of(b"a"), Digest::of(b"b")];
        let text = serde_json::json!({"rootfs": {"type": "layers", "diff_ids": ids}});
        let config: ImageConfig = serde_json::from_value(text).expect("config");
        let blob = |seed: &[u8]| Descriptor::of("m", seed);
        let named = layers(vec![blob(b"1"), blob(b"2")], &config).expect("layers");
        assert_eq!(named[0].chain_id, ids[0]);
        assert_eq!(named[1].chain_id, Digest::of(format!("{} {}", ids[0], ids[1]).as_bytes()));
        assert_eq!(named[1].diff_id, ids[1]);
        assert!(layers(vec![blob(b"1")], &config).is_err());
    }
}
