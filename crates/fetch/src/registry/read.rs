//! Opens and reads blobs with ranged requests.
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
use http::{HeaderMap, HeaderValue, header};
use reqwest::Response;
use url::Url;

use super::{
    Endpoint, Repository,
    range::{content_length, content_range, unsatisfied_size},
    status_error,
};
use crate::{
    exact::exact,
    file::check_size,
    http::{public_url, transport},
};

/// How much of an unwanted beginning is read when a server ignores ranges. Further in, reading on
/// demand would fetch the blob again and again.
const MAX_SKIP: u64 = 1024 * 1024;

/// Reads one blob of a repository, one request per range.
#[derive(Clone)]
pub struct RegistrySource {
    repository: Repository,
    endpoint: Endpoint,
    url: Url,
    digest: Digest,
    size: u64,
}

impl fmt::Debug for RegistrySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for RegistrySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RegistrySource({})", public_url(&self.url))
    }
}

impl RegistrySource {
    async fn request(self, range: ByteRange) -> Result<BoxStream<'static, Result<Bytes>>> {
        let header = format!("bytes={}-{}", range.start(), range.end() - 1);
        let response = self.repository.get_range(&self.endpoint, &self.url, &header).await?;
        self.check(response, range).map_err(|error| error.with_context("range", range))
    }

    fn check(
        &self,
        response: Response,
        range: ByteRange,
    ) -> Result<BoxStream<'static, Result<Bytes>>> {
        let wrong = |kind, rule| {
            Error::new(kind, "registry::read", rule).with_context("url", public_url(response.url()))
        };
        let skip = match response.status().as_u16() {
            206 => {
                let answer = content_range(response.headers());
                let matches = answer.is_some_and(|answer| {
                    answer.first == range.start() && answer.last == range.end() - 1
                });
                if !matches {
                    return Err(wrong(ErrorKind::Malformed, "the server sent another range"));
                }
                let total = answer.and_then(|answer| answer.total);
                if total.is_some_and(|total| total != self.size) {
                    return Err(wrong(ErrorKind::Corrupt, "the blob changed its size"));
                }
                0
            }
            200 if content_length(response.headers()).is_some_and(|size| size != self.size) => {
                return Err(wrong(ErrorKind::Corrupt, "the blob changed its size"));
            }
            200 if range.start() <= MAX_SKIP => range.start(),
            200 => {
                return Err(wrong(
                    ErrorKind::Unsupported,
                    "the server ignores ranges; pull this image as a whole",
                ));
            }
            _ => return Err(status_error("registry::read", &response)),
        };
        plain_encoding(&response)?;
        Ok(body(response, skip, range))
    }

    fn past_the_end(&self, range: ByteRange) -> Error {
        Error::new(ErrorKind::OutOfRange, "registry::read", "the range ends past the blob")
            .with_context("blob", self.digest)
            .with_context("range", range)
            .with_context("size", self.size)
    }
}

#[async_trait]
impl BlobSource for RegistrySource {
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
            return stream::iter([Err(self.past_the_end(range))]).boxed();
        }
        stream::once(self.clone().request(range)).try_flatten().boxed()
    }
}

#[async_trait]
impl BlobOpener for Repository {
    async fn open(&self, blob: BlobRef, tail_hint: u64) -> Result<OpenedBlob> {
        let mut refused = None;
        for endpoint in self.endpoints.iter() {
            match self.open_at(endpoint, blob, tail_hint).await {
                Ok(opened) => return Ok(opened),
                // The registry's own word counts more than a mirror's.
                Err(error) => refused = Some(error),
            }
        }
        Err(refused.unwrap_or_else(|| {
            Error::new(ErrorKind::Unexpected, "registry::open", "a repository has a registry")
        }))
    }
}

/// What a suffix request told us.
enum Suffix {
    /// Everything.
    Tail(u64, Bytes),
    /// The server does not know suffixes, but may have said how long the blob is.
    Refused(Option<u64>),
}

impl Repository {
    async fn open_at(
        &self,
        endpoint: &Endpoint,
        blob: BlobRef,
        tail_hint: u64,
    ) -> Result<OpenedBlob> {
        let url = self.url(endpoint, &format!("blobs/{}", blob.digest))?;
        let mut told = None;
        if tail_hint > 0 && !endpoint.learned.refuses_suffixes() {
            match self.suffix(endpoint, &url, blob, tail_hint).await? {
                Suffix::Tail(size, tail) => {
                    check_size("registry::open", blob, size)?;
                    let source = self.source(endpoint, url, blob.digest, size);
                    return Ok(OpenedBlob { source: Arc::new(source), tail });
                }
                Suffix::Refused(size) => told = size,
            }
        }
        // The manifest's word saves a request only if the read of the tail then confirms it.
        let size = match told.or(blob.size.filter(|size| tail_hint > 0 && *size > 0)) {
            Some(size) => size,
            None => self.ask_size(endpoint, &url).await?,
        };
        check_size("registry::open", blob, size)?;
        let source = self.source(endpoint, url, blob.digest, size);
        let tail = match ByteRange::at(size.saturating_sub(tail_hint), tail_hint.min(size)) {
            Ok(range) => source.read_at(range, ReadOptions::default()).await?,
            Err(_) => Bytes::new(),
        };
        Ok(OpenedBlob { source: Arc::new(source), tail })
    }

