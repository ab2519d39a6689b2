//! One blob that several places hold.
use std::{fmt, sync::Arc};

use async_trait::async_trait;
use bolide_core::{
    BlobSource, ByteRange, Digest, Error, ErrorKind, ReadOptions, Result, SourceCapability,
};
use bytes::Bytes;
use futures::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use parking_lot::RwLock;

/// Places asked for one blob at most.
const MAX_PLACES: usize = 8;

/// Reads a blob from the first of its places that has it. What one place had sent when it failed is
/// not asked of the next.
///
/// Places are added while the source is in use: another image that holds the same layer names
/// another repository.
#[derive(Clone, Debug)]
pub struct FallbackSource {
    first: Arc<dyn BlobSource>,
    others: Arc<RwLock<Vec<Arc<dyn BlobSource>>>>,
}

impl FallbackSource {
    /// Starts with one place.
    #[must_use]
    pub fn new(first: Arc<dyn BlobSource>) -> Self {
        Self { first, others: Arc::default() }
    }

    /// Adds a place that is asked after those known so far; beyond eight it is not.
    ///
    /// `Corrupt` when it holds another blob.
    pub fn add(&self, place: Arc<dyn BlobSource>) -> Result<()> {
        if place.digest() != self.first.digest() || place.size() != self.first.size() {
            return Err(Error::new(
                ErrorKind::Corrupt,
                "fallback::add",
                "every place of a blob must hold the same bytes",
            )
            .with_context("blob", self.first.digest())
            .with_context("size", self.first.size())
            .with_context("other", place));
        }
        let mut others = self.others.write();
        if others.len() + 1 < MAX_PLACES {
            others.push(place);
        }
        Ok(())
    }

    fn places(&self) -> Vec<Arc<dyn BlobSource>> {
        let others = self.others.read();
        std::iter::once(&self.first).chain(others.iter()).map(Arc::clone).collect()
    }
}

impl fmt::Display for FallbackSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FallbackSource({}, {} more)", self.first, self.others.read().len())
    }
}

/// Whether another place may do better.
fn is_the_places_fault(error: &Error) -> bool {
    !matches!(error.kind(), ErrorKind::OutOfRange | ErrorKind::Unexpected)
}

struct Read {
    /// Not asked yet.
    places: std::vec::IntoIter<Arc<dyn BlobSource>>,
    options: ReadOptions,
    /// First byte that has not arrived.
    at: u64,
    end: u64,
    pieces: Option<BoxStream<'static, Result<Bytes>>>,
    failure: Option<Error>,
}

impl Read {
    async fn next(mut self) -> Option<(Result<Bytes>, Self)> {
        loop {
            let rest = ByteRange::new(self.at..self.end).ok()?;
            if self.pieces.is_none() {
                let Some(place) = self.places.next() else {
                    self.at = self.end;
                    let failure = self.failure.take().unwrap_or_else(|| early_end(rest));
                    return Some((Err(failure), self));
                };
                self.pieces = Some(place.stream(rest, self.options));
            }
            let piece = self.pieces.as_mut()?.next().await.unwrap_or_else(|| Err(early_end(rest)));
            match piece {
                Ok(piece) => {
                    self.at = self.at.saturating_add(piece.len() as u64);
                    return Some((Ok(piece), self));
                }
                Err(error) if is_the_places_fault(&error) => {
                    tracing::debug!(%error, "another place of the blob is asked");
                    self.pieces = None;
                    // The first place is the one people know.
                    self.failure.get_or_insert(error);
                }
                Err(error) => {
                    self.at = self.end;
                    return Some((Err(error), self));
                }
            }
        }
    }
}

fn early_end(rest: ByteRange) -> Error {
    Error::new(ErrorKind::Unavailable, "fallback::read", "the source ended early")
        .with_context("missing", rest)
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl BlobSource for FallbackSource {
    fn digest(&self) -> Digest {
        self.first.digest()
    }

    fn size(&self) -> u64 {
        self.first.size()
    }

    fn capability(&self) -> SourceCapability {
        self.first.capability()
    }

    fn stream(&self, range: ByteRange, options: ReadOptions) -> BoxStream<'static, Result<Bytes>> {
        let read = Read {
            places: self.places().into_iter(),
            options,
            at: range.start(),
            end: range.end(),
            pieces: None,
            failure: None,
        };
        stream::unfold(read, Read::next).boxed()
    }

    async fn read_at(&self, range: ByteRange, options: ReadOptions) -> Result<Bytes> {
        super::retry::collect(self.stream(range, options), self.digest(), range).await
    }
}
