//! Registries of the OCI distribution protocol.
use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bolide_core::{Error, ErrorKind, Result};
use bytes::Bytes;
use parking_lot::Mutex;
use url::Url;

use crate::{
    ImageReference, ProxyConfig,
    auth::{
        CredentialProvider,
        token::{Access, Authenticator},
    },
    http::{ClientOptions, HttpClient},
};

mod manifest;
mod push;
mod range;
mod read;
mod request;
mod upload;

pub use manifest::ManifestDoc;
pub use read::RegistrySource;
pub(crate) use request::status_error;
pub use upload::UploadOptions;

/// Redirect targets and hosts remembered; beyond, all are learned again.
const MAX_REMEMBERED: usize = 1024;

/// Hosts spoken to without TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PlainHttp {
    /// Hosts as image names write them, with their port or without: `registry.local:5000`.
    pub hosts: Vec<String>,
    /// Whether `localhost`, `127.0.0.1` and `[::1]` count too, on every port.
    pub loopback: bool,
}

impl PlainHttp {
    /// TLS for every host.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// TLS for every host but this machine.
    #[must_use]
    pub fn loopback() -> Self {
        Self { hosts: Vec::new(), loopback: true }
    }

    /// Adds a host.
    #[must_use]
    pub fn with_host(mut self, host: impl Into<String>) -> Self {
        self.hosts.push(host.into());
        self
    }

    /// Whether `host[:port]` is spoken to without TLS.
    #[must_use]
    pub fn allows(&self, host: &str) -> bool {
        let name = match host.rsplit_once(':') {
            Some((name, port)) if !port.ends_with(']') => name,
            _ => host,
        };
        (self.loopback && matches!(name, "localhost" | "127.0.0.1" | "[::1]"))
            || self.hosts.iter().any(|known| known == host || known == name)
    }
}

/// How registries are reached.
#[derive(Clone, Debug)]
pub struct RegistryConfig {
    /// Hosts spoken to without TLS.
    pub plain_http: PlainHttp,
    /// Hosts asked before a registry, in order, by the registry's name in image names.
    pub mirrors: HashMap<String, Vec<String>>,
    /// Longest wait for the headers of an answer.
    pub request_timeout: Duration,
    /// Longest wait for a connection.
    pub connect_timeout: Duration,
    /// Longest wait for the next bytes of a body.
    pub idle_timeout: Duration,
    /// CA certificates trusted besides the system's, in PEM.
    pub extra_ca_pem: Vec<Bytes>,
    /// Requests that wait for an answer at one time, and idle connections kept per host.
    pub max_connections: usize,
    /// The proxy for every request, if any.
    pub proxy: Option<ProxyConfig>,
}

impl Default for RegistryConfig {
    fn default() -> Self {
        Self {
            plain_http: PlainHttp::loopback(),
            mirrors: HashMap::new(),
            request_timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(30),
            extra_ca_pem: Vec::new(),
            max_connections: 64,
            proxy: None,
        }
    }
}

/// What a host taught us about itself.
#[derive(Debug, Default)]
struct Learned {
    refuses_suffixes: AtomicBool,
    refuses_chunks: AtomicBool,
}

impl Learned {
    fn refuses_suffixes(&self) -> bool {
        self.refuses_suffixes.load(Ordering::Relaxed)
    }

    fn learn_suffixes_are_refused(&self) {
        self.refuses_suffixes.store(true, Ordering::Relaxed);
    }

    /// Whether it takes blobs in one request only.
    fn refuses_chunks(&self) -> bool {
        self.refuses_chunks.load(Ordering::Relaxed)
    }

    fn learn_chunks_are_refused(&self) {
        self.refuses_chunks.store(true, Ordering::Relaxed);
    }
}

/// Speaks to registries. Connections, tokens, redirect targets and what hosts can do are shared by
/// everything made from one client.
#[derive(Debug)]
pub struct RegistryClient {
    config: RegistryConfig,
    http: HttpClient,
    auth: Authenticator,
    hosts: Mutex<HashMap<String, Arc<Learned>>>,
    /// Where a registry sent us for a URL.
    targets: Mutex<HashMap<Url, Url>>,
}

