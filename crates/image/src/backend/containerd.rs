//! Images in containerd: names in its images service, blobs in its content store.
use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use bolide_core::{
    BlobOpener, BlobRef, BlobSource, ByteRange, Digest, Error, ErrorKind, OpenedBlob, ReadOptions,
    Result, SourceCapability, memory::MemoryBlob,
};
use bolide_fetch::{FileSource, ImageReference};
use bytes::Bytes;
use futures::{
    StreamExt as _, TryStreamExt as _,
    stream::{self, BoxStream},
};
use tempfile::NamedTempFile;

use super::{NewBlob, Origin, Target, check_document_size, tag_to_write};
use crate::{
    Access, ContainerdSession, Location,
    blob_reader::blocking,
    containerd::{Labels, UNCOMPRESSED, gc_labels},
    manifest::Descriptor,
};

#[derive(Debug)]
pub(super) struct ContainerdOrigin {
    session: Arc<ContainerdSession>,
    name: String,
}

impl ContainerdOrigin {
    pub(super) fn new(name: &ImageReference, access: &Access) -> Result<Self> {
        Ok(Self { session: Arc::clone(access.containerd()?), name: name.to_string() })
    }
}

#[async_trait]
impl Origin for ContainerdOrigin {
    async fn root(&self) -> Result<(Descriptor, Bytes)> {
        let name = self.session.image(&self.name).await?;
        let document = self.manifest(&name).await?;
        Ok((name, document))
    }

    async fn manifest(&self, name: &Descriptor) -> Result<Bytes> {
        check_document_size(name.digest, name.size)?;
        let Ok(whole) = ByteRange::new(0..name.size) else { return Ok(Bytes::new()) };
        Content::open(&self.session, name.digest)
            .await?
            .read_at(whole, ReadOptions::default())
            .await
    }

    fn blobs(&self) -> Arc<dyn BlobOpener> {
        Arc::new(Store(Arc::clone(&self.session)))
    }
}

/// The content store.
#[derive(Debug)]
struct Store(Arc<ContainerdSession>);

#[async_trait]
impl BlobOpener for Store {
    async fn open(&self, blob: BlobRef, tail_hint: u64) -> Result<OpenedBlob> {
        let source = Content::open(&self.0, blob.digest).await?;
        if let Some(expected) = blob.size.filter(|expected| *expected != source.size) {
            let rule = "the blob does not have the size its manifest says";
            return Err(Error::new(ErrorKind::Corrupt, "containerd::open", rule)
                .with_context("blob", blob.digest)
                .with_context("expected", expected)
                .with_context("found", source.size));
        }
        let tail = tail_hint.min(source.size);
        let tail = match ByteRange::at(source.size - tail, tail) {
            Ok(range) => source.read_at(range, ReadOptions::default()).await?,
            Err(_) => Bytes::new(),
        };
        Ok(OpenedBlob { source: Arc::new(source), tail })
    }
}

/// One blob of the store.
#[derive(Clone, Debug)]
struct Content {
    session: Arc<ContainerdSession>,
    digest: Digest,
    size: u64,
}

impl Content {
    async fn open(session: &Arc<ContainerdSession>, digest: Digest) -> Result<Self> {
        let (size, _) = session.blob_info(digest).await?.ok_or_else(|| {
            let rule =
                "containerd does not hold this blob; pull the image whole, for this platform";
            Error::new(ErrorKind::NotFound, "containerd::open", rule).with_context("blob", digest)
        })?;
        Ok(Self { session: Arc::clone(session), digest, size })
    }
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Content({})", self.digest)
    }
}

#[async_trait]
impl BlobSource for Content {
    fn digest(&self) -> Digest {
        self.digest
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn capability(&self) -> SourceCapability {
        SourceCapability::default().with_local(true)
    }

    fn stream(&self, range: ByteRange, _: ReadOptions) -> BoxStream<'static, Result<Bytes>> {
        if range.end() > self.size {
            let rule = "the range ends past the blob";
            let error = Error::new(ErrorKind::OutOfRange, "containerd::read", rule)
                .with_context("blob", self.digest)
                .with_context("range", range)
                .with_context("size", self.size);
            return stream::iter([Err(error)]).boxed();
        }
        let (session, digest) = (Arc::clone(&self.session), self.digest);
        stream::once(async move { session.read_blob(digest, range).await }).try_flatten().boxed()
    }
}

#[derive(Debug)]
pub(super) struct ContainerdTarget {
    session: Arc<ContainerdSession>,
    name: String,
    work_dir: PathBuf,
}

impl ContainerdTarget {
    pub(super) async fn open(name: &ImageReference, access: &Access) -> Result<Self> {
        tag_to_write(name)?;
        let session = Arc::clone(access.containerd()?);
        session.lease().await?;
        Ok(Self { session, name: name.to_string(), work_dir: access.work_dir()?.to_owned() })
    }

    async fn put(&self, bytes: Bytes, labels: Labels) -> Result<()> {
        self.session.write_blob(&MemoryBlob::new(bytes.to_vec()), labels).await
    }
}

#[async_trait]
impl Target for ContainerdTarget {
    fn work_dir(&self) -> &Path {
        &self.work_dir
    }

    async fn adopt(&self, name: &Descriptor, source: &Location) -> Result<bool> {
        let _ = source;
        self.session.adopt_blob(name).await
    }

    async fn put_blob(&self, file: NamedTempFile, blob: NewBlob) -> Result<()> {
        let labels = blob.diff_id.map(|id| (UNCOMPRESSED.to_owned(), id.to_string()));
        let source = FileSource::open(file.path(), blob.digest).await?;
        self.session.write_blob(&source, labels.into_iter().collect()).await?;
        blocking(move || file.close().map_err(|error| Error::io("image::write", error))).await
    }

    async fn put_document(&self, bytes: Bytes) -> Result<()> {
        self.put(bytes, Labels::new()).await
    }

    async fn put_manifest(&self, name: &Descriptor, bytes: Bytes) -> Result<()> {
        let labels = gc_labels(name, &bytes)?;
        self.put(bytes, labels).await
    }

    async fn publish(&self, name: Descriptor, bytes: Bytes, suffix: &str) -> Result<()> {
        self.put_manifest(&name, bytes).await?;
        self.session.name_image(&format!("{}{suffix}", self.name), &name).await
    }
}
