//! A containerd whose images are read and written.
mod content;
mod labels;

use std::{
    collections::BTreeSet,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bolide_containerd_api::{
    ConnectError, Connection,
    content::AbortRequest,
    images::{CreateImageRequest, GetImageRequest, Image, UpdateImageRequest},
    leases::{AddResourceRequest, CreateRequest, DeleteRequest, Resource},
    optional,
    prost_types::{FieldMask, Timestamp},
    types, words,
};
use bolide_core::{Error, ErrorKind, Result};
use parking_lot::Mutex;
use tokio::sync::OnceCell;
use tonic::{Code, Status};

pub(crate) use content::Labels;
pub(crate) use labels::{UNCOMPRESSED, gc_labels};

use crate::manifest::Descriptor;

const EXPIRE: &str = "containerd.io/gc.expire";
/// After a crash, garbage collection takes what was half written this much later.
const LEASE: Duration = Duration::from_hours(24);
/// Longest wait for containerd to tidy up.
const CLOSING: Duration = Duration::from_secs(20);

/// A connection to a containerd, and what it lends while images are written.
///
/// What is written is kept from garbage collection by a lease until an image names it.
/// [`close`](Self::close) gives that back; who forgets it leaves a lease that ends after a day.
#[derive(Debug)]
pub struct ContainerdSession {
    connection: Connection,
    lease: OnceCell<Lease>,
    /// References of uploads that are under way.
    uploads: Mutex<BTreeSet<String>>,
}

#[derive(Debug)]
struct Lease {
    id: String,
    /// The connection on its behalf.
    connection: Connection,
}

impl ContainerdSession {
    /// Connects to the socket at `address`. A namespace that does not exist is made by what is put
    /// into it.
    ///
    /// `Config` when address or namespace cannot be sent, `Unavailable` when nobody listens there.
    pub async fn connect(address: &Path, namespace: &str) -> Result<Arc<Self>> {
        let connection = Connection::open(address, namespace).await.map_err(|error| {
            let kind = match error {
                ConnectError::Unreachable(_) => ErrorKind::Unavailable,
                _ => ErrorKind::Config,
            };
            Error::new(kind, "containerd::connect", error.to_string())
                .with_context("address", address.display())
                .with_source(error)
        })?;
        Ok(Arc::new(Self { connection, lease: OnceCell::new(), uploads: Mutex::default() }))
    }

    /// Gives back what containerd lent. After a failure it waits until what was written in vain is
    /// gone.
    pub async fn close(&self, failed: bool) -> Result<()> {
        let give_back = async {
            let uploads = std::mem::take(&mut *self.uploads.lock());
            for reference in uploads {
                let request = AbortRequest { r#ref: reference };
                let aborted = self.connection().content().abort(request).await;
                optional(aborted, Code::NotFound).map_err(|status| refused("abort", &status))?;
            }
            let Some(lease) = self.lease.get() else { return Ok(()) };
            let request = DeleteRequest { id: lease.id.clone(), sync: failed };
            let deleted = self.connection.leases().delete(request).await;
            let deleted = optional(deleted, Code::NotFound);
            deleted.map(drop).map_err(|status| refused("delete the lease", &status))
        };
        tokio::time::timeout(CLOSING, give_back).await.unwrap_or_else(|_| {
            let rule = "containerd did not tidy up in time; its garbage collection will";
            Err(Error::new(ErrorKind::Unavailable, "containerd::close", rule))
        })
    }

    /// Takes the lease under which everything is written from now on.
    pub(crate) async fn lease(&self) -> Result<()> {
        self.taken_lease().await.map(drop)
    }

    async fn taken_lease(&self) -> Result<&Lease> {
        let take = || async {
            let expire = Timestamp::from(SystemTime::now() + LEASE).to_string();
            let labels = [(EXPIRE.to_owned(), expire)].into();
            let request = CreateRequest { id: String::new(), labels };
            let created = self.connection.leases().create(request).await;
            let created = created.map_err(|status| refused("create a lease", &status))?;
            let id = created.into_inner().lease.unwrap_or_default().id;
            let connection = self.connection.with_lease(&id).map_err(|error| {
                let rule = "containerd must name the lease it gives";
                Error::new(ErrorKind::Malformed, "containerd::lease", rule).with_source(error)
            })?;
            Ok(Lease { id, connection })
        };
        self.lease.get_or_try_init(take).await
    }

    /// Keeps what is there from garbage collection as long as the lease lives.
    async fn hold(&self, resource: Resource) -> Result<()> {
        let lease = self.taken_lease().await?;
        let request = AddResourceRequest { id: lease.id.clone(), resource: Some(resource) };
        let added = self.connection.leases().add_resource(request).await;
        added.map(drop).map_err(|status| refused("add to the lease", &status))
    }

    /// What an image name stands for; `NotFound` if containerd has no such image.
    pub(crate) async fn image(&self, name: &str) -> Result<Descriptor> {
        let answer =
            self.connection().images().get(GetImageRequest { name: name.to_owned() }).await;
        let answer = answer.map_err(|status| {
            refused("find the image", &status)
                .with_context("address", self.connection.address().display())
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
        let created =
            optional(self.connection().images().create(request).await, Code::AlreadyExists);
        let wanted = "name the image";
        if created.map_err(|status| refused(wanted, &status))?.is_some() {
            return Ok(());
        }
        let update_mask = Some(FieldMask { paths: vec!["target".to_owned()] });
        let request = UpdateImageRequest { image: Some(image), update_mask, ..Default::default() };
        self.connection()
            .images()
            .update(request)
            .await
            .map(drop)
            .map_err(|status| refused(wanted, &status))
    }

    /// The connection, on behalf of the lease if there is one.
    fn connection(&self) -> &Connection {
        self.lease.get().map_or(&self.connection, |lease| &lease.connection)
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
    Error::new(kind, "containerd::call", format!("containerd cannot {wanted}: {}", words(status)))
}
