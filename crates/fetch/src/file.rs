//! Blobs in local files, and OCI image layouts.
use std::{
    collections::HashMap,
    fmt,
    fs::File,
    io::Read as _,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use bolide_core::{
    BlobOpener, BlobRef, BlobSource, ByteRange, Digest, Error, ErrorKind, OpenedBlob, ReadOptions,
    Result, SourceCapability,
};
use bytes::{Bytes, BytesMut};
use futures::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use serde::Deserialize;

/// Bytes read at a time: large enough to hide the cost of a blocking task.
const PIECE: u64 = 256 * 1024;
const MAX_INDEX: u64 = 8 * 1024 * 1024;

/// A blob in a local file, or in a part of one. Reads run on the blocking pool.
#[derive(Clone, Debug)]
pub struct FileSource {
    file: Arc<File>,
    path: Arc<Path>,
    digest: Digest,
    /// Where the blob starts in the file, in bytes.
    start: u64,
    size: u64,
}

impl FileSource {
    /// Opens the file at `path`, whose content is said to have `digest`. Its size is taken now.
    pub async fn open(path: impl Into<PathBuf>, digest: Digest) -> Result<Self> {
        let path = path.into();
        blocking(move || {
            let failed =
                |error| Error::io("file::open", error).with_context("path", path.display());
            let file = File::open(&path).map_err(failed)?;
            let metadata = file.metadata().map_err(failed)?;
            if !metadata.is_file() {
                return Err(Error::new(
                    ErrorKind::FailedPrecondition,
                    "file::open",
                    "a blob must be a regular file",
                )
                .with_context("path", path.display()));
            }
            let size = metadata.len();
            Ok(Self { file: Arc::new(file), path: path.into(), digest, start: 0, size })
        })
        .await
    }

    /// The blob that lies at `part`, in bytes, of an open file. `path` names the file in errors.
    #[must_use]
    pub fn part(
        file: Arc<File>,
        path: impl AsRef<Path>,
        digest: Digest,
        part: std::ops::Range<u64>,
    ) -> Self {
        let size = part.end.saturating_sub(part.start);
        Self { file, path: path.as_ref().into(), digest, start: part.start, size }
    }

    /// The source, and its last `tail_hint` bytes.
    ///
    /// `Corrupt` when it has not the size that `blob` says.
    pub async fn opened(self, blob: BlobRef, tail_hint: u64) -> Result<OpenedBlob> {
        check_size("file::open", blob, self.size)?;
        let tail = tail_hint.min(self.size);
        let tail = match ByteRange::at(self.size - tail, tail) {
            Ok(range) => self.clone().read(range).await?,
            Err(_) => Bytes::new(),
        };
        Ok(OpenedBlob { source: Arc::new(self), tail })
    }

    async fn read(self, range: ByteRange) -> Result<Bytes> {
        blocking(move || {
            let len = usize::try_from(range.len()).map_err(|_| self.past_the_end(range))?;
            let mut bytes = BytesMut::zeroed(len);
            self.file.read_exact_at(&mut bytes, self.start + range.start()).map_err(|error| {
                Error::io("file::read", error)
                    .with_context("path", self.path.display())
                    .with_context("range", range)
            })?;
            Ok(bytes.freeze())
        })
        .await
    }

    fn past_the_end(&self, range: ByteRange) -> Error {
        Error::new(ErrorKind::OutOfRange, "file::read", "the range ends past the blob")
            .with_context("path", self.path.display())
            .with_context("range", range)
            .with_context("size", self.size)
    }
}

impl fmt::Display for FileSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FileSource({})", self.path.display())
    }
}

#[async_trait]
impl BlobSource for FileSource {
    fn digest(&self) -> Digest {
        self.digest
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn capability(&self) -> SourceCapability {
        // A seek in a local file costs next to nothing: only touching ranges are merged.
        SourceCapability::default().with_local(true).with_merge_gap(0)
    }

    fn stream(&self, range: ByteRange, _: ReadOptions) -> BoxStream<'static, Result<Bytes>> {
        if range.end() > self.size {
            return stream::iter([Err(self.past_the_end(range))]).boxed();
        }
        let start = (self.clone(), range.start(), range.end());
        stream::try_unfold(start, |(source, at, end)| async move {
            let len = PIECE.min(end - at);
            let Ok(piece) = ByteRange::at(at, len) else { return Ok(None) };
            let bytes = source.clone().read(piece).await?;
            Ok(Some((bytes, (source, at + len, end))))
        })
        .boxed()
    }

