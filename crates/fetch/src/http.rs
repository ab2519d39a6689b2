//! The HTTP client under registries and token servers.
use std::{fmt, time::Duration};

use bolide_core::{Error, ErrorKind, Result};
use bytes::{Bytes, BytesMut};
use futures::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use reqwest::{Body, Client, ClientBuilder, Request, Response, redirect::Policy};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tower::{BoxError, ServiceBuilder, ServiceExt as _, util::BoxCloneSyncService};
use url::Url;

/// A proxy for every request. Environment variables are never read.
#[derive(Clone, Debug)]
pub struct ProxyConfig {
    /// URL of the proxy.
    pub url: Url,
    /// Hosts, domains and networks reached directly, separated by commas.
    pub bypass: String,
}

/// Makes ring the process's TLS provider, unless one was installed before.
///
/// Clients are built without a provider of their own, so that no second TLS stack is linked, and
/// building one then panics while none is installed. [`RegistryClient`](crate::RegistryClient)
/// calls this; call it before building an object store that speaks HTTP.
pub fn install_tls_provider() {
    // An error says that a provider is installed already, which is what is wanted.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// What a client is built from.
#[derive(Clone, Debug)]
pub(crate) struct ClientOptions {
    pub(crate) connect_timeout: Duration,
    pub(crate) response_timeout: Duration,
    pub(crate) idle_timeout: Duration,
    pub(crate) max_connections: usize,
    pub(crate) extra_ca_pem: Vec<Bytes>,
    pub(crate) proxy: Option<ProxyConfig>,
}

/// Longest wait for the answer to an upload once all of it was sent: registries over object stores
/// read a large blob again before they take it.
const STORE_WAIT: Duration = Duration::from_mins(5);

/// A client that follows no redirect, keeps no cookie and bounds how long it waits.
#[derive(Clone)]
pub(crate) struct HttpClient {
    /// Bounds requests in flight and the time to the response's headers.
    service: BoxCloneSyncService<Request, Response, BoxError>,
    /// For uploads, whose answer comes when the whole body was sent: it has no limit of its own.
    uploads: Client,
    idle_timeout: Duration,
}

impl fmt::Debug for HttpClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpClient").finish_non_exhaustive()
    }
}

impl HttpClient {
    /// Builds a client; `Config` if a certificate or the proxy is not usable.
    pub(crate) fn new(options: &ClientOptions) -> Result<Self> {
        let service = ServiceBuilder::new()
            .concurrency_limit(options.max_connections.max(1))
            .timeout(options.response_timeout)
            .service(client(options)?);
        let service = BoxCloneSyncService::new(service);
        // A read timeout would run from the request to the answer, the upload included.
        let uploads = finished(builder(options)?)?;
        Ok(Self { service, uploads, idle_timeout: options.idle_timeout })
    }

    /// Sends a request and waits for the headers of the response.
    pub(crate) async fn send(&self, request: Request) -> Result<Response> {
        let url = public_url(request.url());
        let sent = self.service.clone().oneshot(request).await;
        sent.map_err(|error| transport(error, &url))
    }

    /// Sends a request whose body takes as long as it takes, as long as it moves.
    pub(crate) async fn upload(
        &self,
        mut request: Request,
        body: BoxStream<'static, Result<Bytes>>,
    ) -> Result<Response> {
        let url = public_url(request.url());
        let (moved, mut movement) = watch::channel(());
        // Both are dropped when the body ends, which tells the other side so.
        let body = stream::unfold((body, moved), |(mut body, moved)| async {
            let piece = body.next().await?;
            moved.send_replace(());
            Some((piece, (body, moved)))
        });
        *request.body_mut() = Some(Body::wrap_stream(body));
        let idle = self.idle_timeout;
        let stall = async {
            loop {
                match timeout(idle, movement.changed()).await {
                    Ok(Ok(())) => {}
                    Ok(Err(_)) => break sleep(STORE_WAIT).await,
                    Err(_) => break,
                }
            }
        };
        tokio::select! {
            answer = self.uploads.execute(request) => {
                answer.map_err(|error| transport(error.into(), &url))
            }
            () = stall => Err(Error::new(
                ErrorKind::Unavailable,
                "http::upload",
                "the server stopped taking the upload, or did not answer it in time",
            )
            .with_context("url", url)),
        }
    }
}

