//! The ten operations of a snapshotter, without the protocol that asks for them.
//!
//! Rules are in [`lifecycle`], names in the [`SnapshotStore`], content in directories, lazy layers
//! in [`RemoteLayers`]. Here is the order in which they are asked, so that whatever fails leaves
//! nothing behind that the next Cleanup does not collect.
mod cleanup;
mod directories;
mod disk_usage;
mod mount_points;
mod not_lazy;
mod prepare;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use bolide_core::{Error, ErrorKind, Result};
use futures::future::try_join_all;

use self::{directories::Directories, not_lazy::NotLazyList};
use crate::{
    admin::{StatusProvider, StatusReport},
    filters::Filters,
    labels::{self, Labels},
    lifecycle::{self, Kind, Snapshot, Usage},
    mounts::{self, MountSpec, Parts},
    remote::RemoteLayers,
    store::{Lineage, SnapshotStore},
};

/// A snapshotter whose layers may be lazy.
///
/// Dropping the future of an operation may leave something for Cleanup, so whoever serves clients
/// that go away runs each as a task, as [`grpc`](crate::grpc) does.
#[derive(Debug)]
pub struct SnapshotService {
    root: PathBuf,
    store: Arc<dyn SnapshotStore>,
    layers: Arc<dyn RemoteLayers>,
    directories: Directories,
    not_lazy: NotLazyList,
    /// One Cleanup at a time.
    cleaning: tokio::sync::Mutex<()>,
    userxattr: bool,
}

impl SnapshotService {
    /// A service over the directories of `root`, which are made if needed. Blocks shortly.
    ///
    /// `Config` when overlayfs could not take paths below that root.
    pub fn open(
        root: &Path,
        store: Arc<dyn SnapshotStore>,
        layers: Arc<dyn RemoteLayers>,
    ) -> Result<Arc<Self>> {
        Ok(Arc::new(Self {
            root: root.to_owned(),
            store,
            layers,
            directories: Directories::open(root)?,
            not_lazy: NotLazyList::default(),
            cleaning: tokio::sync::Mutex::default(),
            userxattr: crate::user_namespace::inside(),
        }))
    }

    /// What to mount for an active snapshot or a view.
    pub(crate) async fn mounts(&self, key: &str) -> Result<Vec<MountSpec>> {
        let lineage = self.store.lineage(key).await?;
        lifecycle::check_mountable(&lineage.snapshot)?;
        self.check_layers(&lineage.ancestors).await?;
        Ok(self.mounts_of(&lineage))
    }

    /// Commits an active snapshot. `parent` is empty or names its parent.
    pub(crate) async fn commit(
        &self,
        key: &str,
        name: &str,
        parent: &str,
        labels: Labels,
    ) -> Result<()> {
        let active = self.store.get(key).await?;
        if !parent.is_empty() && parent != active.parent {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "snapshots::commit",
                "a snapshot cannot be given another parent: do not let containerd unpack layers \
                 in parallel here",
            )
            .with_context("key", key)
            .with_context("parent", parent));
        }
        let mut labels = labels::without_marks(labels);
        if let Some(reason) = active.labels.get(labels::NOT_LAZY) {
            labels.insert(labels::NOT_LAZY.to_owned(), reason.clone());
        }
        // containerd waits with its own metadata locked, so this is all that takes time.
        let usage = match active.kind {
            Kind::Active => self.directories.usage(active.id).await?,
            _ => Usage::default(),
        };
        let committed = self.store.commit(key, name, usage, labels).await?;
        self.not_lazy.record(&committed);
        Ok(())
    }

    /// Removes a snapshot from the metadata; its directory goes at the next Cleanup.
    pub(crate) async fn remove(&self, name: &str) -> Result<()> {
        let removed = self.store.remove(name).await?;
        self.not_lazy.forget(removed.id);
        Ok(())
    }

    /// One snapshot.
    pub(crate) async fn stat(&self, name: &str) -> Result<Snapshot> {
        self.store.get(name).await
    }

    /// Changes labels; see [`lifecycle::update`].
    pub(crate) async fn update(
        &self,
        name: &str,
        labels: Labels,
        paths: Vec<String>,
    ) -> Result<Snapshot> {
        self.store.update(name, labels, paths).await
    }

    /// The snapshots that any of the filters matches, in the order of names.
    pub(crate) async fn list(&self, filters: &[String]) -> Result<Vec<Snapshot>> {
        let filters = Filters::parse(filters)?;
        let mut all = self.store.list().await?;
        all.retain(|snapshot| filters.matches(snapshot));
        Ok(all)
    }

    /// What a snapshot occupies: measured while it is active, as it was at its commit after that.
    /// A lazy layer occupies nothing; its data belongs to the layer store.
    pub(crate) async fn usage(&self, name: &str) -> Result<Usage> {
        let snapshot = self.store.get(name).await?;
        match snapshot.kind {
            Kind::Active => self.directories.usage(snapshot.id).await,
            Kind::View | Kind::Committed => Ok(snapshot.usage),
        }
    }

    /// Whether every lazy layer among the snapshots can be read; waits for their prefetch.
    async fn check_layers(&self, snapshots: &[Snapshot]) -> Result<()> {
        let remote = snapshots.iter().filter(|snapshot| snapshot.is_remote());
        let checks = remote.map(|snapshot| async move {
            self.layers.check(&snapshot.id.to_string()).await.map_err(|error| {
                let rule = "a lazy layer below cannot be read";
                Error::new(ErrorKind::Unavailable, "snapshots::check", rule)
                    .with_context("layer", &snapshot.name)
                    .with_context("cause", &error)
                    .with_source(error)
            })
        });
        try_join_all(checks).await.map(drop)
    }

    fn mounts_of(&self, lineage: &Lineage) -> Vec<MountSpec> {
        let Lineage { snapshot, ancestors } = lineage;
        mounts::mounts(&Parts {
            upper: self.directories.fs(snapshot.id),
            work: self.directories.work(snapshot.id),
            lower: ancestors.iter().map(|ancestor| self.directories.fs(ancestor.id)).collect(),
            writable: snapshot.kind == Kind::Active,
            userxattr: self.userxattr,
        })
    }
}

impl StatusProvider for SnapshotService {
    fn report(&self) -> StatusReport {
        StatusReport {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            root: self.root.clone(),
            layers: self.layers.status(),
            not_lazy: self.not_lazy.report(),
        }
    }
}
