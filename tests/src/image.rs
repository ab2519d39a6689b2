//! Images in an OCI layout, and their way into a registry.
use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// One layer of a manifest.
#[derive(Clone, Debug)]
pub struct Layer {
    /// Digest of the blob, with its algorithm.
    pub digest: String,
    /// Size of the blob, in bytes.
    pub size: u64,
    /// Digest of its uncompressed tar, with its algorithm.
    pub diff_id: String,
    /// Name containerd gives the snapshot of this layer upon the ones below.
    pub chain_id: String,
}

/// An image of a layout.
#[derive(Clone, Debug)]
pub struct Image {
    /// Layers, the lowest first.
    pub layers: Vec<Layer>,
    dir: PathBuf,
    manifest: Vec<u8>,
}

#[derive(Debug, Deserialize)]
struct Descriptor {
    digest: String,
    size: u64,
}

#[derive(Debug, Deserialize)]
struct Manifest {
    config: Descriptor,
    layers: Vec<Descriptor>,
}

impl Image {
    /// Reads the only image of a layout.
    pub fn open(dir: &Path) -> Result<Self> {
        let index: Value = serde_json::from_slice(&read(&dir.join("index.json"))?)?;
        let digest = index["manifests"][0]["digest"].as_str().context("index without manifest")?;
        let manifest = read(&blob_path(dir, digest)?)?;
        Self::of(dir, manifest, |digest| read(&blob_path(dir, digest)?))
    }

    /// Reads an image from its manifest; its config comes from `blob`.
    pub fn of(
        dir: &Path,
        manifest: Vec<u8>,
        blob: impl FnOnce(&str) -> Result<Vec<u8>>,
    ) -> Result<Self> {
        let parsed: Manifest = serde_json::from_slice(&manifest).context("manifest")?;
        let config: Value = serde_json::from_slice(&blob(&parsed.config.digest)?)?;
        let diff_ids =
            config["rootfs"]["diff_ids"].as_array().context("config without diff_ids")?;
        ensure!(diff_ids.len() == parsed.layers.len(), "a layer without its diffID");
        let mut chain_id = String::new();
        let mut layers = Vec::new();
        for (layer, diff_id) in parsed.layers.into_iter().zip(diff_ids) {
            let diff_id = diff_id.as_str().context("a diffID is a string")?.to_owned();
            chain_id = chain(&chain_id, &diff_id);
            let Descriptor { digest, size } = layer;
            layers.push(Layer { digest, size, diff_id, chain_id: chain_id.clone() });
        }
        Ok(Self { layers, dir: dir.to_owned(), manifest })
    }

    /// Sum of the sizes of all layers, in bytes.
    #[must_use]
    pub fn layer_bytes(&self) -> u64 {
        self.layers.iter().map(|layer| layer.size).sum()
    }

    /// Digest of the manifest, with its algorithm.
    #[must_use]
    pub fn digest(&self) -> String {
        sha256(&self.manifest)
    }

    /// The manifest as it is stored.
    #[must_use]
    pub fn manifest(&self) -> &[u8] {
        &self.manifest
    }

    /// Files of the layout that a registry must hold, by digest.
    pub fn blobs(&self) -> Result<Vec<(String, PathBuf)>> {
        let manifest: Manifest = serde_json::from_slice(&self.manifest)?;
        let descriptors = std::iter::once(manifest.config).chain(manifest.layers);
        descriptors
            .map(|blob| Ok((blob.digest.clone(), blob_path(&self.dir, &blob.digest)?)))
            .collect()
    }
}

/// The rule of the OCI image specification for the name of a stack of layers.
fn chain(parent: &str, diff_id: &str) -> String {
    if parent.is_empty() {
        return diff_id.to_owned();
    }
    sha256(format!("{parent} {diff_id}").as_bytes())
}

/// Digest of bytes, as OCI writes it.
#[must_use]
pub fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(&Sha256::digest(bytes)))
}

/// Digest of a file's content, as OCI writes it.
pub fn sha256_of(path: &Path) -> Result<String> {
    let mut file = File::open(path).with_context(|| path.display().to_string())?;
    let mut hasher = Hasher(Sha256::new());
    std::io::copy(&mut file, &mut hasher).with_context(|| path.display().to_string())?;
    Ok(format!("sha256:{}", hex(&hasher.0.finalize())))
}

struct Hasher(Sha256);

impl Write for Hasher {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Bytes in hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing into a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn blob_path(dir: &Path, digest: &str) -> Result<PathBuf> {
    let (algorithm, encoded) = digest.split_once(':').context("a digest names its algorithm")?;
    Ok(dir.join("blobs").join(algorithm).join(encoded))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the OCI image specification cannot be recomputed; this one was, by hand:
    /// `printf 'sha256:a sha256:b' | sha256sum`.
    #[test]
    fn stacked_layers_are_named_by_the_rule() {
        assert_eq!(chain("", "sha256:a"), "sha256:a");
        assert_eq!(
            chain("sha256:a", "sha256:b"),
            "sha256:970a948bffa8de94d6e22d747ba8c95030e6e546909f98f54e99a13005e173a8"
        );
    }
}
