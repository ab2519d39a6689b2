//! Getting rid of what no snapshot needs, and getting back what snapshots need after a restart.
use std::collections::HashSet;

use bolide_core::Result;
use futures::stream::{StreamExt as _, iter};

use super::{SnapshotService, directories::Entry};
use crate::{
    labels::{self, RemoteLayerRequest},
    lifecycle::Snapshot,
};

/// Layers mounted again at once. Most of the work is disk and processor of this node.
const RESTORED_AT_ONCE: usize = 16;

impl SnapshotService {
    /// Unmounts and deletes what belongs to no snapshot. What is in use is left, with a warning,
    /// to the next call.
    pub(crate) async fn cleanup(&self) -> Result<()> {
        let _one = self.cleaning.lock().await;
        for stray in self.strays().await? {
            if let Err(error) = self.clear(stray).await {
                tracing::warn!(%error, "a removed snapshot stays until the next cleanup");
            }
        }
        Ok(())
    }

    /// Brings every snapshot back after a restart: once, before anything else is asked.
    ///
    /// A layer that cannot be mounted again does not fail this; it is unavailable until a check of
    /// it succeeds.
    pub async fn restore(&self) -> Result<()> {
        self.directories.detach_mounts().await?;
        self.cleanup().await?;
        let mut snapshots = self.store.list().await?;
        snapshots.sort_by_key(|snapshot| snapshot.created);
        for snapshot in &snapshots {
            self.not_lazy.record(snapshot);
        }
        let remote = snapshots.iter().filter(|snapshot| snapshot.is_remote());
        iter(remote).for_each_concurrent(RESTORED_AT_ONCE, |snapshot| self.remount(snapshot)).await;
        Ok(())
    }

    async fn remount(&self, snapshot: &Snapshot) {
        if let Err(error) = self.try_remount(snapshot).await {
            let name = &snapshot.name;
            tracing::warn!(name, %error, "failed to restore remote snapshot");
        }
    }

    async fn try_remount(&self, snapshot: &Snapshot) -> Result<()> {
        let request = RemoteLayerRequest::from_labels(&snapshot.parent, &snapshot.labels);
        let request = request.unwrap_or_else(|| Err(labels::missing()))?;
        self.directories.ensure(snapshot.id).await?;
        let content = self.directories.fs(snapshot.id);
        self.layers.restore(&snapshot.id.to_string(), &request, &content).await
    }

    async fn strays(&self) -> Result<Vec<Entry>> {
        let mut entries = self.directories.entries().await?;
        let known: HashSet<_> = self.store.list().await?.iter().map(|one| one.id).collect();
        entries.retain(|entry| entry.is_draft || entry.id.is_none_or(|id| !known.contains(&id)));
        Ok(entries)
    }

    async fn clear(&self, stray: Entry) -> Result<()> {
        if let Some(id) = stray.id.filter(|_| !stray.is_draft) {
            self.layers.unmount(&id.to_string()).await?;
        }
        self.directories.remove(stray).await
    }
}
