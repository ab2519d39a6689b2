//! A containerd whose images are read and written.
mod content;
mod labels;

use std::{
    collections::BTreeSet,
    error::Error as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use bolide_containerd_api::{
    NAMESPACE_HEADER,
    content::{AbortRequest, content_client::ContentClient},
    images::{
        CreateImageRequest, GetImageRequest, Image, UpdateImageRequest, images_client::ImagesClient,
    },
    leases::{
        AddResourceRequest, CreateRequest, DeleteRequest, Resource, leases_client::LeasesClient,
    },
    types,
};
use bolide_core::{Error, ErrorKind, Result};
use parking_lot::Mutex;
use prost_types::{FieldMask, Timestamp};
use tokio::sync::OnceCell;
use tonic::{
    Code, Request, Status,
    metadata::AsciiMetadataValue,
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint},
};

pub(crate) use content::Labels;
pub(crate) use labels::{UNCOMPRESSED, gc_labels};

use crate::manifest::Descriptor;

const LEASE_HEADER: &str = "containerd-lease";
const EXPIRE: &str = "containerd.io/gc.expire";
/// After a crash, garbage collection takes what was half written this much later.
const LEASE: Duration = Duration::from_hours(24);
/// Longest wait for the connection.
const CONNECT: Duration = Duration::from_secs(10);
/// Longest wait for containerd to tidy up.
const CLOSING: Duration = Duration::from_secs(20);
/// Largest message read: what containerd itself accepts.
const MAX_MESSAGE: usize = 16 << 20;

/// A connection to a containerd, and what it lends while images are written.
///
/// What is written is kept from garbage collection by a lease until an image names it.
/// [`close`](Self::close) gives that back; who forgets it leaves a lease that ends after a day.
#[derive(Debug)]
pub struct ContainerdSession {
    address: PathBuf,
    channel: Channel,
    namespace: AsciiMetadataValue,
    lease: OnceCell<AsciiMetadataValue>,
    /// References of uploads that are under way.
    uploads: Mutex<BTreeSet<String>>,
}

/// Names the namespace, and the lease when something is written, in every call.
#[derive(Clone, Debug)]
pub(crate) struct Headers {
    namespace: AsciiMetadataValue,
    lease: Option<AsciiMetadataValue>,
}

impl Interceptor for Headers {
    fn call(&mut self, mut request: Request<()>) -> std::result::Result<Request<()>, Status> {
        request.metadata_mut().insert(NAMESPACE_HEADER, self.namespace.clone());
        if let Some(lease) = &self.lease {
            request.metadata_mut().insert(LEASE_HEADER, lease.clone());
        }
        Ok(request)
    }
}

type Service = InterceptedService<Channel, Headers>;

impl ContainerdSession {
    /// Connects to the socket at `address`. A namespace that does not exist is made by what is put
    /// into it.
    ///
    /// `Config` when address or namespace cannot be sent, `Unavailable` when nobody listens there.
    pub async fn connect(address: &Path, namespace: &str) -> Result<Arc<Self>> {
        let config = |rule| Error::new(ErrorKind::Config, "containerd::connect", rule);
        let namespace = namespace.parse().ok().filter(|_| !namespace.is_empty());
        let namespace =
            namespace.ok_or_else(|| config("a namespace is letters, digits, '-', '_' and '.'"))?;
        let endpoint = Endpoint::from_shared(format!("unix://{}", address.display()))
            .map_err(|error| config("the path of a socket is text").with_source(error))?;
        let unreachable = |error: std::io::Error| {
            let rule = "containerd must listen there; start it, or name its socket";
            Error::new(ErrorKind::Unavailable, "containerd::connect", rule)
                .with_context("address", address.display())
                .with_source(error)
        };
        // The transport would not tell a missing socket from a closed one.
        tokio::net::UnixStream::connect(address).await.map_err(unreachable)?;
        let channel = endpoint.connect_timeout(CONNECT).connect().await;
        let channel = channel.map_err(|error| unreachable(std::io::Error::other(error)))?;
        Ok(Arc::new(Self {
            address: address.to_owned(),
            channel,
            namespace,
            lease: OnceCell::new(),
            uploads: Mutex::default(),
        }))
    }

