//! A small, read-only registry over an OCI layout, for demonstrations and tests.
//!
//! Every repository name shows the same layout. It speaks the pull half of the distribution
//! specification, with single ranges, and counts what it sends.
use std::{
    io::SeekFrom,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use axum::{
    Router,
    body::Body,
    extract::{Path, State},
    response::Response,
    routing::get,
    serve::ListenerExt as _,
};
use bolide_core::{ByteRange, Digest, Error, ErrorKind, Result};
use futures::StreamExt as _;
use http::{HeaderMap, Method, StatusCode, header};
use tokio::{
    io::{AsyncReadExt as _, AsyncSeekExt as _},
    net::TcpListener,
    sync::oneshot,
    task::JoinHandle,
};
use tokio_util::io::ReaderStream;

use crate::{Layout, blob_reader::blocking, manifest::media_type};

const READ_SIZE: usize = 64 * 1024;

/// What a server has sent so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServedCounters {
    /// Requests answered, of any kind.
    pub requests: u64,
    /// Requests for blobs that were answered with a body.
    pub blob_requests: u64,
    /// Bytes of blobs handed to the network.
    pub blob_bytes: u64,
}

#[derive(Debug)]
struct Shared {
    layout: Layout,
    requests: AtomicU64,
    blob_requests: AtomicU64,
    blob_bytes: AtomicU64,
}

/// A running server; dropping it stops the server.
#[derive(Debug)]
pub struct ServerHandle {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<std::io::Result<()>>,
}

impl ServerHandle {
    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it has sent so far.
    #[must_use]
    pub fn counters(&self) -> ServedCounters {
        ServedCounters {
            requests: self.shared.requests.load(Ordering::Relaxed),
            blob_requests: self.shared.blob_requests.load(Ordering::Relaxed),
            blob_bytes: self.shared.blob_bytes.load(Ordering::Relaxed),
        }
    }

    /// Stops listening and waits for the answers under way.
    pub async fn stop(mut self) -> Result<()> {
        // A closed channel says stop as well, so a failed send is no failure.
        drop(self.stop.take());
        let ended = (&mut self.task).await.map_err(std::io::Error::other);
        ended.flatten().map_err(|error| Error::io("server::stop", error))
    }
}

