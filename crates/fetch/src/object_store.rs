//! Blobs in object stores: S3 and what speaks like it.
use std::{fmt, sync::Arc};

use async_trait::async_trait;
use bolide_core::{
    BlobOpener, BlobRef, BlobSource, ByteRange, Digest, Error, ErrorKind, OpenedBlob, ReadOptions,
    Result, SourceCapability,
};
use bytes::{Bytes, BytesMut};
use futures::{
    StreamExt as _, TryStreamExt as _,
    stream::{self, BoxStream},
};
use object_store::{GetOptions, GetRange, ObjectStore, ObjectStoreExt as _, path::Path};

use crate::{exact::exact, file::check_size, s3::meaning};

/// Opens blobs kept as `<prefix>/blobs/sha256/<hex>`, as in an OCI image layout.
///
/// [`s3`](Self::s3) sets a bucket up. Turn off the retries of other stores: they are a wrapper's
/// work here.
#[derive(Clone, Debug)]
pub struct ObjectStoreOpener {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
}

impl ObjectStoreOpener {
    /// Opens blobs below `prefix`, which may be empty.
    #[must_use]
    pub fn new(store: Arc<dyn ObjectStore>, prefix: impl Into<Path>) -> Self {
        Self { store, prefix: prefix.into() }
    }

    /// The key of a blob.
    #[must_use]
    pub fn path(&self, digest: Digest) -> Path {
        ["blobs", "sha256", &digest.hex()].into_iter().fold(self.prefix.clone(), Path::join)
    }

    /// The size and the tail in one request; `None` if the store does not know suffixes.
    async fn suffix(&self, path: &Path, wanted: u64) -> Result<Option<(u64, Bytes)>> {
        let options = GetOptions { range: Some(GetRange::Suffix(wanted)), ..Default::default() };
        let answer = match self.store.get_opts(path, options).await {
            Err(object_store::Error::NotSupported { .. }) => return Ok(None),
            answer => answer.map_err(|error| explain("object_store::open", error, path))?,
        };
        let (size, found) = (answer.meta.size, answer.range.clone());
        if found.end != size || found.start != size.saturating_sub(wanted) {
            return Ok(None);
        }
        let Ok(range) = ByteRange::new(found) else { return Ok(Some((size, Bytes::new()))) };
        let mut pieces = body(answer.into_stream(), range, path);
        let mut tail = BytesMut::new();
        while let Some(piece) = pieces.next().await.transpose()? {
            tail.extend_from_slice(&piece);
        }
        Ok(Some((size, tail.freeze())))
    }
}

#[async_trait]
impl BlobOpener for ObjectStoreOpener {
    async fn open(&self, blob: BlobRef, tail_hint: u64) -> Result<OpenedBlob> {
        let path = self.path(blob.digest);
        let source = |size| ObjectSource {
            store: Arc::clone(&self.store),
            path: path.clone(),
            digest: blob.digest,
            size,
        };
        // Some services fail on suffixes longer than the object.
        let wanted = tail_hint.clamp(1, blob.size.unwrap_or(u64::MAX).max(1));
        // Stores refuse every range of an empty object. A byte is asked for where no tail is wanted:
        // the answer to HEAD has no body that says why it was refused.
        if blob.size != Some(0)
            && let Some((size, tail)) = self.suffix(&path, wanted).await?
        {
            check_size("object_store::open", blob, size)?;
            let tail = if tail_hint > 0 { tail } else { Bytes::new() };
            return Ok(OpenedBlob { source: Arc::new(source(size)), tail });
        }
        let head = self.store.head(&path).await;
        let size = head.map_err(|error| explain("object_store::open", error, &path))?.size;
        check_size("object_store::open", blob, size)?;
        let source = source(size);
        let tail = match ByteRange::at(size.saturating_sub(tail_hint), tail_hint.min(size)) {
            Ok(range) => source.read_at(range, ReadOptions::default()).await?,
            Err(_) => Bytes::new(),
        };
        Ok(OpenedBlob { source: Arc::new(source), tail })
    }
}

/// Reads one object, one request per range.
#[derive(Clone, Debug)]
struct ObjectSource {
    store: Arc<dyn ObjectStore>,
    path: Path,
    digest: Digest,
    size: u64,
}

impl ObjectSource {
    async fn request(self, range: ByteRange) -> Result<BoxStream<'static, Result<Bytes>>> {
        let options =
            GetOptions { range: Some(GetRange::Bounded(range.as_range())), ..Default::default() };
        let answer = self.store.get_opts(&self.path, options).await.map_err(|error| {
            explain("object_store::read", error, &self.path).with_context("range", range)
        })?;
        if answer.range != range.as_range() || answer.meta.size != self.size {
            return Err(Error::new(
                ErrorKind::Corrupt,
                "object_store::read",
                "the object changed since it was opened",
            )
            .with_context("path", &self.path)
            .with_context("range", range));
        }
        Ok(body(answer.into_stream(), range, &self.path))
    }
}

impl fmt::Display for ObjectSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ObjectSource({})", self.path)
    }
}

#[async_trait]
impl BlobSource for ObjectSource {
    fn digest(&self) -> Digest {
        self.digest
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn capability(&self) -> SourceCapability {
        SourceCapability::default()
    }

    fn stream(&self, range: ByteRange, _: ReadOptions) -> BoxStream<'static, Result<Bytes>> {
        if range.end() > self.size {
            let error = Error::new(
                ErrorKind::OutOfRange,
                "object_store::read",
                "the range ends past the blob",
            )
            .with_context("path", &self.path)
            .with_context("range", range)
            .with_context("size", self.size);
            return stream::iter([Err(error)]).boxed();
        }
        stream::once(self.clone().request(range)).try_flatten().boxed()
    }
}

fn body(
    pieces: BoxStream<'static, object_store::Result<Bytes>>,
    range: ByteRange,
    path: &Path,
) -> BoxStream<'static, Result<Bytes>> {
    let (failing, ending) = (path.clone(), path.clone());
    let pieces = pieces.map_err(move |error| {
        explain("object_store::read", error, &failing).with_context("range", range)
    });
    exact(pieces.boxed(), 0, range.len(), move |got| {
        Error::new(ErrorKind::Unavailable, "object_store::read", "the body ended early")
            .with_context("path", &ending)
            .with_context("range", range)
            .with_context("got", got)
    })
}

/// Keeps the kinds a caller can act on.
fn explain(operation: &'static str, error: object_store::Error, path: &Path) -> Error {
    use object_store::Error as Store;
    let (kind, rule) = meaning(&error).unwrap_or(match &error {
        Store::NotFound { .. } => (ErrorKind::NotFound, "the store does not have the object"),
        Store::PermissionDenied { .. } | Store::Unauthenticated { .. } => (
            ErrorKind::Unauthorized,
            "the store refused us; check the key and that it may read the object",
        ),
        Store::Generic { .. } => (ErrorKind::Unavailable, "the store could not be read"),
        Store::NotSupported { .. } | Store::NotImplemented { .. } => {
            (ErrorKind::Unsupported, "the store cannot do this")
        }
        Store::InvalidPath { .. } => (ErrorKind::Config, "the prefix is not usable as a key"),
        _ => (ErrorKind::Unexpected, "the store failed"),
    });
    Error::new(kind, operation, rule).with_context("path", path).with_source(error)
}
