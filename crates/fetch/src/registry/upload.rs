//! Uploads in pieces, which go on where a connection broke.
use std::time::Duration;

use bolide_core::{BlobSource, ByteRange, Digest, Error, ErrorKind, ReadOptions, Result};
use bytes::Bytes;
use futures::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use reqwest::Request;
use url::Url;

use super::{Repository, request::location, status_error};
use crate::{RetryPolicy, http::public_url};

/// How blobs are uploaded.
#[derive(Clone, Debug)]
pub struct UploadOptions {
    /// Bytes sent in one request, at least 1. A blob of no more goes with one request in all.
    pub chunk_size: u64,
    /// How patiently a broken upload is taken up again. Every chunk that arrives earns all tries
    /// anew.
    pub retry: RetryPolicy,
}

impl Default for UploadOptions {
    fn default() -> Self {
        Self { chunk_size: 32 << 20, retry: RetryPolicy::default() }
    }
}

/// An upload that the registry keeps for us.
#[derive(Debug)]
pub(super) struct Session {
    /// Where the next request goes.
    target: Url,
    /// Bytes the registry has.
    offset: u64,
    /// Bytes of a chunk.
    chunk: u64,
}

impl Repository {
    /// Uploads a blob chunk by chunk. After a failure the registry is asked what it has, and the
    /// rest is sent; a registry that does not know, or takes no chunks, gets all of it again.
    ///
    /// The registry checks the digest. Errors of reading `blob` come back as they are.
    pub async fn upload_blob(&self, blob: &dyn BlobSource, options: &UploadOptions) -> Result<()> {
        let mut session = None;
        let mut failed = 0;
        loop {
            let before = offset(session.as_ref());
            let Err(error) = self.go_on(blob, options, &mut session).await else { return Ok(()) };
            if offset(session.as_ref()) > before {
                failed = 0;
            }
            failed += 1;
            let wait = match error.kind() {
                // A token that ended meanwhile; asking for the state fetches another.
                ErrorKind::Unauthorized if failed == 1 && session.is_some() => Some(Duration::ZERO),
                _ => options.retry.delay(failed, &error, 0),
            };
            let Some(wait) = wait else { return Err(error.with_context("blob", blob.digest())) };
            tracing::debug!(%error, ?wait, tries = failed, "taking up an upload again");
            tokio::time::sleep(wait).await;
            session = match session {
                Some(session) => self.recover(session).await,
                None => None,
            };
        }
    }

    /// Sends what is left.
    async fn go_on(
        &self,
        blob: &dyn BlobSource,
        options: &UploadOptions,
        session: &mut Option<Session>,
    ) -> Result<()> {
        let endpoint = self.origin()?;
        if session.is_none() {
            *session = Some(self.begin(options.chunk_size.max(1)).await?);
        }
        let Some(open) = session else { return Ok(()) };
        let one_request =
            open.offset == 0 && (blob.size() <= open.chunk || endpoint.learned.refuses_chunks());
        if one_request {
            // Nothing of it is kept when it breaks.
            let Some(open) = session.take() else { return Ok(()) };
            let whole = body(blob, 0..blob.size());
            return self.put(&open, blob.digest(), blob.size(), whole).await;
        }
        while open.offset < blob.size() {
            let end = blob.size().min(open.offset + open.chunk);
            match self.patch(open, blob, end).await {
                Ok(()) => {}
                Err(error) if refuses_chunks(&error) => {
                    endpoint.learned.learn_chunks_are_refused();
                    *session = None;
                    return Box::pin(self.go_on(blob, options, session)).await;
                }
                Err(error) => return Err(error),
            }
        }
        self.put(open, blob.digest(), 0, stream::empty().boxed()).await
    }

    pub(super) async fn begin(&self, chunk: u64) -> Result<Session> {
        let access = self.access(self.origin()?, "pull,push");
        let (started, url) = self.start_upload(&[], &access).await?;
        if started.status() != StatusCode::ACCEPTED {
            return Err(status_error("registry::upload", &started));
        }
        let least = number(started.headers(), "oci-chunk-min-length").unwrap_or(0);
        let target = self.safe(location(&url, &started)?)?;
        Ok(Session { target, offset: 0, chunk: chunk.max(least) })
    }

    /// Sends the bytes up to `end` and learns how many arrived.
    async fn patch(&self, session: &mut Session, blob: &dyn BlobSource, end: u64) -> Result<()> {
        let (from, length) = (session.offset, end - session.offset);
        let mut request = self.request(Method::PATCH, &session.target, length)?;
        let range = HeaderValue::from_str(&format!("{from}-{}", end - 1)).map_err(|error| {
            Error::new(ErrorKind::Unexpected, "registry::upload", "a range is printable")
                .with_source(error)
        })?;
        request.headers_mut().insert(header::CONTENT_RANGE, range);
        let response = self.client.http.upload(request, body(blob, from..end)).await?;
        if response.status() != StatusCode::ACCEPTED {
            return Err(status_error("registry::upload", &response));
        }
        session.target = self.safe(location(&session.target, &response)?)?;
        // A registry that does not say took all of it.
        session.offset = match stored(response.headers()) {
            Some(arrived) if arrived > from && arrived <= end => arrived,
            None => end,
            Some(arrived) => {
                let rule = "a registry must say how much of an upload it has";
                return Err(Error::new(ErrorKind::Malformed, "registry::upload", rule)
                    .with_context("url", public_url(&session.target))
                    .with_context("sent", end)
                    .with_context("stored", arrived));
            }
        };
        Ok(())
    }