    fn source(&self, endpoint: &Endpoint, url: Url, digest: Digest, size: u64) -> RegistrySource {
        let (repository, endpoint) = (self.clone(), endpoint.clone());
        RegistrySource { repository, endpoint, url, digest, size }
    }

    async fn get_range(&self, endpoint: &Endpoint, url: &Url, range: &str) -> Result<Response> {
        let mut headers = HeaderMap::new();
        let value = HeaderValue::from_str(range).map_err(|error| {
            Error::new(ErrorKind::Unexpected, "registry::get", "a range is printable")
                .with_source(error)
        })?;
        headers.insert(header::RANGE, value);
        // A compressed answer would have other offsets.
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        self.client.get_blob(url, &self.access(endpoint, "pull"), &headers).await
    }

    async fn suffix(
        &self,
        endpoint: &Endpoint,
        url: &Url,
        blob: BlobRef,
        wanted: u64,
    ) -> Result<Suffix> {
        let response = self.get_range(endpoint, url, &format!("bytes=-{wanted}")).await?;
        let (size, len) = match response.status().as_u16() {
            206 => {
                let answer = content_range(response.headers());
                let known = answer.and_then(|answer| {
                    let size = answer.total.or(blob.size)?;
                    let len = answer.last - answer.first + 1;
                    (answer.last + 1 == size && len == wanted.min(size)).then_some((size, len))
                });
                let Some(known) = known else {
                    endpoint.learned.learn_suffixes_are_refused();
                    return Ok(Suffix::Refused(None));
                };
                known
            }
            200 => match content_length(response.headers()) {
                // The whole blob is no more than was asked for: nothing is wrong with suffixes.
                Some(size) if size <= wanted => (size, size),
                size => {
                    endpoint.learned.learn_suffixes_are_refused();
                    return Ok(Suffix::Refused(size));
                }
            },
            416 if unsatisfied_size(response.headers()) == Some(0) => (0, 0),
            // The body is dropped unread: docker-registry announces one that never comes.
            400 | 416 | 501 => {
                endpoint.learned.learn_suffixes_are_refused();
                return Ok(Suffix::Refused(unsatisfied_size(response.headers())));
            }
            _ => return Err(status_error("registry::open", &response)),
        };
        plain_encoding(&response)?;
        let Ok(range) = ByteRange::at(size - len, len) else {
            return Ok(Suffix::Tail(size, Bytes::new()));
        };
        check_size("registry::open", blob, size)?;
        let mut pieces = body(response, 0, range);
        let mut tail = BytesMut::new();
        while let Some(piece) = pieces.next().await.transpose()? {
            tail.extend_from_slice(&piece);
        }
        Ok(Suffix::Tail(size, tail.freeze()))
    }

    /// The blob's size, by a range of one byte.
    async fn ask_size(&self, endpoint: &Endpoint, url: &Url) -> Result<u64> {
        let response = self.get_range(endpoint, url, "bytes=0-0").await?;
        let size = match response.status().as_u16() {
            206 => content_range(response.headers()).and_then(|answer| answer.total),
            200 => content_length(response.headers()),
            416 => unsatisfied_size(response.headers()).filter(|size| *size == 0),
            _ => return Err(status_error("registry::open", &response)),
        };
        size.ok_or_else(|| {
            Error::new(
                ErrorKind::Unsupported,
                "registry::open",
                "the server must say how long the blob is; pull this image as a whole",
            )
            .with_context("url", public_url(url))
            .with_context("status", response.status().as_u16())
        })
    }
}

fn plain_encoding(response: &Response) -> Result<()> {
    match response.headers().get(header::CONTENT_ENCODING) {
        Some(encoding) if encoding != "identity" => Err(Error::new(
            ErrorKind::Malformed,
            "registry::read",
            "a blob must come as it is, without an encoding nobody asked for",
        )
        .with_context("url", public_url(response.url()))),
        _ => Ok(()),
    }
}

fn body(response: Response, skip: u64, range: ByteRange) -> BoxStream<'static, Result<Bytes>> {
    let url = public_url(response.url());
    let shown = url.clone();
    let failed =
        move |error: reqwest::Error| transport(error.into(), &shown).with_context("range", range);
    let pieces = response.bytes_stream().map_err(failed).boxed();
    exact(pieces, skip, range.len(), move |got| {
        Error::new(ErrorKind::Unavailable, "registry::read", "the body ended early")
            .with_context("url", &url)
            .with_context("range", range)
            .with_context("got", got)
    })
}