    /// Gives back what containerd lent. After a failure it waits until what was written in vain is
    /// gone.
    pub async fn close(&self, failed: bool) -> Result<()> {
        let give_back = async {
            let uploads = std::mem::take(&mut *self.uploads.lock());
            for reference in uploads {
                let aborted = self.content().abort(AbortRequest { r#ref: reference }).await;
                optional(aborted, Code::NotFound).map_err(|status| refused("abort", &status))?;
            }
            let Some(lease) = self.lease.get().and_then(|lease| lease.to_str().ok()) else {
                return Ok(());
            };
            let request = DeleteRequest { id: lease.to_owned(), sync: failed };
            let deleted = optional(self.leases().delete(request).await, Code::NotFound);
            deleted.map(drop).map_err(|status| refused("delete the lease", &status))
        };
        tokio::time::timeout(CLOSING, give_back).await.unwrap_or_else(|_| {
            let rule = "containerd did not tidy up in time; its garbage collection will";
            Err(Error::new(ErrorKind::Unavailable, "containerd::close", rule))
        })
    }

    /// Takes the lease under which everything is written from now on.
    pub(crate) async fn lease(&self) -> Result<()> {
        let take = || async {
            let expire = Timestamp::from(SystemTime::now() + LEASE).to_string();
            let labels = [(EXPIRE.to_owned(), expire)].into();
            let request = CreateRequest { id: String::new(), labels };
            let created = self.leases().create(request).await;
            let created = created.map_err(|status| refused("create a lease", &status))?;
            let id = created.into_inner().lease.unwrap_or_default().id;
            id.parse().map_err(|error| {
                let rule = "containerd must name the lease it gives";
                Error::new(ErrorKind::Malformed, "containerd::lease", rule).with_source(error)
            })
        };
        self.lease.get_or_try_init(take).await.map(drop)
    }

    /// Keeps what is there from garbage collection as long as the lease lives.
    pub(crate) async fn hold(&self, resource: Resource) -> Result<()> {
        self.lease().await?;
        let id = self.lease.get().and_then(|lease| lease.to_str().ok()).unwrap_or_default();
        let request = AddResourceRequest { id: id.to_owned(), resource: Some(resource) };
        let added = self.leases().add_resource(request).await;
        added.map(drop).map_err(|status| refused("add to the lease", &status))
    }

    /// What an image name stands for; `NotFound` if containerd has no such image.
    pub(crate) async fn image(&self, name: &str) -> Result<Descriptor> {
        let answer = self.images().get(GetImageRequest { name: name.to_owned() }).await;
        let answer = answer.map_err(|status| {
            refused("find the image", &status).with_context("address", self.address.display())
        })?;
        let target = answer.into_inner().image.and_then(|image| image.target).unwrap_or_default();
        let digest = target.digest.parse()?;
        Ok(Descriptor::new(&target.media_type, digest, target.size.try_into().unwrap_or_default()))
    }

    /// Gives an image its name, whatever had it before.
    pub(crate) async fn name_image(&self, name: &str, target: &Descriptor) -> Result<()> {
        let target = types::Descriptor {
            media_type: target.media_type.clone(),
            digest: target.digest.to_string(),
            size: target.size.try_into().unwrap_or(i64::MAX),
            annotations: target.annotations.clone().into_iter().collect(),
        };
        let image = Image { name: name.to_owned(), target: Some(target), ..Image::default() };
        let request = CreateImageRequest { image: Some(image.clone()), ..Default::default() };
        let created = optional(self.images().create(request).await, Code::AlreadyExists);
        let wanted = "name the image";
        if created.map_err(|status| refused(wanted, &status))?.is_some() {
            return Ok(());
        }
        let update_mask = Some(FieldMask { paths: vec!["target".to_owned()] });
        let request = UpdateImageRequest { image: Some(image), update_mask, ..Default::default() };
        self.images().update(request).await.map(drop).map_err(|status| refused(wanted, &status))
    }

    pub(crate) fn content(&self) -> ContentClient<Service> {
        ContentClient::with_interceptor(self.channel.clone(), self.headers())
            .max_decoding_message_size(MAX_MESSAGE)
    }

    fn images(&self) -> ImagesClient<Service> {
        ImagesClient::with_interceptor(self.channel.clone(), self.headers())
    }

    fn leases(&self) -> LeasesClient<Service> {
        LeasesClient::with_interceptor(self.channel.clone(), self.headers())
    }

    fn headers(&self) -> Headers {
        Headers { namespace: self.namespace.clone(), lease: self.lease.get().cloned() }
    }
}

/// A refusal in words. `wanted` completes "containerd cannot".
pub(crate) fn refused(wanted: &str, status: &Status) -> Error {
    let kind = match status.code() {
        Code::NotFound => ErrorKind::NotFound,
        Code::AlreadyExists => ErrorKind::AlreadyExists,
        Code::PermissionDenied | Code::Unauthenticated => ErrorKind::Unauthorized,
        Code::FailedPrecondition => ErrorKind::FailedPrecondition,
        Code::ResourceExhausted => ErrorKind::Exhausted,
        Code::OutOfRange => ErrorKind::OutOfRange,
        Code::Unavailable => ErrorKind::Unavailable,
        Code::Unimplemented => ErrorKind::Unsupported,
        _ => ErrorKind::Unexpected,
    };
    // Errors of the transport say what happened in their sources alone.
    let mut text = format!("containerd cannot {wanted}: {}", status.message());
    let mut source = status.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    Error::new(kind, "containerd::call", text)
}

/// Takes a refusal of one kind for no answer.
pub(crate) fn optional<T>(
    answer: std::result::Result<T, Status>,
    none: Code,
) -> std::result::Result<Option<T>, Status> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(status) if status.code() == none => Ok(None),
        Err(status) => Err(status),
    }
}
