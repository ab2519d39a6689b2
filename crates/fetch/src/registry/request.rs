//! Requests that log in when refused, and follow redirects without leaking who we are.
use std::time::Duration;

use bolide_core::{Error, ErrorKind, Result};
use http::{HeaderMap, Method, StatusCode, header};
use reqwest::{Request, Response};
use url::Url;

use super::{MAX_REMEMBERED, RegistryClient};
use crate::{
    auth::token::{Access, Grant},
    http::public_url,
};

const MAX_HOPS: usize = 5;
/// Longest wait a server can ask for, in seconds.
const MAX_RETRY_AFTER: u64 = 3600;

impl RegistryClient {
    /// Reads `url`, following redirects. Where it led is remembered for the next read of the same
    /// URL; when that place refuses us (a presigned URL that has expired, in one of the ways storages
    /// say so) or fails, the registry is asked once more, and again by later reads.
    pub(super) async fn get_blob(
        &self,
        url: &Url,
        access: &Access,
        headers: &HeaderMap,
    ) -> Result<Response> {
        let remembered = self.targets.lock().get(url).cloned();
        if let Some(target) = remembered {
            let response = self.get_once(url, &target, access, headers).await;
            // A range that is not there, or a plea to slow down, is an answer about the blob.
            let is_answer = |status: u16| matches!(status, 200..=299 | 416 | 429);
            if response.as_ref().is_ok_and(|response| is_answer(response.status().as_u16())) {
                return response;
            }
            self.targets.lock().remove(url);
            // Who got no answer waited long enough; the next try asks where the blob is now.
            response?;
            return Ok(self.follow(url, access, headers).await?.0);
        }
        let (response, redirected) = self.follow(url, access, headers).await?;
        if redirected && matches!(response.status().as_u16(), 401 | 403) {
            return Ok(self.follow(url, access, headers).await?.0);
        }
        Ok(response)
    }

    /// Reads `url` wherever it leads, and says whether that was elsewhere.
    pub(super) async fn follow(
        &self,
        url: &Url,
        access: &Access,
        headers: &HeaderMap,
    ) -> Result<(Response, bool)> {
        let mut at = url.clone();
        for _ in 0..=MAX_HOPS {
            let response = self.get_once(url, &at, access, headers).await?;
            let Some(next) = redirect(&at, &response)? else {
                let redirected = at != *url;
                if redirected && response.status().is_success() {
                    self.remember(url, at);
                }
                return Ok((response, redirected));
            };
            if next.scheme() != "https" && !(next.scheme() == "http" && access.plain_http) {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    "registry::follow",
                    "a registry with TLS must not redirect to a place without it",
                )
                .with_context("url", public_url(url))
                .with_context("target", public_url(&next)));
            }
            at = next;
        }
        Err(Error::new(ErrorKind::Unavailable, "registry::follow", "the redirects do not end")
            .with_context("url", public_url(url)))
    }

    fn remember(&self, url: &Url, target: Url) {
        let mut targets = self.targets.lock();
        if targets.len() >= MAX_REMEMBERED {
            targets.clear();
        }
        targets.insert(url.clone(), target);
    }

    async fn get_once(
        &self,
        origin: &Url,
        url: &Url,
        access: &Access,
        headers: &HeaderMap,
    ) -> Result<Response> {
        let mut request = Request::new(Method::GET, url.clone());
        if url.origin() == origin.origin() {
            request.headers_mut().clone_from(headers);
            return self.send(request, access).await;
        }
        // Another server: it gets the range and nothing that says who we are.
        for name in [header::RANGE, header::ACCEPT_ENCODING, header::ACCEPT] {
            if let Some(value) = headers.get(&name) {
                request.headers_mut().insert(name, value.clone());
            }
        }
        self.http.send(request).await
    }

    /// Sends a request to a registry, logging in once if it asks for that. The body must be in
    /// memory, so that it can be sent again.
    pub(super) async fn send(&self, request: Request, access: &Access) -> Result<Response> {
        let authorized = |grant: Option<&Grant>| {
            let mut copy = request.try_clone().ok_or_else(|| {
                Error::new(ErrorKind::Unexpected, "registry::send", "the body must be in memory")
            })?;
            if let Some(grant) = grant {
                copy.headers_mut().insert(header::AUTHORIZATION, grant.header());
            }
            Ok::<_, Error>(copy)
        };
        let cached = self.auth.cached(access);
        let response = self.http.send(authorized(cached.as_ref())?).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(response);
        }
        let renewed =
            self.auth.renew(&self.http, access, cached.as_ref(), response.headers()).await?;
        drop(response);
        self.http.send(authorized(Some(&renewed))?).await
    }
}

/// Where a response sends us, if it does.
fn redirect(at: &Url, response: &Response) -> Result<Option<Url>> {
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    location(at, response).map(Some)
}

/// The `Location` of a response, relative or absolute.
pub(super) fn location(at: &Url, response: &Response) -> Result<Url> {
    let value = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
    let url = value.and_then(|value| at.join(value).ok());
    url.filter(Url::has_host).ok_or_else(|| {
        Error::new(ErrorKind::Malformed, "registry::location", "the answer must name a URL")
            .with_context("url", public_url(at))
            .with_context("status", response.status().as_u16())
    })
}

/// Turns an unwanted status into an error. The body is never read.
pub(crate) fn status_error(operation: &'static str, response: &Response) -> Error {
    let status = response.status();
    let (kind, rule) = match status.as_u16() {
        401 | 403 => (ErrorKind::Unauthorized, "the server refused us; check the credentials"),
        404 | 410 => (ErrorKind::NotFound, "the server does not have it"),
        405 | 501 => (ErrorKind::Unsupported, "the server cannot do this"),
        408 | 500..=599 => (ErrorKind::Unavailable, "the server failed"),
        416 => (ErrorKind::OutOfRange, "the server does not have this range"),
        429 => (ErrorKind::Throttled, "the server asks us to slow down"),
        400..=499 => (ErrorKind::FailedPrecondition, "the server refused the request"),
        _ => (ErrorKind::Malformed, "the server answered out of protocol"),
    };
    let mut error = Error::new(kind, operation, rule)
        .with_context("host", response.url().host_str().unwrap_or_default())
        .with_context("url", public_url(response.url()))
        .with_context("status", status.as_u16());
    if matches!(status.as_u16(), 429 | 503)
        && let Some(wait) = retry_after(response.headers())
    {
        error = error.with_retry_after(wait);
    }
    error
}

/// The form with a number of seconds; the form with a date needs clocks that agree.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(header::RETRY_AFTER)?.to_str().ok()?;
    let seconds: u64 = value.trim().parse().ok()?;
    Some(Duration::from_secs(seconds.min(MAX_RETRY_AFTER)))
}