/// The client beneath reads, whose requests are not limited in number nor in the time to headers.
pub(crate) fn client(options: &ClientOptions) -> Result<Client> {
    finished(builder(options)?.read_timeout(options.idle_timeout))
}

fn finished(builder: ClientBuilder) -> Result<Client> {
    builder.build().map_err(|error| config("the HTTP client could not be set up", error))
}

/// What all requests have in common.
fn builder(options: &ClientOptions) -> Result<ClientBuilder> {
    install_tls_provider();
    let mut builder = Client::builder()
        .user_agent(concat!("bolide/", env!("CARGO_PKG_VERSION")))
        .redirect(Policy::none())
        .no_proxy()
        .connect_timeout(options.connect_timeout)
        .pool_max_idle_per_host(options.max_connections);
    for pem in &options.extra_ca_pem {
        let certificates = reqwest::Certificate::from_pem_bundle(pem)
            .map_err(|error| config("a CA bundle must be PEM certificates", error))?;
        builder = builder.tls_certs_merge(certificates);
    }
    if let Some(proxy) = &options.proxy {
        let bypass = reqwest::NoProxy::from_string(&proxy.bypass);
        let proxy = reqwest::Proxy::all(proxy.url.clone())
            .map_err(|error| config("the proxy must be an http, https or socks5 URL", error))?;
        builder = builder.proxy(proxy.no_proxy(bypass));
    }
    Ok(builder)
}

fn config(rule: &'static str, error: reqwest::Error) -> Error {
    Error::new(ErrorKind::Config, "http::new", rule).with_source(error)
}

/// Reads a body of at most `limit` bytes; `Exhausted` beyond.
pub(crate) async fn read_bounded(mut response: Response, limit: usize) -> Result<Bytes> {
    let url = public_url(response.url());
    let mut whole = BytesMut::new();
    loop {
        let piece = response.chunk().await.map_err(|error| transport(error.into(), &url))?;
        let Some(piece) = piece else { return Ok(whole.freeze()) };
        if whole.len() + piece.len() > limit {
            return Err(Error::new(ErrorKind::Exhausted, "http::read", "the answer is too long")
                .with_context("url", url)
                .with_context("limit", limit));
        }
        whole.extend_from_slice(&piece);
    }
}

/// A URL fit for logs: queries of presigned URLs and user names are credentials.
pub(crate) fn public_url(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    // These fail only for URLs that cannot hold a user name, which then hold none.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.into()
}

/// Explains a request that got no answer, or a body that broke.
pub(crate) fn transport(error: BoxError, url: &str) -> Error {
    if let Some(own) = find_own(error.as_ref()) {
        return own;
    }
    let failed = |rule| Error::new(ErrorKind::Unavailable, "http::send", rule);
    let explained = match error.downcast::<reqwest::Error>() {
        Ok(error) if error.is_connect() => {
            failed("the server could not be reached").with_source(error.without_url())
        }
        Ok(error) if error.is_timeout() => {
            failed("the server stopped sending").with_source(error.without_url())
        }
        Ok(error) => failed("the connection broke").with_source(error.without_url()),
        Err(error) if error.is::<tower::timeout::error::Elapsed>() => {
            failed("the server did not answer in time")
        }
        Err(error) => failed("the request could not be sent").with_context("cause", error),
    };
    explained.with_context("url", url)
}

/// An uploaded body's own failure travels inside the client's error.
fn find_own(error: &(dyn std::error::Error + 'static)) -> Option<Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(own) = error.downcast_ref::<Error>() {
            return Some(own.clone());
        }
        next = error.source();
    }
    None
}
