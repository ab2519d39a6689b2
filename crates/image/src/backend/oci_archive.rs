//! Images in a tar of an OCI image layout.
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use bolide_core::{BlobOpener, BlobRef, Digest, OpenedBlob, Result};
use bytes::Bytes;
use parking_lot::Mutex;
use tempfile::NamedTempFile;
use tokio::sync::OnceCell;

use super::{NewBlob, Origin, Target};
use crate::{
    Access,
    archive::{ArchiveFiles, ArchiveIndex, ArchiveWriter, directory},
    blob_reader::blocking,
    layout,
    manifest::{self, Descriptor, Index, media_type},
};

/// An archive that is opened once, when it is first read.
#[derive(Debug)]
pub(super) struct LazyArchive {
    file: PathBuf,
    work_dir: PathBuf,
    index: OnceCell<Arc<ArchiveIndex>>,
}

impl LazyArchive {
    pub(super) fn new(file: &Path, access: &Access) -> Self {
        // What is compressed as a whole is unpacked there, or beside it.
        let work_dir = access.work_dir().unwrap_or_else(|_| directory(file)).to_owned();
        Self { file: file.to_owned(), work_dir, index: OnceCell::new() }
    }

    pub(super) async fn open(&self) -> Result<Arc<ArchiveIndex>> {
        let opened = self.index.get_or_try_init(|| {
            let (file, work_dir) = (self.file.clone(), self.work_dir.clone());
            blocking(move || ArchiveIndex::open(&file, &work_dir).map(Arc::new))
        });
        opened.await.cloned()
    }
}

#[derive(Debug)]
pub(super) struct OciArchiveOrigin {
    archive: Arc<LazyArchive>,
    tag: Option<String>,
}

impl OciArchiveOrigin {
    pub(super) fn new(file: &Path, tag: Option<String>, access: &Access) -> Self {
        Self { archive: Arc::new(LazyArchive::new(file, access)), tag }
    }
}

#[async_trait]
impl Origin for OciArchiveOrigin {
    async fn root(&self) -> Result<(Descriptor, Bytes)> {
        let (archive, tag) = (self.archive.open().await?, self.tag.clone());
        blocking(move || {
            archive.member("oci-layout")?;
            let index = archive.document("index.json")?;
            let index: Index =
                manifest::parse(&Descriptor::of(media_type::OCI_INDEX, &index), &index)?;
            let name = layout::named(index, tag.as_deref());
            let name =
                name.map_err(|error| error.with_context("path", archive.path().display()))?;
            let document = archive.document(&member(name.digest))?;
            Ok((name, document.into()))
        })
        .await
    }

    async fn manifest(&self, name: &Descriptor) -> Result<Bytes> {
        let (archive, digest) = (self.archive.open().await?, name.digest);
        blocking(move || Ok(archive.document(&member(digest))?.into())).await
    }

    fn blobs(&self) -> Arc<dyn BlobOpener> {
        Arc::new(Blobs(Arc::clone(&self.archive)))
    }
}

#[derive(Debug)]
struct Blobs(Arc<LazyArchive>);

#[async_trait]
impl BlobOpener for Blobs {
    async fn open(&self, blob: BlobRef, tail_hint: u64) -> Result<OpenedBlob> {
        let archive = self.0.open().await?;
        let place = archive.member(&member(blob.digest))?;
        archive.source(place, blob.digest).opened(blob, tail_hint).await
    }
}

fn member(digest: Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

#[derive(Debug)]
pub(super) struct OciArchiveTarget {
    file: PathBuf,
    tag: Option<String>,
    work_dir: PathBuf,
    parts: ArchiveFiles,
    index: Mutex<Index>,
}

impl OciArchiveTarget {
    pub(super) async fn open(file: &Path, tag: Option<String>) -> Result<Self> {
        let work_dir = writable(file).await?;
        Ok(Self {
            file: file.to_owned(),
            tag,
            work_dir,
            parts: ArchiveFiles::default(),
            index: Mutex::new(layout::empty_index()),
        })
    }
}

/// The directory of an archive to be, once it was seen that a file can be made there.
pub(super) async fn writable(file: &Path) -> Result<PathBuf> {
    let (file, dir) = (file.to_owned(), directory(file).to_owned());
    blocking(move || ArchiveWriter::new(&file).map(|_| dir)).await
}

#[async_trait]
impl Target for OciArchiveTarget {
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

    async fn put_manifest(&self, _: &Descriptor, bytes: Bytes) -> Result<()> {
        self.put_document(bytes).await
    }

    async fn publish(&self, name: Descriptor, bytes: Bytes, suffix: &str) -> Result<()> {
        self.put_document(bytes).await?;
        let tag = self.tag.as_ref().map(|tag| format!("{tag}{suffix}"));
        layout::set(&mut self.index.lock(), name, tag.as_deref());
        if !suffix.is_empty() {
            return Ok(());
        }
        let (file, parts) = (self.file.clone(), self.parts.take());
        let index = self.index.lock().clone();
        blocking(move || {
            let mut archive = ArchiveWriter::new(&file)?;
            archive.add_document("oci-layout", layout::VERSION.to_vec())?;
            archive.add_document("index.json", manifest::to_bytes(&index)?)?;
            for (digest, part) in parts {
                archive.add(&member(digest), part)?;
            }
            archive.finish()
        })
        .await
    }
}