impl RegistryClient {
    /// Builds a client; `Config` if a certificate or the proxy is not usable.
    pub fn new(
        config: RegistryConfig,
        credentials: Arc<dyn CredentialProvider>,
    ) -> Result<Arc<Self>> {
        let http = HttpClient::new(&ClientOptions {
            connect_timeout: config.connect_timeout,
            response_timeout: config.request_timeout,
            idle_timeout: config.idle_timeout,
            max_connections: config.max_connections,
            extra_ca_pem: config.extra_ca_pem.clone(),
            proxy: config.proxy.clone(),
        })?;
        Ok(Arc::new(Self {
            config,
            http,
            auth: Authenticator::new(credentials),
            hosts: Mutex::default(),
            targets: Mutex::default(),
        }))
    }

    /// The repository of an image, at its mirrors and its registry. Sends nothing.
    #[must_use]
    pub fn repository(self: &Arc<Self>, reference: &ImageReference) -> Repository {
        let mirrors = self.config.mirrors.get(reference.host()).into_iter().flatten();
        let mut endpoints: Vec<_> = mirrors
            .map(|mirror| Endpoint {
                plain_http: self.config.plain_http.allows(mirror),
                learned: self.learned(mirror),
                api_host: mirror.clone(),
                credential_host: mirror.clone(),
                namespace: Some(reference.host().to_owned()),
            })
            .collect();
        endpoints.push(Endpoint {
            plain_http: self.config.plain_http.allows(reference.api_host()),
            learned: self.learned(reference.api_host()),
            api_host: reference.api_host().to_owned(),
            credential_host: reference.host().to_owned(),
            namespace: None,
        });
        let name = reference.repository().to_owned();
        Repository { client: Arc::clone(self), name: name.into(), endpoints: endpoints.into() }
    }

    fn learned(&self, host: &str) -> Arc<Learned> {
        let mut hosts = self.hosts.lock();
        if hosts.len() >= MAX_REMEMBERED {
            hosts.clear();
        }
        Arc::clone(hosts.entry(host.to_owned()).or_default())
    }
}

/// One server that has a repository.
#[derive(Clone, Debug)]
struct Endpoint {
    /// Where requests go.
    api_host: String,
    /// Whose credentials they carry.
    credential_host: String,
    /// The registry a mirror stands in for.
    namespace: Option<String>,
    plain_http: bool,
    learned: Arc<Learned>,
}

/// One repository of a registry. Clones are cheap and share everything learned.
#[derive(Clone, Debug)]
pub struct Repository {
    client: Arc<RegistryClient>,
    name: Arc<str>,
    /// Mirrors first; never empty, the last is the registry itself.
    endpoints: Arc<[Endpoint]>,
}

impl Repository {
    fn url(&self, endpoint: &Endpoint, path: &str) -> Result<Url> {
        let scheme = if endpoint.plain_http { "http" } else { "https" };
        let text = format!("{scheme}://{}/v2/{}/{path}", endpoint.api_host, self.name);
        let mut url = Url::parse(&text).map_err(|error| {
            Error::new(ErrorKind::Config, "registry::url", "a registry's host must form a URL")
                .with_context("host", &endpoint.api_host)
                .with_source(error)
        })?;
        if let Some(namespace) = &endpoint.namespace {
            url.query_pairs_mut().append_pair("ns", namespace);
        }
        Ok(url)
    }

    fn access(&self, endpoint: &Endpoint, actions: &str) -> Access {
        Access {
            host: endpoint.credential_host.clone(),
            scopes: vec![format!("repository:{}:{actions}", self.name)],
            plain_http: endpoint.plain_http,
        }
    }

    /// The registry itself: what is pushed never goes to a mirror.
    fn origin(&self) -> Result<&Endpoint> {
        self.endpoints.last().ok_or_else(|| {
            Error::new(ErrorKind::Unexpected, "registry::origin", "a repository has a registry")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_per_host() {
        let plain = PlainHttp::loopback().with_host("r.local:5000").with_host("lan");
        for host in ["localhost:1", "127.0.0.1", "[::1]:5000", "[::1]", "r.local:5000", "lan:80"] {
            assert!(plain.allows(host), "{host}");
        }
        for host in ["r.local", "r.local:5001", "localhost.evil.io", "docker.io"] {
            assert!(!plain.allows(host), "{host}");
        }
        assert!(!PlainHttp::none().allows("localhost:5000"));
    }
}
