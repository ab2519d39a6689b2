//! What a pull holds of containerd while it works, and gives back however it ends.
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use bolide_containerd_api::{
    Connection,
    leases::{AddResourceRequest, CreateRequest, DeleteRequest, Resource},
    optional,
    snapshots::RemoveSnapshotRequest,
};
use tonic::Code;

use super::{
    containerd::{Explain as _, refusal},
    labels::{EXPIRE, Labels},
};

/// After a crash, garbage collection takes what was half pulled this much later.
const LEASE: Duration = Duration::from_hours(24);
/// Longest wait for containerd to tidy up.
const CLOSING: Duration = Duration::from_secs(20);

/// A lease, and the snapshot that is being filled.
#[derive(Debug)]
pub(super) struct Session {
    /// A connection on behalf of the lease.
    pub(super) containerd: Connection,
    /// Name of the lease; unique, so keys of snapshots are made from it.
    pub(super) lease: String,
    filling: Option<RemoveSnapshotRequest>,
}

impl Session {
    /// Takes a lease.
    pub(super) async fn open(containerd: &Connection) -> Result<Self> {
        let expire = prost_types::Timestamp::from(SystemTime::now() + LEASE).to_string();
        let labels = Labels::from([(EXPIRE.to_owned(), expire)]);
        let request = CreateRequest { id: String::new(), labels };
        let created = containerd.leases().create(request).await.explain("create a lease")?;
        let lease = created.lease.context("containerd named no lease")?.id;
        let containerd =
            containerd.with_lease(&lease).context("the name of a lease is printable")?;
        Ok(Self { containerd, lease, filling: None })
    }

    /// Keeps a snapshot, there or not yet, from garbage collection: one that an image left behind
    /// may be collected while it is looked at.
    pub(super) async fn hold(&self, snapshotter: &str, name: &str) -> Result<()> {
        let kind = format!("snapshots/{snapshotter}");
        let resource = Some(Resource { id: name.to_owned(), r#type: kind });
        let request = AddResourceRequest { id: self.lease.clone(), resource };
        let answer = self.containerd.leases().add_resource(request).await;
        answer.explain("add a snapshot to the lease").map(drop)
    }

    /// Remembers a snapshot to be removed unless it is [`finished`](Self::finished).
    pub(super) fn fills(&mut self, snapshotter: &str, key: &str) {
        let (snapshotter, key) = (snapshotter.to_owned(), key.to_owned());
        self.filling = Some(RemoveSnapshotRequest { snapshotter, key });
    }

    /// The snapshot was committed, or never came to be.
    pub(super) fn finished(&mut self) {
        self.filling = None;
    }

    /// Removes the snapshot that is being filled, if there is one.
    pub(super) async fn abandon(&mut self) -> Result<()> {
        let Some(request) = &self.filling else { return Ok(()) };
        let wanted = format!("remove the snapshot {:?}", request.key);
        let answer = self.containerd.snapshots().remove(request.clone()).await;
        optional(answer, Code::NotFound).map_err(|status| refusal(&wanted, &status))?;
        self.filling = None;
        Ok(())
    }

    /// Gives everything back. After a failure it waits until garbage collection is over.
    pub(super) async fn close(mut self, failed: bool) -> Result<()> {
        let give_back = async {
            let abandoned = self.abandon().await;
            let request = DeleteRequest { id: self.lease.clone(), sync: failed };
            let deleted = self.containerd.leases().delete(request).await;
            let deleted = optional(deleted, Code::NotFound);
            deleted.map_err(|status| refusal("delete the lease", &status))?;
            abandoned
        };
        let closed = tokio::time::timeout(CLOSING, give_back).await;
        closed.context("containerd did not tidy up in time; its garbage collection will")?
    }
}
