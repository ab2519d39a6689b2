//! Uploads.
use bolide_core::{Digest, Error, ErrorKind, Result};
use bytes::Bytes;
use futures::stream::BoxStream;
use http::{HeaderValue, Method, StatusCode, header};
use reqwest::{Request, Response};
use url::Url;

use super::{Repository, request::location, status_error};
use crate::http::public_url;

impl Repository {
    /// Whether the registry has a blob.
    pub async fn blob_exists(&self, digest: Digest) -> Result<bool> {
        let endpoint = self.origin()?;
        let url = self.url(endpoint, &format!("blobs/{digest}"))?;
        let access = self.access(endpoint, "pull,push");
        let response = self.client.send(Request::new(Method::HEAD, url), &access).await?;
        match response.status().as_u16() {
            // A redirect leads to the blob's bytes, so the registry knows them.
            200 | 301 | 302 | 303 | 307 | 308 => Ok(true),
            404 => Ok(false),
            _ => Err(status_error("registry::blob_exists", &response)),
        }
    }

    /// Uploads a blob of `size` bytes in one request.
    ///
    /// An error of `body` comes back as it is. The registry checks the digest.
    pub async fn push_blob(
        &self,
        digest: Digest,
        size: u64,
        body: BoxStream<'static, Result<Bytes>>,
    ) -> Result<()> {
        let (started, url) = self.start_upload(&[]).await?;
        if started.status() != StatusCode::ACCEPTED {
            return Err(status_error("registry::push_blob", &started));
        }
        let mut target = location(&url, &started)?;
        drop(started);
        target.query_pairs_mut().append_pair("digest", &digest.to_string());
        let endpoint = self.origin()?;
        if target.scheme() != "https" && !(target.scheme() == "http" && endpoint.plain_http) {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "registry::push_blob",
                "a registry with TLS must not send uploads to a place without it",
            )
            .with_context("target", public_url(&target)));
        }
        let mut request = Request::new(Method::PUT, target.clone());
        let headers = request.headers_mut();
        headers.insert(header::CONTENT_LENGTH, size.into());
        let octets = HeaderValue::from_static("application/octet-stream");
        headers.insert(header::CONTENT_TYPE, octets);
        if target.origin() == url.origin()
            && let Some(grant) = self.client.auth.cached(&self.access(endpoint, "pull,push"))
        {
            headers.insert(header::AUTHORIZATION, grant.header());
        }
        let response = self.client.http.upload(request, body).await?;
        if response.status().is_success() {
            Ok(())
        } else {
            Err(status_error("registry::push_blob", &response).with_context("blob", digest))
        }
    }

    /// Takes over a blob of another repository of the same registry without moving bytes; `false`
    /// if the registry would rather have it uploaded.
    pub async fn mount_blob(&self, digest: Digest, from: &str) -> Result<bool> {
        let query = [("mount", digest.to_string()), ("from", from.to_owned())];
        let (response, url) = self.start_upload(&query).await?;
        match response.status() {
            StatusCode::CREATED => Ok(true),
            StatusCode::ACCEPTED => {
                self.cancel_upload(&url, &response).await;
                Ok(false)
            }
            _ => Err(status_error("registry::mount_blob", &response)),
        }
    }

    async fn start_upload(&self, query: &[(&str, String)]) -> Result<(Response, Url)> {
        let endpoint = self.origin()?;
        let mut url = self.url(endpoint, "blobs/uploads/")?;
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let access = self.access(endpoint, "pull,push");
        let mut request = Request::new(Method::POST, url.clone());
        request.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(0));
        let response = self.client.send(request, &access).await?;
        Ok((response, url))
    }

    /// Frees an upload nobody wants. Registries expire it anyway, so failures are not reported.
    async fn cancel_upload(&self, url: &Url, response: &Response) {
        let (Ok(target), Ok(endpoint)) = (location(url, response), self.origin()) else { return };
        if target.origin() == url.origin() {
            let access = self.access(endpoint, "pull,push");
            let _ = self.client.send(Request::new(Method::DELETE, target), &access).await;
        }
    }
}
