//! Lazy layers without images, and a store that fails.
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use bolide_core::{Digest, Error, ErrorKind, Result};
use bolide_estargz::TocTrust;
use bolide_snapshotter::{
    LayerReport, Lineage, MountedInfo, RedbStore, RemoteLayerRequest, RemoteLayers, SnapshotStore,
    labels::Labels,
    lifecycle::{Kind, NewSnapshot, Snapshot, Usage},
};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

/// The file a mounted layer shows.
pub(crate) const CONTENT: &str = "layer";

/// What is found out of a layer that its request says nothing of.
pub(crate) const LEARNED: TocTrust = TocTrust::Compressed(Digest::from_bytes([7; 32]));

/// Shows a layer as one file with the layer's digest in it.
#[derive(Debug)]
pub(crate) struct FakeLayers {
    mounted: Mutex<BTreeMap<String, (RemoteLayerRequest, PathBuf)>>,
    calls: Mutex<Vec<String>>,
    /// What `mount` fails with.
    pub(crate) refuse: Mutex<Option<Error>>,
    /// Ids that `check` finds unavailable.
    pub(crate) lost: Mutex<BTreeSet<String>>,
    /// Ids that `unmount` finds in use.
    pub(crate) busy: Mutex<BTreeSet<String>>,
    /// A mount takes one.
    pub(crate) gate: Semaphore,
    /// A mount that waits at the gate adds one.
    pub(crate) waiting: Semaphore,
    /// Holds a directory by id that is bound instead of writing a file.
    bound: Option<PathBuf>,
}

impl Default for FakeLayers {
    fn default() -> Self {
        Self {
            mounted: Mutex::default(),
            calls: Mutex::default(),
            refuse: Mutex::default(),
            lost: Mutex::default(),
            busy: Mutex::default(),
            gate: Semaphore::new(1000),
            waiting: Semaphore::new(0),
            bound: None,
        }
    }
}

impl FakeLayers {
    /// Layers whose mounts wait for the gate.
    pub(crate) fn gated() -> Self {
        Self { gate: Semaphore::new(0), ..Self::default() }
    }

    /// Layers that are real mounts, of directories below one.
    pub(crate) fn binding(dir: &Path) -> Self {
        Self { bound: Some(dir.to_owned()), ..Self::default() }
    }

    /// What was asked since the last time this was asked.
    pub(crate) fn take_calls(&self) -> Vec<String> {
        std::mem::take(&mut *self.calls.lock())
    }

    /// What is mounted, by id.
    pub(crate) fn mounted(&self) -> BTreeMap<String, (RemoteLayerRequest, PathBuf)> {
        self.mounted.lock().clone()
    }

    fn called(&self, what: &str, id: &str) {
        self.calls.lock().push(format!("{what} {id}"));
    }

    fn show(&self, id: &str, request: &RemoteLayerRequest, target: &Path) {
        match self.bound.as_ref().map(|dir| dir.join(id)) {
            Some(dir) => {
                fs::create_dir_all(&dir).expect("made");
                rustix::mount::mount_bind(dir, target).expect("bound");
            }
            None => fs::write(target.join(CONTENT), request.layer_digest.to_string())
                .expect("the target is a directory"),
        }
        let shown = (request.clone(), target.to_owned());
        assert!(self.mounted.lock().insert(id.to_owned(), shown).is_none(), "{id} twice");
    }
}

#[async_trait]
impl RemoteLayers for FakeLayers {
    async fn mount(
        &self,
        id: &str,
        request: &RemoteLayerRequest,
        target: &Path,
    ) -> Result<MountedInfo> {
        self.called("mount", id);
        self.waiting.add_permits(1);
        self.gate.acquire().await.expect("open").forget();
        if let Some(error) = self.refuse.lock().clone() {
            return Err(error);
        }
        self.show(id, request, target);
        let trust = request.trust.unwrap_or(LEARNED);
        Ok(MountedInfo { toc: Digest::of(b"toc"), trust, mounter: "fake" })
    }

    async fn restore(&self, id: &str, request: &RemoteLayerRequest, target: &Path) -> Result<()> {
        self.called("restore", id);
        if let Some(error) = self.refuse.lock().clone() {
            return Err(error);
        }
        self.show(id, request, target);
        Ok(())
    }

    async fn unmount(&self, id: &str) -> Result<()> {
        self.called("unmount", id);
        if self.busy.lock().contains(id) {
            return Err(Error::new(ErrorKind::FailedPrecondition, "fake::unmount", "in use"));
        }
        let Some((_, target)) = self.mounted.lock().remove(id) else { return Ok(()) };
        match self.bound {
            Some(_) => bolide_fs::detach(&target),
            None => fs::remove_file(target.join(CONTENT)).map_err(|error| Error::io("fake", error)),
        }
    }

    async fn check(&self, id: &str) -> Result<()> {
        self.called("check", id);
        if self.lost.lock().contains(id) {
            // Whatever it says, the client must see that the layer is unavailable.
            return Err(Error::new(ErrorKind::NotFound, "fake::check", "the registry is gone"));
        }
        Ok(())
    }

    fn status(&self) -> Vec<LayerReport> {
        let report = |(id, (request, _)): (&String, &(RemoteLayerRequest, PathBuf))| LayerReport {
            snapshot_id: id.clone(),
            chain_id: request.target.clone(),
            ..LayerReport::default()
        };
        self.mounted.lock().iter().map(report).collect()
    }

    async fn shutdown(&self) {}
}

/// A store whose disk is full when a layer is committed.
#[derive(Debug)]
pub(crate) struct FullStore {
    pub(crate) inner: RedbStore,
}

#[async_trait]
impl SnapshotStore for FullStore {
    fn next_id(&self) -> u64 {
        self.inner.next_id()
    }

    async fn create(&self, new: NewSnapshot) -> Result<Lineage> {
        if new.kind == Kind::Committed {
            return Err(Error::new(ErrorKind::Exhausted, "full::create", "no space left"));
        }
        self.inner.create(new).await
    }

    async fn commit(
        &self,
        key: &str,
        name: &str,
        usage: Usage,
        labels: Labels,
    ) -> Result<Snapshot> {
        self.inner.commit(key, name, usage, labels).await
    }

    async fn remove(&self, name: &str) -> Result<Snapshot> {
        self.inner.remove(name).await
    }

    async fn get(&self, name: &str) -> Result<Snapshot> {
        self.inner.get(name).await
    }

    async fn lineage(&self, name: &str) -> Result<Lineage> {
        self.inner.lineage(name).await
    }

    async fn update(&self, name: &str, labels: Labels, paths: Vec<String>) -> Result<Snapshot> {
        self.inner.update(name, labels, paths).await
    }

    async fn list(&self) -> Result<Vec<Snapshot>> {
        self.inner.list().await
    }
}
