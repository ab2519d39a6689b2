//! Uploads.
use bolide_core::{Digest, Result};
use bytes::Bytes;
use futures::stream::BoxStream;
use http::{HeaderValue, Method, StatusCode, header};
use reqwest::{Request, Response};
use url::Url;

use crate::auth::token::Access;

use super::{Repository, request::location, status_error};

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
        let session = self.begin(size.max(1)).await?;
        let sent = self.put(&session, digest, size, body).await;
        sent.map_err(|error| error.with_context("blob", digest))
    }

    /// Takes over a blob of another repository of the same registry without moving bytes; `false`
    /// if the registry would rather have it uploaded.
    pub async fn mount_blob(&self, digest: Digest, from: &str) -> Result<bool> {
        let query = [("mount", digest.to_string()), ("from", from.to_owned())];
        let mut access = self.access(self.origin()?, "pull,push");
        // A token for this repository alone does not let the registry look into the other.
        access.scopes.push(format!("repository:{from}:pull"));
        let (response, url) = self.start_upload(&query, &access).await?;
        match response.status() {
            StatusCode::CREATED => Ok(true),
            StatusCode::ACCEPTED => {
                self.cancel_upload(&url, &response).await;
                Ok(false)
            }
            _ => Err(status_error("registry::mount_blob", &response)),
        }
    }

    pub(super) async fn start_upload(
        &self,
        query: &[(&str, String)],
        access: &Access,
    ) -> Result<(Response, Url)> {
        let endpoint = self.origin()?;
        let mut url = self.url(endpoint, "blobs/uploads/")?;
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let mut request = Request::new(Method::POST, url.clone());
        request.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(0));
        let response = self.client.send(request, access).await?;
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