impl Drop for ServerHandle {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Serves the layout to whoever connects to `listener`.
///
/// `Io` when the listener has no address. Must be called within a tokio runtime.
pub fn serve_layout(layout: Layout, listener: TcpListener) -> Result<ServerHandle> {
    let address = listener.local_addr().map_err(|error| Error::io("server::start", error))?;
    let shared = Arc::new(Shared {
        layout,
        requests: AtomicU64::new(0),
        blob_requests: AtomicU64::new(0),
        blob_bytes: AtomicU64::new(0),
    });
    let router = Router::new()
        .route("/v2/", get(|| async { StatusCode::OK }))
        .route("/v2/{*path}", get(answer))
        .with_state(Arc::clone(&shared));
    let (stop, stopped) = oneshot::channel::<()>();
    // Headers and body are written apart: without this, a reader's delayed acknowledgement of the
    // first would hold the second back.
    let listener = listener.tap_io(|connection| {
        // A connection that refuses is gone, as reading will tell.
        let _ = connection.set_nodelay(true);
    });
    let serving = axum::serve(listener, router).with_graceful_shutdown(async {
        // Both a message and a closed channel mean stop.
        let _ = stopped.await;
    });
    let task = tokio::spawn(serving.into_future());
    Ok(ServerHandle { address, shared, stop: Some(stop), task })
}

async fn answer(
    State(shared): State<Arc<Shared>>,
    Path(path): Path<String>,
    method: Method,
    headers: HeaderMap,
) -> Response {
    shared.requests.fetch_add(1, Ordering::Relaxed);
    let head = method == Method::HEAD;
    let answered = if let Some((_, reference)) = path.rsplit_once("/manifests/") {
        send_manifest(&shared, reference, head).await
    } else if let Some((_, digest)) = path.rsplit_once("/blobs/") {
        send_blob(&shared, digest, &headers, head).await
    } else {
        Err(refuse(ErrorKind::NotFound, "only manifests and blobs are served"))
    };
    answered.unwrap_or_else(|error| {
        tracing::debug!(path, error = ?error, "request refused");
        let status = match error.kind() {
            ErrorKind::NotFound => StatusCode::NOT_FOUND,
            ErrorKind::Malformed => StatusCode::BAD_REQUEST,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        plain(status)
    })
}

async fn send_manifest(shared: &Arc<Shared>, reference: &str, head: bool) -> Result<Response> {
    let (reference, layout) = (reference.to_owned(), shared.layout.clone());
    let (name, bytes) = blocking(move || {
        if let Ok(digest) = reference.parse::<Digest>() {
            let bytes = layout.document_by_digest(digest)?;
            return Ok(((media_type_of(&bytes), digest), bytes));
        }
        let name = layout.resolve(Some(&reference))?;
        let bytes = layout.document(&name)?;
        Ok(((name.media_type, name.digest), bytes))
    })
    .await?;
    let response = Response::builder()
        .header(header::CONTENT_TYPE, name.0)
        .header(header::CONTENT_LENGTH, bytes.len())
        .header("Docker-Content-Digest", name.1.to_string());
    finish(response.body(if head { Body::empty() } else { Body::from(bytes) }))
}

/// The media type a document gives itself, or that its fields betray.
fn media_type_of(document: &[u8]) -> String {
    let fields: serde_json::Value = serde_json::from_slice(document).unwrap_or_default();
    let fallback = match fields.get("manifests") {
        Some(_) => media_type::OCI_INDEX,
        None => media_type::OCI_MANIFEST,
    };
    fields.get("mediaType").and_then(|value| value.as_str()).unwrap_or(fallback).to_owned()
}

async fn send_blob(
    shared: &Arc<Shared>,
    digest: &str,
    headers: &HeaderMap,
    head: bool,
) -> Result<Response> {
    let digest: Digest = digest.parse()?;
    let failed = |error| Error::io("server::send_blob", error).with_context("blob", digest);
    let path = shared.layout.blob_path(digest);
    let mut file = tokio::fs::File::open(path).await.map_err(failed)?;
    let size = file.metadata().await.map_err(failed)?.len();
    let builder = Response::builder()
        .header(header::CONTENT_TYPE, "application/octet-stream")
        .header(header::ACCEPT_RANGES, "bytes")
        .header("Docker-Content-Digest", digest.to_string());
    let asked = headers.get(header::RANGE).and_then(|value| value.to_str().ok());
    let (builder, start, len) = match asked.map_or(Asked::Whole, |text| parse_range(text, size)) {
        Asked::Whole => (builder, 0, size),
        Asked::Part(part) => {
            let content = format!("bytes {}-{}/{size}", part.start(), part.end() - 1);
            let partial = builder.status(StatusCode::PARTIAL_CONTENT);
            (partial.header(header::CONTENT_RANGE, content), part.start(), part.len())
        }
        Asked::Outside => {
            let content = builder.header(header::CONTENT_RANGE, format!("bytes */{size}"));
            return finish(content.status(StatusCode::RANGE_NOT_SATISFIABLE).body(Body::empty()));
        }
    };
    let builder = builder.header(header::CONTENT_LENGTH, len);
    if head {
        return finish(builder.body(Body::empty()));
    }
    shared.blob_requests.fetch_add(1, Ordering::Relaxed);
    file.seek(SeekFrom::Start(start)).await.map_err(failed)?;
    let counted = Arc::clone(shared);
    let pieces = ReaderStream::with_capacity(file.take(len), READ_SIZE).inspect(move |piece| {
        let sent = piece.as_ref().map_or(0, bytes::Bytes::len);
        counted.blob_bytes.fetch_add(sent as u64, Ordering::Relaxed);
    });
    finish(builder.body(Body::from_stream(pieces)))
}

/// What a `Range` header asks for (RFC 9110, section 14.2).
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    /// Everything: what several ranges and unknown units get too.
    Whole,
    Part(ByteRange),
    /// Nothing that exists.
    Outside,
}

fn parse_range(text: &str, size: u64) -> Asked {
    let parse = || -> Option<(Option<u64>, Option<u64>)> {
        let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
        let number = |text: &str| match text.trim() {
            "" => Some(None),
            // `parse` alone would take a sign.
            digits if digits.bytes().all(|b| b.is_ascii_digit()) => digits.parse().ok().map(Some),
            _ => None,
        };
        Some((number(first)?, number(last)?))
    };
    let range = match parse() {
        Some((Some(first), Some(last))) if first > last => return Asked::Whole,
        Some((Some(first), last)) => {
            first..last.map_or(size, |last| last.saturating_add(1)).min(size)
        }
        Some((None, Some(suffix))) => size.saturating_sub(suffix)..size,
        Some((None, None)) | None => return Asked::Whole,
    };
    ByteRange::new(range).map_or(Asked::Outside, Asked::Part)
}

fn plain(status: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

fn finish(response: http::Result<Response>) -> Result<Response> {
    response.map_err(|error| {
        Error::new(ErrorKind::Unexpected, "server::respond", "a header could not be written")
            .with_source(error)
    })
}

fn refuse(kind: ErrorKind, rule: &'static str) -> Error {
    Error::new(kind, "server::answer", rule)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(start: u64, end: u64) -> Asked {
        Asked::Part(ByteRange::new(start..end).expect("not empty"))
    }

    #[test]
    fn ranges_are_read_as_the_rfc_says() {
        for (text, expected) in [
            ("bytes=0-0", part(0, 1)),
            ("bytes=2-4", part(2, 5)),
            ("bytes=7-", part(7, 10)),
            ("bytes=-3", part(7, 10)),
            ("bytes=-30", part(0, 10)),
            ("bytes=5-18446744073709551615", part(5, 10)),
            ("bytes=10-", Asked::Outside),
            ("bytes=-0", Asked::Outside),
            ("bytes=4-2", Asked::Whole),
            ("bytes=0-1,4-5", Asked::Whole),
            ("bytes=-", Asked::Whole),
            ("bytes=+1-2", Asked::Whole),
            ("lines=1-2", Asked::Whole),
        ] {
            assert_eq!(parse_range(text, 10), expected, "{text}");
        }
    }
}