    /// Ends an upload with its last bytes.
    pub(super) async fn put(
        &self,
        session: &Session,
        digest: Digest,
        size: u64,
        body: BoxStream<'static, Result<Bytes>>,
    ) -> Result<()> {
        let mut target = session.target.clone();
        target.query_pairs_mut().append_pair("digest", &digest.to_string());
        let request = self.request(Method::PUT, &target, size)?;
        let response = self.client.http.upload(request, body).await?;
        if response.status().is_success() {
            return Ok(());
        }
        Err(status_error("registry::upload", &response))
    }

    /// Asks what the registry has of an upload; `None` when it has, or says, nothing.
    async fn recover(&self, session: Session) -> Option<Session> {
        let endpoint = self.origin().ok()?;
        let request = self.request(Method::GET, &session.target, 0).ok()?;
        let same = self.is_ours(&session.target).ok()?;
        let response = if same {
            self.client.send(request, &self.access(endpoint, "pull,push")).await
        } else {
            self.client.http.send(request).await
        };
        let response = response.ok().filter(|response| response.status().is_success())?;
        let offset = stored(response.headers())?;
        let target = match location(&session.target, &response) {
            Ok(target) => self.safe(target).ok()?,
            Err(_) => session.target,
        };
        Some(Session { target, offset, chunk: session.chunk })
    }

    /// A request about an upload, in our name if it goes to the registry itself.
    fn request(&self, method: Method, target: &Url, length: u64) -> Result<Request> {
        let endpoint = self.origin()?;
        let has_body = method != Method::GET;
        let mut request = Request::new(method, target.clone());
        let headers = request.headers_mut();
        if has_body {
            headers.insert(header::CONTENT_LENGTH, length.into());
            let octets = HeaderValue::from_static("application/octet-stream");
            headers.insert(header::CONTENT_TYPE, octets);
        }
        if self.is_ours(target)?
            && let Some(grant) = self.client.auth.cached(&self.access(endpoint, "pull,push"))
        {
            headers.insert(header::AUTHORIZATION, grant.header());
        }
        Ok(request)
    }

    fn is_ours(&self, target: &Url) -> Result<bool> {
        Ok(self.url(self.origin()?, "blobs/uploads/")?.origin() == target.origin())
    }

    /// Bytes must not go without TLS where the registry has it.
    fn safe(&self, target: Url) -> Result<Url> {
        let plain_http = self.origin()?.plain_http;
        if target.scheme() == "https" || (target.scheme() == "http" && plain_http) {
            return Ok(target);
        }
        let rule = "a registry with TLS must not send uploads to a place without it";
        Err(Error::new(ErrorKind::Unsupported, "registry::upload", rule)
            .with_context("target", public_url(&target)))
    }
}

fn offset(session: Option<&Session>) -> u64 {
    session.map_or(0, |session| session.offset)
}

fn body(blob: &dyn BlobSource, range: std::ops::Range<u64>) -> BoxStream<'static, Result<Bytes>> {
    match ByteRange::new(range) {
        Ok(range) => blob.stream(range, ReadOptions::default()),
        Err(_) => stream::empty().boxed(),
    }
}

/// Whether an answer to a chunk says that only whole blobs are taken.
fn refuses_chunks(error: &Error) -> bool {
    matches!(error.context("status"), Some("400" | "404" | "405" | "416" | "501"))
}

/// Bytes that are stored, by `Range: 0-LAST`. That of an empty upload is `0-0`, as if it had a byte.
fn stored(headers: &HeaderMap) -> Option<u64> {
    let value = headers.get(header::RANGE)?.to_str().ok()?;
    let value = value.strip_prefix("bytes=").unwrap_or(value);
    let last: u64 = value.strip_prefix("0-")?.parse().ok()?;
    if last == 0 { Some(0) } else { last.checked_add(1) }
}

fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_is_read_from_the_range() {
        for (text, expected) in [
            ("0-0", Some(0)),
            ("0-99", Some(100)),
            ("bytes=0-99", Some(100)),
            ("5-9", None),
            ("0-18446744073709551615", None),
            ("x", None),
        ] {
            let value = HeaderValue::from_static(text);
            let headers = HeaderMap::from_iter([(header::RANGE, value)]);
            assert_eq!(stored(&headers), expected, "{text}");
        }
    }
}
