//! A blob held in memory.
use std::{fmt, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt as _};

use crate::{
    BlobOpener, BlobRef, BlobSource, ByteRange, Digest, Error, ErrorKind, OpenedBlob, ReadOptions,
    Result, SourceCapability,
};

/// A [`BlobSource`] over bytes in memory, and the opener of that one blob.
#[derive(Clone)]
pub struct MemoryBlob {
    bytes: Bytes,
    digest: Digest,
}

impl MemoryBlob {
    /// Holds `bytes` under their own digest.
    #[must_use]
    pub fn new(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self { digest: Digest::of(&bytes), bytes }
    }

    /// Holds `bytes` under a digest that need not be theirs: a registry that lies.
    #[must_use]
    pub fn with_digest(bytes: impl Into<Bytes>, digest: Digest) -> Self {
        Self { bytes: bytes.into(), digest }
    }

    fn slice(&self, range: ByteRange) -> Result<Bytes> {
        let bounds = (usize::try_from(range.start()), usize::try_from(range.end()));
        match bounds {
            (Ok(start), Ok(end)) if end <= self.bytes.len() => Ok(self.bytes.slice(start..end)),
            _ => Err(Error::new(
                ErrorKind::OutOfRange,
                "memory_blob::read",
                "the range ends past the blob",
            )
            .with_context("range", range)
            .with_context("size", self.bytes.len())),
        }
    }
}

impl fmt::Debug for MemoryBlob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for MemoryBlob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemoryBlob({})", self.digest)
    }
}

#[async_trait]
impl BlobSource for MemoryBlob {
    fn digest(&self) -> Digest {
        self.digest
    }

    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn capability(&self) -> SourceCapability {
        SourceCapability::default().with_local(true)
    }

    fn stream(&self, range: ByteRange, _: ReadOptions) -> BoxStream<'static, Result<Bytes>> {
        stream::iter([self.slice(range)]).boxed()
    }

    async fn read_at(&self, range: ByteRange, _: ReadOptions) -> Result<Bytes> {
        self.slice(range)
    }
}

#[async_trait]
impl BlobOpener for MemoryBlob {
    async fn open(&self, blob: BlobRef, tail_hint: u64) -> Result<OpenedBlob> {
        if blob.digest != self.digest {
            return Err(Error::new(
                ErrorKind::NotFound,
                "memory_blob::open",
                "this opener holds another blob",
            )
            .with_context("blob", blob.digest));
        }
        if blob.size.is_some_and(|size| size != self.size()) {
            return Err(Error::new(
                ErrorKind::Corrupt,
                "memory_blob::open",
                "the blob does not have the size its manifest says",
            )
            .with_context("blob", blob.digest));
        }
        let hint = usize::try_from(tail_hint).unwrap_or(usize::MAX);
        let tail = self.bytes.slice(self.bytes.len().saturating_sub(hint)..);
        Ok(OpenedBlob { source: Arc::new(self.clone()), tail })
    }
}
