//! A connection to containerd, and what its answers have in common.
use std::{
    error::Error as StdError,
    fmt, io,
    path::{Path, PathBuf},
    time::Duration,
};

use tonic::{
    Code, Request, Response, Status,
    metadata::{AsciiMetadataValue, errors::InvalidMetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint},
};

use crate::{
    NAMESPACE_HEADER, content::content_client::ContentClient, diff::diff_client::DiffClient,
    images::images_client::ImagesClient, introspection::introspection_client::IntrospectionClient,
    leases::leases_client::LeasesClient, snapshots::snapshots_client::SnapshotsClient,
};

const LEASE_HEADER: &str = "containerd-lease";
/// Longest wait for the connection.
const CONNECT: Duration = Duration::from_secs(10);
/// Largest message read: what containerd itself accepts.
const MAX_MESSAGE: usize = 16 << 20;

/// A connection that names a namespace, and a lease once there is one, in every call.
#[derive(Clone, Debug)]
pub struct Connection {
    address: PathBuf,
    channel: Channel,
    headers: Headers,
}

/// What every call carries.
#[derive(Clone, Debug)]
pub struct Headers {
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

/// What the clients of a connection speak through.
pub type Service = InterceptedService<Channel, Headers>;

macro_rules! clients {
    ($($name:ident $client:ident $what:literal)*) => {$(
        #[doc = concat!("A client of the ", $what, " service.")]
        #[must_use]
        pub fn $name(&self) -> $client<Service> {
            $client::with_interceptor(self.channel.clone(), self.headers.clone())
                .max_decoding_message_size(MAX_MESSAGE)
        }
    )*};
}

impl Connection {
    /// Connects to a socket. A namespace that does not exist is made by what is put into it.
    pub async fn open(address: &Path, namespace: &str) -> Result<Self, ConnectError> {
        let lease = None;
        let namespace = namespace.parse().ok().filter(|_| !namespace.is_empty());
        let namespace = namespace.ok_or(ConnectError::Namespace)?;
        // The transport would not tell a missing socket from a closed one.
        let probe = tokio::net::UnixStream::connect(address);
        let probed = tokio::time::timeout(CONNECT, probe).await;
        let probed = probed.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        probed.map(drop).map_err(ConnectError::Unreachable)?;
        let endpoint = Endpoint::from_shared(format!("unix://{}", address.display()));
        let endpoint = endpoint.map_err(|_| ConnectError::Address)?.connect_timeout(CONNECT);
        let connected = endpoint.connect().await;
        let channel =
            connected.map_err(|error| ConnectError::Unreachable(io::Error::other(error)))?;
        Ok(Self { address: address.to_owned(), channel, headers: Headers { namespace, lease } })
    }

    /// The socket.
    #[must_use]
    pub fn address(&self) -> &Path {
        &self.address
    }

    /// The same connection on behalf of a lease.
    pub fn with_lease(&self, lease: &str) -> Result<Self, InvalidMetadataValue> {
        let headers = Headers { lease: Some(lease.parse()?), ..self.headers.clone() };
        Ok(Self { headers, ..self.clone() })
    }

    clients! {
        content ContentClient "content"
        diff DiffClient "diff"
        images ImagesClient "images"
        introspection IntrospectionClient "introspection"
        leases LeasesClient "leases"
        snapshots SnapshotsClient "snapshots"
    }
}

/// Why there is no connection.
#[derive(Debug)]
pub enum ConnectError {
    /// The namespace cannot be sent.
    Namespace,
    /// The path of the socket cannot be written as a URL.
    Address,
    /// Nobody answers there.
    Unreachable(io::Error),
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let remedy = match self {
            Self::Namespace => {
                return f.write_str("a namespace is letters, digits, '-', '_' and '.'");
            }
            Self::Address => return f.write_str("the path of a socket is text"),
            Self::Unreachable(error) => match error.kind() {
                io::ErrorKind::NotFound => "there is no such socket; start containerd, or name it",
                io::ErrorKind::PermissionDenied => "only root may use it; run this with sudo",
                io::ErrorKind::ConnectionRefused => "nothing listens there; start containerd",
                _ => "is this containerd's socket?",
            },
        };
        write!(f, "{remedy}")
    }
}

impl StdError for ConnectError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Unreachable(error) => Some(error),
            _ => None,
        }
    }
}

/// Takes an answer of a kind for none.
pub fn optional<T>(answer: Result<Response<T>, Status>, none: Code) -> Result<Option<T>, Status> {
    match answer {
        Ok(answer) => Ok(Some(answer.into_inner())),
        Err(status) if status.code() == none => Ok(None),
        Err(status) => Err(status),
    }
}

/// A refusal in words. Those of the transport say what happened in their sources alone.
#[must_use]
pub fn words(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut source = status.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_reached_says_what_to_do() {
        for (kind, remedy) in [
            (io::ErrorKind::NotFound, "name it"),
            (io::ErrorKind::PermissionDenied, "sudo"),
            (io::ErrorKind::ConnectionRefused, "start containerd"),
        ] {
            let error = ConnectError::Unreachable(kind.into()).to_string();
            assert!(error.contains(remedy), "{error}");
        }
    }
}
