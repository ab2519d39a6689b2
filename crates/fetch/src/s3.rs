//! S3 and what speaks like it: how a bucket is reached, and what its refusals mean.
use std::{sync::Arc, time::Duration};

use bolide_core::{Error, ErrorKind, Result};
use bytes::Bytes;
use object_store::{
    ClientOptions, RetryConfig,
    aws::AmazonS3Builder,
    client::{HttpClient, HttpConnector},
    path::Path,
};
use url::{Position, Url};

use crate::{
    ObjectStoreOpener, PlainHttp, ProxyConfig, Secret,
    http::{self, client},
};

/// Who reads a bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum S3Credentials {
    /// Nobody in particular; requests are not signed.
    Anonymous,
    /// The owner of a key.
    Key {
        /// Public half of the key.
        access_key_id: String,
        /// Secret half of the key.
        secret_access_key: Secret,
        /// The session, for keys that expire.
        session_token: Option<Secret>,
    },
}

/// A place for blobs in a bucket.
#[derive(Clone, Debug)]
pub struct S3Options {
    /// URL of the service; `None` for Amazon's own. Buckets are named in the path.
    pub endpoint: Option<Url>,
    /// Region that requests are signed for. Services that have none mostly take `us-east-1`.
    pub region: String,
    /// Name of the bucket.
    pub bucket: String,
    /// Where in the bucket blobs lie, as `<prefix>/blobs/sha256/<hex>`; may be empty.
    pub prefix: String,
    /// Who reads.
    pub credentials: S3Credentials,
    /// Hosts that may be spoken to without TLS.
    pub plain_http: PlainHttp,
    /// Longest wait for a connection.
    pub connect_timeout: Duration,
    /// Longest wait for the headers of an answer, and for the next bytes of its body.
    pub idle_timeout: Duration,
    /// CA certificates trusted besides the system's, in PEM.
    pub extra_ca_pem: Vec<Bytes>,
    /// The proxy for every request, if any.
    pub proxy: Option<ProxyConfig>,
}

impl S3Options {
    /// A bucket of Amazon's, read by whoever has the key.
    #[must_use]
    pub fn new(
        bucket: impl Into<String>,
        region: impl Into<String>,
        credentials: S3Credentials,
    ) -> Self {
        Self {
            endpoint: None,
            region: region.into(),
            bucket: bucket.into(),
            prefix: String::new(),
            credentials,
            plain_http: PlainHttp::none(),
            connect_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(30),
            extra_ca_pem: Vec::new(),
            proxy: None,
        }
    }
}

impl ObjectStoreOpener {
    /// Opens blobs in a bucket. Neither the environment nor this machine's metadata service is
    /// asked for anything. `Config` when an option is not usable.
    pub fn s3(options: &S3Options) -> Result<Self> {
        let prefix = Path::parse(&options.prefix)
            .map_err(|error| refuse("the prefix is not usable as a key").with_source(error))?;
        let client = client(&http::ClientOptions {
            connect_timeout: options.connect_timeout,
            response_timeout: options.idle_timeout,
            idle_timeout: options.idle_timeout,
            max_connections: 64,
            extra_ca_pem: options.extra_ca_pem.clone(),
            proxy: options.proxy.clone(),
        })?;
        let mut builder = AmazonS3Builder::new()
            .with_region(&options.region)
            .with_bucket_name(&options.bucket)
            // A wrapper's work.
            .with_retry(RetryConfig { max_retries: 0, ..RetryConfig::default() })
            .with_http_connector(Connector(client));
        builder = match &options.credentials {
            S3Credentials::Anonymous => builder.with_skip_signature(true),
            S3Credentials::Key { access_key_id, secret_access_key, session_token } => {
                let builder = builder
                    .with_access_key_id(access_key_id)
                    .with_secret_access_key(secret_access_key.expose());
                match session_token {
                    Some(token) => builder.with_token(token.expose()),
                    None => builder,
                }
            }
        };
        if let Some(endpoint) = &options.endpoint {
            check_scheme(endpoint, &options.plain_http)?;
            builder = builder.with_endpoint(endpoint.as_str().trim_end_matches('/'));
        }
        let store = builder
            .build()
            .map_err(|error| refuse("the bucket's options are not usable").with_source(error))?;
        Ok(Self::new(Arc::new(store), prefix))
    }
}

fn check_scheme(endpoint: &Url, plain_http: &PlainHttp) -> Result<()> {
    let host = &endpoint[Position::BeforeHost..Position::AfterPort];
    match endpoint.scheme() {
        "https" => Ok(()),
        "http" if plain_http.allows(host) => Ok(()),
        "http" => Err(refuse(
            "the endpoint must be https; a host that is to be spoken to without TLS must be listed as such",
        )
        .with_context("host", host)),
        _ => Err(refuse("the endpoint must be an http or https URL")
            .with_context("endpoint", endpoint)),
    }
}

fn refuse(rule: &'static str) -> Error {
    Error::new(ErrorKind::Config, "s3::new", rule)
}

/// Our own client: the store's would take a proxy from the environment.
#[derive(Debug)]
struct Connector(reqwest::Client);

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.0.clone()))
    }
}

/// What S3 answers, as a status that several causes share and a code that tells them apart.
const CODES: [(&str, ErrorKind, &str); 11] = [
    (
        "SignatureDoesNotMatch",
        ErrorKind::Unauthorized,
        "the secret access key is not that of the access key id; check both",
    ),
    (
        "InvalidAccessKeyId",
        ErrorKind::Unauthorized,
        "the store does not know the access key id; check it",
    ),
    (
        "ExpiredToken",
        ErrorKind::Unauthorized,
        "the session token has expired; get a new key and token",
    ),
    (
        "TokenRefreshRequired",
        ErrorKind::Unauthorized,
        "the session token has expired; get a new key and token",
    ),
    (
        "InvalidToken",
        ErrorKind::Unauthorized,
        "the session token is not one of this key's; check both",
    ),
    (
        "RequestTimeTooSkewed",
        ErrorKind::Unauthorized,
        "this machine's clock differs too much from the store's; set it",
    ),
    (
        "NoSuchBucket",
        ErrorKind::NotFound,
        "the store does not have the bucket; check its name and the endpoint",
    ),
    (
        "AuthorizationHeaderMalformed",
        ErrorKind::Config,
        "the bucket is not in the region that requests are signed for; set its own",
    ),
    (
        "PermanentRedirect",
        ErrorKind::Config,
        "the bucket is not in the region that requests are signed for; set its own",
    ),
    ("InvalidRange", ErrorKind::OutOfRange, "the object ends before the range does"),
    ("SlowDown", ErrorKind::Throttled, "the store asks us to slow down"),
];

/// What a refusal means, where the store said so.
pub(crate) fn meaning(error: &object_store::Error) -> Option<(ErrorKind, &'static str)> {
    // The store's client keeps the document it was refused with only as text.
    let text = error.to_string();
    let code = text.split_once("<Code>")?.1.split_once("</Code>")?.0;
    let known = CODES.iter().find(|(known, ..)| *known == code)?;
    Some((known.1, known.2))
}
