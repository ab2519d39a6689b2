//! Images in a tar as `docker save` writes it.
//!
//! `manifest.json` names a configuration and layers for each image. Docker before 25 writes layers
//! as uncompressed tars, Docker from 25 on as blobs of an OCI layout, other programs also
//! compressed; `docker load`, containerd and containers/image take each. What is written here is
//! compressed, as go-containerregistry does it.
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use bolide_core::{BlobOpener, BlobRef, Digest, Error, ErrorKind, OpenedBlob, Result};
use bolide_fetch::ImageReference;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Map;
use tempfile::NamedTempFile;
use tokio::sync::OnceCell;

use super::{
    NewBlob, Origin, Target,
    oci_archive::{LazyArchive, writable},
    tag_to_write,
};
use crate::{
    Access,
    archive::{ArchiveFiles, ArchiveIndex, ArchiveWriter, Member},
    blob_reader::blocking,
    manifest::{self, Descriptor, ImageConfig, Manifest, media_type},
};

/// One image of `manifest.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// An image of an archive: a manifest that was made for it, and where its blobs lie.
#[derive(Debug)]
struct Image {
    name: Descriptor,
    document: Bytes,
    blobs: HashMap<Digest, Member>,
}

#[derive(Debug)]
struct Source {
    archive: LazyArchive,
    wanted: Option<ImageReference>,
    image: OnceCell<Image>,
}

impl Source {
    async fn image(&self) -> Result<&Image> {
        let read = async {
            let (archive, wanted) = (self.archive.open().await?, self.wanted.clone());
            blocking(move || {
                let image = read_image(&archive, wanted.as_ref());
                image.map_err(|error| error.with_context("path", archive.path().display()))
            })
            .await
        };
        self.image.get_or_try_init(|| read).await
    }
}

#[derive(Debug)]
pub(super) struct DockerArchiveOrigin(Arc<Source>);

impl DockerArchiveOrigin {
    pub(super) fn new(file: &Path, wanted: Option<ImageReference>, access: &Access) -> Self {
        let archive = LazyArchive::new(file, access);
        Self(Arc::new(Source { archive, wanted, image: OnceCell::new() }))
    }
}

#[async_trait]
impl Origin for DockerArchiveOrigin {
    async fn root(&self) -> Result<(Descriptor, Bytes)> {
        let image = self.0.image().await?;
        Ok((image.name.clone(), image.document.clone()))
    }

    async fn manifest(&self, name: &Descriptor) -> Result<Bytes> {
        let rule = "an archive of Docker holds no indexes";
        Err(Error::new(ErrorKind::NotFound, "docker_archive::manifest", rule)
            .with_context("document", name.digest))
    }

    fn blobs(&self) -> Arc<dyn BlobOpener> {
        Arc::new(Blobs(Arc::clone(&self.0)))
    }
}

#[derive(Debug)]
struct Blobs(Arc<Source>);

#[async_trait]
impl BlobOpener for Blobs {
    async fn open(&self, blob: BlobRef, tail_hint: u64) -> Result<OpenedBlob> {
        let place = self.0.image().await?.blobs.get(&blob.digest).cloned().ok_or_else(|| {
            let rule = "the image does not have this blob";
            Error::new(ErrorKind::NotFound, "docker_archive::open", rule)
                .with_context("blob", blob.digest)
        })?;
        let archive = self.0.archive.open().await?;
        archive.source(place, blob.digest).opened(blob, tail_hint).await
    }
}

fn read_image(archive: &ArchiveIndex, wanted: Option<&ImageReference>) -> Result<Image> {
    let list = archive.document("manifest.json")?;
    let list: Vec<Entry> = serde_json::from_slice(&list).map_err(|error| {
        malformed("manifest.json lists images with their configuration and layers")
            .with_source(error)
    })?;
    let entry = choose(list, wanted)?;
    let config = archive.document(&entry.config)?;
    let config_name = Descriptor::of(media_type::DOCKER_CONFIG, &config);
    let diff_ids = manifest::parse::<ImageConfig>(&config_name, &config)?.rootfs.diff_ids;
    if diff_ids.len() != entry.layers.len() {
        return Err(malformed("a configuration lists one diffID for each layer"));
    }
    let mut blobs = HashMap::from([(config_name.digest, archive.member(&entry.config)?)]);
    let mut layers = Vec::with_capacity(diff_ids.len());
    for (path, diff_id) in entry.layers.iter().zip(diff_ids) {
        let member = archive.member(path)?;
        let compression = match &*archive.magic(&member)? {
            [0x1f, 0x8b, ..] => Some(media_type::DOCKER_LAYER_GZIP),
            [0x28, 0xb5, 0x2f, 0xfd] => Some(media_type::OCI_LAYER_ZSTD),
            _ => None,
        };
        let (kind, digest) = match compression {
            // A tar is its own diffID; that is compared when it is read.
            None => (media_type::DOCKER_LAYER, diff_id),
            Some(kind) => match named_by_path(path) {
                Some(digest) => (kind, digest),
                None => (kind, archive.digest(&member)?),
            },
        };
        layers.push(Descriptor::new(kind, digest, member.end - member.start));
        blobs.insert(digest, member);
    }
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(media_type::DOCKER_MANIFEST.to_owned()),
        config: config_name,
        layers,
        other: Map::new(),
    };
    let document = manifest::to_bytes(&manifest)?;
    let name = Descriptor::of(media_type::DOCKER_MANIFEST, &document);
    Ok(Image { name, document: document.into(), blobs })
}

