//! Turns a challenge into the header that answers it, and remembers it.
use std::{collections::HashMap, sync::Arc, time::Duration};

use base64::Engine as _;
use bolide_core::{Error, ErrorKind, Result};
use http::{HeaderMap, HeaderValue, Method, header};
use parking_lot::Mutex;
use reqwest::Request;
use serde::Deserialize;
use tokio::time::Instant;
use url::Url;

use super::{
    CredentialProvider, Credentials, Secret,
    challenge::{self, Challenge},
};
use crate::http::{HttpClient, public_url, read_bounded};

const MAX_ANSWER: usize = 1024 * 1024;
/// Keys remembered; beyond, the unused ones are forgotten.
const MAX_KEYS: usize = 1024;
/// What a token without a lifetime lives (distribution's token specification).
const DEFAULT_LIFETIME: u64 = 60;

/// Which registry is asked for what.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Access {
    /// The registry as image names write it.
    pub(crate) host: String,
    /// Scopes such as `repository:library/alpine:pull`.
    pub(crate) scopes: Vec<String>,
    /// Whether tokens may be fetched without TLS: the registry itself is spoken to that way.
    pub(crate) plain_http: bool,
}

/// A header that a registry accepted, or may accept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Grant {
    header: HeaderValue,
    expires: Option<Instant>,
}

impl Grant {
    /// The `Authorization` header, marked as sensitive.
    pub(crate) fn header(&self) -> HeaderValue {
        self.header.clone()
    }

    fn new(scheme: &str, secret: &str, lifetime: Option<Duration>) -> Result<Self> {
        let mut header = HeaderValue::try_from(format!("{scheme} {secret}"))
            .map_err(|_| unauthorized("credentials must be printable ASCII"))?;
        header.set_sensitive(true);
        Ok(Self { header, expires: lifetime.map(|lifetime| Instant::now() + lifetime) })
    }

    fn is_fresh(&self) -> bool {
        self.expires.is_none_or(|expires| Instant::now() < expires)
    }
}

#[derive(Debug, Default)]
struct Slot {
    grant: Mutex<Option<Grant>>,
    /// Held during an exchange: everyone who was refused waits for the same one.
    exchange: tokio::sync::Mutex<()>,
}

/// The grants of all registries.
#[derive(Debug)]
pub(crate) struct Authenticator {
    provider: Arc<dyn CredentialProvider>,
    slots: Mutex<HashMap<Access, Arc<Slot>>>,
}

impl Authenticator {
    pub(crate) fn new(provider: Arc<dyn CredentialProvider>) -> Self {
        Self { provider, slots: Mutex::default() }
    }

    fn slot(&self, access: &Access) -> Arc<Slot> {
        let mut slots = self.slots.lock();
        if slots.len() >= MAX_KEYS && !slots.contains_key(access) {
            slots.retain(|_, slot| Arc::strong_count(slot) > 1);
        }
        Arc::clone(slots.entry(access.clone()).or_default())
    }

    /// What to send without being asked, if anything.
    pub(crate) fn cached(&self, access: &Access) -> Option<Grant> {
        self.slot(access).grant.lock().clone().filter(Grant::is_fresh)
    }

    /// Answers a refusal. `refused` is the grant that was sent and refused.
    pub(crate) async fn renew(
        &self,
        http: &HttpClient,
        access: &Access,
        refused: Option<&Grant>,
        headers: &HeaderMap,
    ) -> Result<Grant> {
        let slot = self.slot(access);
        let _exchange = slot.exchange.lock().await;
        let current = slot.grant.lock().clone().filter(Grant::is_fresh);
        if let Some(grant) = current.filter(|grant| Some(grant) != refused) {
            return Ok(grant);
        }
        let grant = self
            .answer(http, access, headers)
            .await
            .map_err(|error| error.with_context("registry", &access.host))?;
        *slot.grant.lock() = Some(grant.clone());
        Ok(grant)
    }

    async fn answer(
        &self,
        http: &HttpClient,
        access: &Access,
        headers: &HeaderMap,
    ) -> Result<Grant> {
        let credentials = self.provider.credentials(&access.host).await?;
        if let Some(Credentials::Bearer(token)) = &credentials {
            return Grant::new("Bearer", token.expose(), None);
        }
        let values = headers.get_all(header::WWW_AUTHENTICATE).iter();
        let challenges: Vec<_> =
            values.filter_map(|value| value.to_str().ok()).flat_map(challenge::parse).collect();
        let bearer = challenges.iter().find_map(|challenge| match challenge {
            Challenge::Bearer { realm, service, scope } => Some((realm, service, scope)),
            Challenge::Basic => None,
        });
        if let Some((realm, service, scope)) = bearer {
            let realm = token_server(realm, access)?;
            let scopes = union(&access.scopes, scope.as_deref());
            let request = token_request(realm, service.as_deref(), &scopes, credentials.as_ref())?;
            return exchange(http, request).await;
        }
        match (challenges.contains(&Challenge::Basic), credentials) {
            (true, Some(Credentials::Basic { username, password })) => {
                Grant::new("Basic", &basic(&username, &password), None)
            }
            (true, _) => Err(unauthorized("the registry wants a user name and password")),
            (false, _) => Err(unauthorized("the registry offers no way to log in that we know")),
        }
    }
}

