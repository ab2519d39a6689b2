//! A connection to containerd, and its refusals in words.
use std::{
    error::Error as _,
    io::ErrorKind,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail};
use bolide_containerd_api::{
    NAMESPACE_HEADER,
    content::content_client::ContentClient,
    diff::diff_client::DiffClient,
    images::images_client::ImagesClient,
    introspection::{PluginsRequest, introspection_client::IntrospectionClient},
    leases::leases_client::LeasesClient,
    snapshots::snapshots_client::SnapshotsClient,
};
use tonic::{
    Code, Request, Response, Status,
    metadata::AsciiMetadataValue,
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint},
};

const LEASE_HEADER: &str = "containerd-lease";
const SNAPSHOTTER_PLUGIN: &str = "io.containerd.snapshotter.v1";
/// Longest wait for the connection.
const CONNECT: Duration = Duration::from_secs(10);
/// Largest message read: what containerd itself accepts.
const MAX_MESSAGE: usize = 16 << 20;

/// A connection that names a namespace, and a lease once there is one, in every call.
#[derive(Clone, Debug)]
pub(super) struct Containerd {
    address: PathBuf,
    channel: Channel,
    headers: Headers,
}

#[derive(Clone, Debug)]
pub(super) struct Headers {
    namespace: AsciiMetadataValue,
    lease: Option<AsciiMetadataValue>,
}

impl Interceptor for Headers {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert(NAMESPACE_HEADER, self.namespace.clone());
        if let Some(lease) = &self.lease {
            request.metadata_mut().insert(LEASE_HEADER, lease.clone());
        }
        Ok(request)
    }
}

type Service = InterceptedService<Channel, Headers>;

macro_rules! clients {
    ($($name:ident $client:ident)*) => {$(
        pub(super) fn $name(&self) -> $client<Service> {
            $client::with_interceptor(self.channel.clone(), self.headers.clone())
                .max_decoding_message_size(MAX_MESSAGE)
        }
    )*};
}

impl Containerd {
    /// Connects to a socket. A namespace that does not exist is made by what is put into it.
    pub(super) async fn connect(address: &Path, namespace: &str) -> Result<Self> {
        let lease = None;
        let namespace = namespace.parse().ok().filter(|_| !namespace.is_empty());
        let namespace = namespace.context("a namespace is letters, digits, '-', '_' and '.'")?;
        // The transport would not tell a missing socket from a closed one.
        let probe = tokio::net::UnixStream::connect(address);
        let probed = tokio::time::timeout(CONNECT, probe).await;
        let probed = probed.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()));
        probed.map(drop).map_err(|error| unreachable(address, &error))?;
        let uri = format!("unix://{}", address.display());
        let endpoint = Endpoint::from_shared(uri).context("the socket's path must be text")?;
        let channel = endpoint.connect_timeout(CONNECT).connect().await;
        let channel = channel.with_context(|| format!("cannot speak to {}", address.display()))?;
        Ok(Self { address: address.to_owned(), channel, headers: Headers { namespace, lease } })
    }

    /// The same connection on behalf of a lease.
    pub(super) fn with_lease(&self, lease: &str) -> Result<Self> {
        let lease = lease.parse().context("the name of a lease is printable")?;
        let headers = Headers { lease: Some(lease), ..self.headers.clone() };
        Ok(Self { headers, ..self.clone() })
    }

    /// Makes sure that containerd knows a snapshotter, and that it could be loaded.
    pub(super) async fn check_snapshotter(&self, name: &str) -> Result<()> {
        let request = PluginsRequest { filters: vec![format!("type=={SNAPSHOTTER_PLUGIN}")] };
        let plugins = self.introspection().plugins(request).await.explain("list its plugins")?;
        let Some(plugin) = plugins.plugins.iter().find(|plugin| plugin.id == name) else {
            let known: Vec<_> = plugins.plugins.iter().map(|plugin| plugin.id.as_str()).collect();
            bail!(
                "containerd at {} has no snapshotter {name:?}, only {}; name it with --snapshotter, \
                 or add these lines to containerd's config.toml and restart it:\n\
                 [proxy_plugins.{name}]\n  type = \"snapshot\"\n  \
                 address = \"/run/bolide/bolide.sock\"",
                self.address.display(),
                known.join(", "),
            );
        };
        match &plugin.init_err {
            Some(error) if error.code != 0 => {
                bail!("containerd could not load the snapshotter {name:?}: {}", error.message)
            }
            _ => Ok(()),
        }
    }

    clients! {
        content ContentClient
        diff DiffClient
        images ImagesClient
        introspection IntrospectionClient
        leases LeasesClient
        snapshots SnapshotsClient
    }
}

fn unreachable(address: &Path, error: &std::io::Error) -> anyhow::Error {
    let remedy = match error.kind() {
        ErrorKind::NotFound => "there is no such socket; start containerd, or name it: --address",
        ErrorKind::PermissionDenied => "only root may use it; run this with sudo",
        ErrorKind::ConnectionRefused => "nothing listens there; start containerd",
        _ => "is this containerd's socket?",
    };
    anyhow!("cannot connect to containerd at {}: {error}: {remedy}", address.display())
}

/// Answers as results whose errors say what was wanted of containerd.
pub(super) trait Explain<T> {
    /// `wanted` completes "containerd cannot".
    fn explain(self, wanted: &str) -> Result<T>;
}

impl<T> Explain<T> for Result<Response<T>, Status> {
    fn explain(self, wanted: &str) -> Result<T> {
        self.map(Response::into_inner).map_err(|status| refusal(wanted, &status))
    }
}

/// A refusal in words.
pub(super) fn refusal(wanted: &str, status: &Status) -> anyhow::Error {
    // Errors of the transport say what happened in their sources alone.
    let mut text = format!("containerd cannot {wanted}: {}", status.message());
    let mut source = status.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    match status.code() {
        Code::Unavailable => anyhow!("{text} (is it, and the snapshotter it asks, running?)"),
        Code::Unimplemented => anyhow!("{text} (containerd 1.6 or newer is needed)"),
        _ => anyhow!(text),
    }
}

/// Takes an answer of a kind for none.
pub(super) fn optional<T>(
    answer: Result<Response<T>, Status>,
    none: Code,
) -> Result<Option<T>, Status> {
    match answer {
        Ok(answer) => Ok(Some(answer.into_inner())),
        Err(status) if status.code() == none => Ok(None),
        Err(status) => Err(status),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_reached_says_what_to_do() {
        for (kind, remedy) in [
            (ErrorKind::NotFound, "--address"),
            (ErrorKind::PermissionDenied, "sudo"),
            (ErrorKind::ConnectionRefused, "start containerd"),
        ] {
            let error = unreachable(Path::new("/a.sock"), &kind.into()).to_string();
            assert!(error.contains("/a.sock") && error.contains(remedy), "{error}");
        }
    }

    #[test]
    fn refusals_keep_their_words() {
        let error = refusal("add", &Status::not_found("lease \"x\"")).to_string();
        assert_eq!(error, "containerd cannot add: lease \"x\"");
    }
}