/// The digest in a path of the newer form, `blobs/sha256/HEX`; it is compared when it is read.
fn named_by_path(path: &str) -> Option<Digest> {
    format!("sha256:{}", path.strip_prefix("blobs/sha256/")?).parse().ok()
}

fn choose(mut list: Vec<Entry>, wanted: Option<&ImageReference>) -> Result<Entry> {
    let Some(wanted) = wanted else {
        return match list.len() {
            1 => Ok(list.swap_remove(0)),
            count => {
                Err(malformed("an archive of several images, or none, needs a name after its path")
                    .with_context("images", count))
            }
        };
    };
    let tags = |entry: &Entry| entry.repo_tags.clone().unwrap_or_default();
    let known = list.iter().flat_map(tags).collect::<Vec<_>>().join(", ");
    let is_wanted = |tag: &String| tag.parse().is_ok_and(|name: ImageReference| name == *wanted);
    let at = list.iter().rposition(|entry| tags(entry).iter().any(is_wanted));
    at.map(|at| list.swap_remove(at)).ok_or_else(|| {
        let rule = "the archive has no image of this name";
        Error::new(ErrorKind::NotFound, "docker_archive::open", rule)
            .with_context("image", wanted)
            .with_context("known", known)
    })
}

fn malformed(rule: &'static str) -> Error {
    Error::new(ErrorKind::Malformed, "docker_archive::open", rule)
}

#[derive(Debug)]
pub(super) struct DockerArchiveTarget {
    file: PathBuf,
    name: Option<ImageReference>,
    work_dir: PathBuf,
    parts: ArchiveFiles,
}

impl DockerArchiveTarget {
    pub(super) async fn open(file: &Path, name: Option<ImageReference>) -> Result<Self> {
        name.as_ref().map(tag_to_write).transpose()?;
        let work_dir = writable(file).await?;
        Ok(Self { file: file.to_owned(), name, work_dir, parts: ArchiveFiles::default() })
    }
}

#[async_trait]
impl Target for DockerArchiveTarget {
    /// From here a file is renamed into its place.
    fn work_dir(&self) -> &Path {
        &self.work_dir
    }

    async fn put_blob(&self, file: NamedTempFile, blob: NewBlob) -> Result<()> {
        self.parts.put_file(blob.digest, file);
        Ok(())
    }

    async fn put_document(&self, bytes: Bytes) -> Result<()> {
        self.parts.put_document(bytes);
        Ok(())
    }

    async fn put_manifest(&self, name: &Descriptor, _: Bytes) -> Result<()> {
        let rule =
            "an archive of Docker holds no indexes; convert one platform, or write elsewhere";
        Err(Error::new(ErrorKind::Unsupported, "docker_archive::write", rule)
            .with_context("manifest", name.digest))
    }

    async fn publish(&self, name: Descriptor, bytes: Bytes, _: &str) -> Result<()> {
        let manifest: Manifest = manifest::parse(&name, &bytes)?;
        let config = format!("{}.json", manifest.config.digest.hex());
        let path = |layer: &Descriptor| {
            let suffix = if layer.media_type.ends_with("zstd") { "zst" } else { "gz" };
            format!("{}.tar.{suffix}", layer.digest.hex())
        };
        let paths: HashMap<_, _> =
            manifest.layers.iter().map(|layer| (layer.digest, path(layer))).collect();
        let entry = Entry {
            config: config.clone(),
            repo_tags: self.name.as_ref().map(|name| vec![familiar(name)]),
            layers: manifest.layers.iter().map(path).collect(),
        };
        let (file, parts) = (self.file.clone(), self.parts.take());
        blocking(move || {
            let mut archive = ArchiveWriter::new(&file)?;
            archive.add_document("manifest.json", manifest::to_bytes(&[entry])?)?;
            for (digest, part) in parts {
                archive.add(paths.get(&digest).unwrap_or(&config), part)?;
            }
            archive.finish()
        })
        .await
    }
}

/// A name as Docker shows it, and looks for it: without what goes without saying.
fn familiar(name: &ImageReference) -> String {
    let full = name.to_string();
    let short = full.strip_prefix("docker.io/").unwrap_or(&full);
    short.strip_prefix("library/").unwrap_or(short).to_owned()
}
