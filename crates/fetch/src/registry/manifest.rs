//! Manifests and indexes.
use bolide_core::{Digest, Error, ErrorKind, Result};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, header};
use reqwest::Request;
use serde::Deserialize;

use super::{Endpoint, Repository, status_error};
use crate::http::{public_url, read_bounded};

const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.docker.distribution.manifest.v2+json";
const MAX_MANIFEST: usize = 8 * 1024 * 1024;

/// A manifest or an index, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestDoc {
    /// The document; its digest is [`digest`](Self::digest).
    pub bytes: Bytes,
    /// What it is, for example `application/vnd.oci.image.index.v1+json`.
    pub media_type: String,
    /// Digest of the bytes.
    pub digest: Digest,
}

#[derive(Deserialize)]
struct Typed {
    #[serde(rename = "mediaType")]
    media_type: Option<String>,
}

impl Repository {
    /// Reads the manifest or index of a tag or digest, at most 8 MiB.
    ///
    /// `Corrupt` if the bytes do not match the digest asked for, or the one the server claims.
    pub async fn manifest(&self, reference: &str) -> Result<ManifestDoc> {
        let mut refused = None;
        for endpoint in self.endpoints.iter() {
            match self.manifest_at(endpoint, reference).await {
                Ok(document) => return Ok(document),
                Err(error) => refused = Some(error),
            }
        }
        Err(refused.unwrap_or_else(|| {
            Error::new(ErrorKind::Unexpected, "registry::manifest", "a repository has a registry")
        }))
    }

    async fn manifest_at(&self, endpoint: &Endpoint, reference: &str) -> Result<ManifestDoc> {
        let wanted = wanted_digest(reference)?;
        let url = self.url(endpoint, &format!("manifests/{reference}"))?;
        let headers = HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static(ACCEPT))]);
        let access = self.access(endpoint, "pull");
        let (response, _) = self.client.follow(&url, &access, &headers).await?;
        if response.status() != http::StatusCode::OK {
            return Err(status_error("registry::manifest", &response));
        }
        let text = |name: &str| {
            response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
        };
        let claimed = text("docker-content-digest").and_then(|digest| digest.parse().ok());
        let content_type = text("content-type");
        let bytes = read_bounded(response, MAX_MANIFEST).await?;
        let digest = Digest::of(&bytes);
        if let Some(expected) = wanted.or(claimed).filter(|expected| *expected != digest) {
            return Err(Error::new(
                ErrorKind::Corrupt,
                "registry::manifest",
                "the manifest does not match its digest",
            )
            .with_context("url", public_url(&url))
            .with_context("expected", expected)
            .with_context("found", digest));
        }
        let media_type = media_type(&bytes, content_type.as_deref()).ok_or_else(|| {
            Error::new(ErrorKind::Malformed, "registry::manifest", "a manifest is a JSON object")
                .with_context("url", public_url(&url))
        })?;
        Ok(ManifestDoc { bytes, media_type, digest })
    }

    /// Stores a manifest or index under a tag or digest, and returns its digest.
    pub async fn put_manifest(
        &self,
        reference: &str,
        media_type: &str,
        bytes: Bytes,
    ) -> Result<Digest> {
        let digest = Digest::of(&bytes);
        if wanted_digest(reference)?.is_some_and(|wanted| wanted != digest) {
            return Err(Error::new(
                ErrorKind::FailedPrecondition,
                "registry::put_manifest",
                "a manifest is stored under its own digest",
            )
            .with_context("reference", reference)
            .with_context("digest", digest));
        }
        let endpoint = self.origin()?;
        let url = self.url(endpoint, &format!("manifests/{reference}"))?;
        let media_type = HeaderValue::from_str(media_type).map_err(|_| {
            Error::new(ErrorKind::Malformed, "registry::put_manifest", "a media type is ASCII")
        })?;
        let mut request = Request::new(Method::PUT, url);
        request.headers_mut().insert(header::CONTENT_TYPE, media_type);
        *request.body_mut() = Some(bytes.into());
        let response = self.client.send(request, &self.access(endpoint, "pull,push")).await?;
        if response.status().is_success() {
            Ok(digest)
        } else {
            Err(status_error("registry::put_manifest", &response))
        }
    }
}

/// The digest in a reference; `Malformed` for what could lead to another path.
fn wanted_digest(reference: &str) -> Result<Option<Digest>> {
    if reference.contains(':') {
        return reference.parse().map(Some);
    }
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    if reference.is_empty() || reference.starts_with('.') || !reference.bytes().all(allowed) {
        let shown: String = reference.chars().take(100).collect();
        let rule = "a manifest is named by a tag or a digest";
        return Err(Error::new(ErrorKind::Malformed, "registry::manifest", rule)
            .with_context("reference", format!("{shown:?}")));
    }
    Ok(None)
}

/// The document's own word first: it is covered by the digest, the header is not.
fn media_type(bytes: &[u8], content_type: Option<&str>) -> Option<String> {
    let typed: Typed = serde_json::from_slice(bytes).ok()?;
    let header = content_type.and_then(|value| value.split(';').next()).map(str::trim);
    typed.media_type.or_else(|| header.filter(|name| !name.is_empty()).map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_cannot_leave_the_repository() {
        assert_eq!(wanted_digest("v1.2_3-x").expect("a tag"), None);
        for text in ["", "..", "a/b", "a?b", "sha256:zz", "a b"] {
            assert!(wanted_digest(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_document_names_its_type() {
        assert_eq!(media_type(br#"{"mediaType":"a"}"#, Some("b")).as_deref(), Some("a"));
        assert_eq!(media_type(b"{}", Some("b; charset=utf-8")).as_deref(), Some("b"));
        assert_eq!(media_type(b"<html>", Some("b")), None);
    }
}
