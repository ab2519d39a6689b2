//! A small image that runs, made of this machine's `cat`.
use std::{io::Write as _, path::PathBuf, process::Command};

use anyhow::{Context as _, Result};
use bolide_core::Digest;
use bolide_fetch::{NoCredentials, RegistryClient, RegistryConfig, Repository};
use bolide_image::{
    Platform,
    manifest::{Descriptor, ImageConfig, media_type},
};
use bolide_testkit::sample::noise;
use flate2::{Compression, write::GzEncoder};
use futures::{StreamExt as _, stream};
use serde_json::json;

/// What the image's program prints.
pub(crate) const PRINTED: &str = "printed by a pulled image\n";
/// Which layer is large, and how large at least.
pub(crate) const LARGE: usize = 1;
pub(crate) const LARGE_BYTES: usize = 3 << 20;

/// An image in memory.
#[derive(Clone)]
pub(crate) struct Sample {
    /// Blobs of the layers, lowest first.
    pub(crate) layers: Vec<(Descriptor, Vec<u8>)>,
    /// diffIDs as the configuration says them.
    pub(crate) diff_ids: Vec<Digest>,
}

impl Sample {
    /// Libraries, a program with much that is never read, and what the program prints.
    pub(crate) fn new() -> Result<Self> {
        let listed = Command::new("ldd").arg("/bin/cat").output().context("ldd")?;
        let text = String::from_utf8(listed.stdout)?;
        let paths = text.split_ascii_whitespace().filter(|word| word.starts_with('/'));
        let libraries: Vec<_> = paths.map(file_of_host).collect::<Result<_>>()?;
        let program = vec![file_of_host("/bin/cat")?, ("noise".into(), noise(LARGE_BYTES, 3))];
        let text = vec![("etc/text".into(), PRINTED.as_bytes().to_vec())];
        let mut sample = Self { layers: Vec::new(), diff_ids: Vec::new() };
        for files in [libraries, program, text] {
            let tar = tar(&files)?;
            sample.diff_ids.push(Digest::of(&tar));
            let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
            gzip.write_all(&tar)?;
            let blob = gzip.finish()?;
            sample.layers.push((Descriptor::of(media_type::OCI_LAYER_GZIP, &blob), blob));
        }
        Ok(sample)
    }

    pub(crate) fn config(&self) -> Vec<u8> {
        let Platform { os, architecture, .. } = Platform::host();
        let document = json!({
            "os": os, "architecture": architecture,
            "config": {"Cmd": ["/bin/cat", "/etc/text"], "Env": ["PATH=/bin"]},
            "rootfs": {"type": "layers", "diff_ids": self.diff_ids},
        });
        document.to_string().into_bytes()
    }

    pub(crate) fn manifest(&self) -> Vec<u8> {
        let layers: Vec<_> = self.layers.iter().map(|(name, _)| name).collect();
        let config = Descriptor::of(media_type::OCI_CONFIG, &self.config());
        let document = json!({
            "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST,
            "config": config, "layers": layers,
        });
        document.to_string().into_bytes()
    }

    pub(crate) fn chain_ids(&self) -> Result<Vec<String>> {
        let config: ImageConfig = serde_json::from_slice(&self.config())?;
        Ok(config.chain_ids().iter().map(ToString::to_string).collect())
    }

    /// Uploads the image as `HOST/sample:plain`, and as `:list` behind an index with an image of
    /// another platform that the registry does not hold.
    pub(crate) fn push(&self, host: &str) -> Result<()> {
        tokio::runtime::Runtime::new()?.block_on(self.upload(host))
    }

    async fn upload(&self, host: &str) -> Result<()> {
        let client =
            RegistryClient::new(RegistryConfig::default(), std::sync::Arc::new(NoCredentials))?;
        let repository = client.repository(&format!("{host}/sample").parse()?);
        for (_, blob) in &self.layers {
            put(&repository, blob.clone()).await?;
        }
        put(&repository, self.config()).await?;
        let manifest = self.manifest();
        let mut here = Descriptor::of(media_type::OCI_MANIFEST, &manifest);
        repository.put_manifest("plain", media_type::OCI_MANIFEST, manifest.into()).await?;
        here.platform = Some(Platform::host());
        let index = json!({
            "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": [here],
        });
        let index = index.to_string().into_bytes().into();
        repository.put_manifest("list", media_type::OCI_INDEX, index).await?;
        Ok(())
    }
}

async fn put(repository: &Repository, blob: Vec<u8>) -> Result<()> {
    let (digest, size) = (Digest::of(&blob), blob.len() as u64);
    let body = stream::iter([Ok(bytes::Bytes::from(blob))]).boxed();
    Ok(repository.push_blob(digest, size, body).await?)
}

type File = (PathBuf, Vec<u8>);

fn file_of_host(path: &str) -> Result<File> {
    let content = std::fs::read(path).with_context(|| path.to_owned())?;
    Ok((path.trim_start_matches('/').into(), content))
}

fn tar(files: &[File]) -> Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o755);
        tar.append_data(&mut header, path, content.as_slice())?;
    }
    Ok(tar.into_inner()?)
}