fn unauthorized(rule: &'static str) -> Error {
    Error::new(ErrorKind::Unauthorized, "auth::renew", rule)
}

/// Credentials go to the token server, so it must not be reached without TLS by surprise.
fn token_server(realm: &str, access: &Access) -> Result<Url> {
    let url = Url::parse(realm)
        .map_err(|_| unauthorized("the registry's token server must be an absolute URL"))?;
    match url.scheme() {
        "https" => Ok(url),
        "http" if access.plain_http => Ok(url),
        _ => Err(unauthorized("the token server must be reached by https")
            .with_context("realm", public_url(&url))),
    }
}

fn union(wanted: &[String], challenged: Option<&str>) -> Vec<String> {
    let mut scopes = wanted.to_vec();
    for scope in challenged.unwrap_or_default().split_ascii_whitespace() {
        if !scopes.iter().any(|known| known == scope) {
            scopes.push(scope.to_owned());
        }
    }
    scopes
}

fn basic(username: &str, password: &Secret) -> String {
    base64::engine::general_purpose::STANDARD.encode(format!("{username}:{}", password.expose()))
}

fn token_request(
    mut realm: Url,
    service: Option<&str>,
    scopes: &[String],
    credentials: Option<&Credentials>,
) -> Result<Request> {
    if let Some(Credentials::Identity(token)) = credentials {
        let scope = scopes.join(" ");
        let form = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("grant_type", "refresh_token")
            .append_pair("client_id", "bolide")
            .append_pair("service", service.unwrap_or_default())
            .append_pair("scope", &scope)
            .append_pair("refresh_token", token.expose())
            .finish();
        let mut request = Request::new(Method::POST, realm);
        let urlencoded = HeaderValue::from_static("application/x-www-form-urlencoded");
        request.headers_mut().insert(header::CONTENT_TYPE, urlencoded);
        *request.body_mut() = Some(form.into());
        return Ok(request);
    }
    let mut query = realm.query_pairs_mut();
    if let Some(service) = service {
        query.append_pair("service", service);
    }
    for scope in scopes {
        query.append_pair("scope", scope);
    }
    drop(query);
    let mut request = Request::new(Method::GET, realm);
    if let Some(Credentials::Basic { username, password }) = credentials {
        let grant = Grant::new("Basic", &basic(username, password), None)?;
        request.headers_mut().insert(header::AUTHORIZATION, grant.header());
    }
    Ok(request)
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

async fn exchange(http: &HttpClient, request: Request) -> Result<Grant> {
    let url = public_url(request.url());
    let response = http.send(request).await?;
    let status = response.status();
    if !status.is_success() {
        let error = match status.as_u16() {
            400 | 401 | 403 => unauthorized("the token server refused the credentials"),
            _ => crate::registry::status_error("auth::exchange", &response),
        };
        return Err(error.with_context("url", url).with_context("status", status.as_u16()));
    }
    let body = read_bounded(response, MAX_ANSWER).await?;
    // The parser's own error could quote the token.
    let answer: TokenAnswer = serde_json::from_slice(&body).map_err(|_| {
        Error::new(ErrorKind::Malformed, "auth::exchange", "a token server answers with JSON")
            .with_context("url", &url)
    })?;
    let token = answer.token.or(answer.access_token).filter(|token| !token.is_empty());
    let token = token.ok_or_else(|| {
        Error::new(ErrorKind::Malformed, "auth::exchange", "the answer holds no token")
            .with_context("url", url)
    })?;
    // Renewed a little early, so that it does not expire on the way; a day bounds the arithmetic.
    let lifetime = answer.expires_in.unwrap_or(DEFAULT_LIFETIME).clamp(1, 24 * 3600);
    Grant::new("Bearer", &token, Some(Duration::from_secs(lifetime) * 9 / 10))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(plain_http: bool) -> Access {
        Access { host: "r.io".into(), scopes: vec!["repository:a:pull".into()], plain_http }
    }

    #[test]
    fn a_token_server_without_tls_needs_a_registry_without_tls() {
        assert!(token_server("http://a/t", &access(true)).is_ok());
        for realm in ["http://a/t", "file:///etc/passwd", "/token", ""] {
            let error = token_server(realm, &access(false)).expect_err(realm);
            assert_eq!(error.kind(), ErrorKind::Unauthorized);
        }
    }

    #[test]
    fn scopes_are_asked_for_once() {
        let scopes = union(&access(false).scopes, Some("repository:a:pull repository:b:pull"));
        assert_eq!(scopes, ["repository:a:pull", "repository:b:pull"]);
    }

    #[test]
    fn grants_do_not_print() {
        let grant = Grant::new("Bearer", "s3cret", None).expect("printable");
        assert!(!format!("{grant:?}").contains("s3cret"));
        assert!(Grant::new("Bearer", "a\nb", None).is_err());
    }

    #[test]
    fn a_refresh_token_travels_in_the_body() {
        let realm = Url::parse("https://a/t").expect("valid");
        let identity = Credentials::Identity(Secret::new("r&1"));
        let request = token_request(realm, Some("s"), &[], Some(&identity)).expect("valid");
        assert_eq!((request.method(), request.url().query()), (&Method::POST, None));
        let body = request.body().and_then(reqwest::Body::as_bytes).expect("has a body");
        assert!(body.ends_with(b"refresh_token=r%261"));
    }
}