    async fn read_at(&self, range: ByteRange, _: ReadOptions) -> Result<Bytes> {
        if range.end() > self.size {
            return Err(self.past_the_end(range));
        }
        self.clone().read(range).await
    }
}

/// A directory in the form of an OCI image layout.
#[derive(Clone, Debug)]
pub struct OciLayout {
    dir: Arc<Path>,
}

/// What an OCI layout's `index.json` lists.
#[derive(Clone, Debug, Deserialize)]
pub struct LayoutIndex {
    /// The images, or indexes of them.
    pub manifests: Vec<LayoutDescriptor>,
}

/// Names one manifest.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LayoutDescriptor {
    /// What the blob is.
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// Annotations, such as the name under `org.opencontainers.image.ref.name`.
    #[serde(default)]
    pub annotations: HashMap<String, String>,
}

impl OciLayout {
    /// The layout in `dir`; nothing is read yet.
    #[must_use]
    pub fn new(dir: impl AsRef<Path>) -> Self {
        Self { dir: dir.as_ref().into() }
    }

    /// Reads `index.json`, at most 8 MiB; `Malformed` if it is no index.
    pub async fn index(&self) -> Result<LayoutIndex> {
        let path = self.dir.join("index.json");
        let shown = path.display().to_string();
        let text = read_bounded(path, MAX_INDEX).await?;
        serde_json::from_slice(&text).map_err(|error| {
            Error::new(ErrorKind::Malformed, "layout::index", "it must be an OCI image index")
                .with_context("path", shown)
                .with_source(error)
        })
    }

    /// Reads a whole blob of at most `limit` bytes and checks it; `Exhausted` if it is longer,
    /// `Corrupt` if it is not what its name says.
    pub async fn blob(&self, digest: Digest, limit: u64) -> Result<Bytes> {
        let bytes = read_bounded(self.blob_path(digest), limit).await?;
        let checked = bytes.clone();
        let found = blocking(move || Ok(Digest::of(&checked))).await?;
        if found == digest {
            return Ok(bytes);
        }
        Err(Error::new(ErrorKind::Corrupt, "layout::blob", "the file does not match its name")
            .with_context("blob", digest)
            .with_context("found", found))
    }

    /// The file that holds a blob.
    #[must_use]
    pub fn blob_path(&self, digest: Digest) -> PathBuf {
        self.dir.join("blobs/sha256").join(digest.hex())
    }
}

/// Opens the blobs of an OCI image layout.
#[derive(Clone, Debug)]
pub struct OciLayoutOpener {
    layout: OciLayout,
}

impl OciLayoutOpener {
    /// Opens blobs of the layout in `dir`.
    #[must_use]
    pub fn new(dir: impl AsRef<Path>) -> Self {
        Self { layout: OciLayout::new(dir) }
    }
}

#[async_trait]
impl BlobOpener for OciLayoutOpener {
    async fn open(&self, blob: BlobRef, tail_hint: u64) -> Result<OpenedBlob> {
        let source = FileSource::open(self.layout.blob_path(blob.digest), blob.digest).await?;
        source.opened(blob, tail_hint).await
    }
}

/// `Corrupt` unless the blob has the size its manifest gives.
pub(crate) fn check_size(operation: &'static str, blob: BlobRef, size: u64) -> Result<()> {
    match blob.size {
        Some(expected) if expected != size => Err(Error::new(
            ErrorKind::Corrupt,
            operation,
            "the blob does not have the size its manifest says",
        )
        .with_context("blob", blob.digest)
        .with_context("expected", expected)
        .with_context("found", size)),
        _ => Ok(()),
    }
}

async fn read_bounded(path: PathBuf, limit: u64) -> Result<Bytes> {
    blocking(move || {
        let failed = |error| Error::io("file::read", error).with_context("path", path.display());
        let file = File::open(&path).map_err(failed)?;
        let mut bytes = Vec::new();
        file.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() as u64 > limit {
            return Err(Error::new(ErrorKind::Exhausted, "file::read", "the file is too long")
                .with_context("path", path.display())
                .with_context("limit", limit));
        }
        Ok(bytes.into())
    })
    .await
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        Err(Error::new(ErrorKind::Unexpected, "file::read", "the blocking task did not finish")
            .with_source(error))
    })
}

#[cfg(test)]
mod tests;
