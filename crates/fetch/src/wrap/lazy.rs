//! Opens a blob when it is first read.
use std::{fmt, sync::Arc};

use async_trait::async_trait;
use bolide_core::{
    BlobOpener, BlobRef, BlobSource, ByteRange, Digest, Error, ErrorKind, ReadOptions, Result,
    SourceCapability,
};
use bytes::Bytes;
use futures::{
    StreamExt as _, TryStreamExt as _,
    stream::{self, BoxStream},
};
use tokio::sync::OnceCell;

/// A blob that is opened at its first read, so that a layer can be mounted again while its
/// registry is out of reach. A failed opening is tried again by the next read.
#[derive(Clone, Debug)]
pub struct LazySource {
    opener: Arc<dyn BlobOpener>,
    digest: Digest,
    size: u64,
    opened: Arc<OnceCell<Arc<dyn BlobSource>>>,
}

impl LazySource {
    /// A blob of `size` bytes that `opener` will open.
    #[must_use]
    pub fn new(opener: Arc<dyn BlobOpener>, digest: Digest, size: u64) -> Self {
        Self { opener, digest, size, opened: Arc::default() }
    }

    async fn open(&self) -> Result<Arc<dyn BlobSource>> {
        let open = || async {
            let blob = BlobRef { digest: self.digest, size: Some(self.size) };
            Ok(self.opener.open(blob, 0).await?.source)
        };
        self.opened.get_or_try_init(open).await.map(Arc::clone)
    }

    fn past_the_end(&self, range: ByteRange) -> Error {
        Error::new(ErrorKind::OutOfRange, "lazy::read", "the range ends past the blob")
            .with_context("range", range)
            .with_context("size", self.size)
    }
}

impl fmt::Display for LazySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.opened.get() {
            Some(source) => write!(f, "LazySource({source})"),
            None => write!(f, "LazySource({}, not opened)", self.digest),
        }
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl BlobSource for LazySource {
    fn digest(&self) -> Digest {
        self.digest
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn capability(&self) -> SourceCapability {
        self.opened.get().map_or_else(SourceCapability::default, |source| source.capability())
    }

    fn stream(&self, range: ByteRange, options: ReadOptions) -> BoxStream<'static, Result<Bytes>> {
        if range.end() > self.size {
            return stream::iter([Err(self.past_the_end(range))]).boxed();
        }
        let this = self.clone();
        stream::once(async move { Ok(this.open().await?.stream(range, options)) })
            .try_flatten()
            .boxed()
    }

    async fn read_at(&self, range: ByteRange, options: ReadOptions) -> Result<Bytes> {
        if range.end() > self.size {
            return Err(self.past_the_end(range));
        }
        self.open().await?.read_at(range, options).await
    }
}
