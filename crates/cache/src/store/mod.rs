//! Layer images on disk.
//!
//! ```text
//! <root>/lock                          held by the one process that writes here
//! <root>/layers/<hex of TOC digest>/
//!     data                             the layer image, sparse
//!     presence                         which chunks it holds
//!     shape                            where which content lies in it
//!     toc.json, blob.json, ..          artifacts
//! ```
//!
//! Small files are written as `<name>.new` and renamed; a layer that is removed is renamed to
//! `.removed-<hex>` first. What a crash leaves of either goes when the store is opened again.
//!
//! A chunk's bit is written to `presence` only after `data` was synced with the chunk in it, so a
//! bit that survives a crash is true. Bits that do not survive cost a fetch, nothing else.
mod artifact;
mod catalog;
mod core;
mod disk;
mod files;
mod image;
mod names;
mod presence;
mod shape;
mod shape_file;
mod slot_writer;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Weak},
    time::Duration,
};

use async_trait::async_trait;
use bolide_core::{
    Artifact, ChunkSlot, Digest, Error, ErrorKind, ImageSpec, LayerImage, LayerStore, LayerUsage,
    Result,
};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::{sync::Notify, task::JoinHandle, time::timeout};

use crate::blocking::blocking;

use self::{
    catalog::Catalog,
    core::{Core, Dirty, Home},
    disk::{Disk, OsDisk, StoreFile},
    image::DiskLayerImage,
    shape::Shape,
};

/// How a [`DiskLayerStore`] behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskLayerConfig {
    /// Longest time a filled chunk waits to be made durable. What waits is fetched again after a
    /// crash of the machine; a crash of the process loses as much.
    pub sync_interval: Duration,
}

impl Default for DiskLayerConfig {
    fn default() -> Self {
        // A sync costs a few milliseconds of disk time; one a second is not felt.
        Self { sync_interval: Duration::from_secs(1) }
    }
}

/// A [`LayerStore`] over a directory.
#[derive(Debug)]
pub struct DiskLayerStore {
    shared: Arc<Shared>,
    flusher: Mutex<Option<JoinHandle<()>>>,
    /// Images hold it as well: they may outlive the store, and write.
    lock: Arc<dyn StoreFile>,
}

#[derive(Debug)]
struct Shared {
    disk: Arc<dyn Disk>,
    layers: PathBuf,
    seats: Mutex<HashMap<Digest, Seat>>,
    catalog: Catalog,
    dirty: Arc<Dirty>,
    closing: Notify,
}

/// The open image of a layer. Held by whoever makes, removes or replaces files of the layer.
type Seat = Arc<Mutex<Weak<Core>>>;

impl DiskLayerStore {
    /// Opens or makes a store. `FailedPrecondition` when another process has it open.
    ///
    /// Must be called on a tokio runtime; [`close`](Self::close) ends its one task.
    pub async fn open(root: PathBuf, config: DiskLayerConfig) -> Result<Arc<Self>> {
        Self::open_on(Arc::new(OsDisk), root, config).await
    }

    async fn open_on(
        disk: Arc<dyn Disk>,
        root: PathBuf,
        config: DiskLayerConfig,
    ) -> Result<Arc<Self>> {
        let claim = {
            let disk = Arc::clone(&disk);
            move || claim(&*disk, &root)
        };
        let claimed = blocking(claim).await?;
        let shared = Arc::new(Shared {
            disk,
            layers: claimed.layers,
            seats: Mutex::default(),
            catalog: claimed.catalog,
            dirty: Arc::default(),
            closing: Notify::new(),
        });
        let flusher = tokio::spawn(flush(Arc::clone(&shared), config.sync_interval));
        Ok(Arc::new(Self { shared, flusher: Mutex::new(Some(flusher)), lock: claimed.lock }))
    }

    /// Makes everything durable and ends the store's task.
    pub async fn close(&self) {
        self.shared.closing.notify_one();
        let flusher = self.flusher.lock().take();
        if let Some(flusher) = flusher {
            // Only a panic ends it otherwise, and that was reported already.
            let _ = flusher.await;
        }
    }
}

impl Drop for DiskLayerStore {
    fn drop(&mut self) {
        if let Some(flusher) = self.flusher.lock().take() {
            flusher.abort();
        }
        // Images hold the lock; those nobody else holds go with the store.
        self.shared.dirty.take();
    }
}

/// Makes filled chunks durable, some time after they were filled.
async fn flush(shared: Arc<Shared>, interval: Duration) {
    loop {
        tokio::select! {
            () = shared.dirty.changed.notified() => {}
            () = shared.closing.notified() => return shared.sync_all().await,
        }
        // More will be filled soon; one sync then serves all.
        if timeout(interval, shared.closing.notified()).await.is_ok() {
            return shared.sync_all().await;
        }
        shared.sync_all().await;
    }
}

impl Shared {
    fn dir(&self, toc: Digest) -> PathBuf {
        self.layers.join(toc.hex())
    }

    fn seat(&self, toc: Digest) -> Seat {
        let mut seats = self.seats.lock();
        // One that nobody else holds cannot be locked, so asking it does not wait.
        seats.retain(|_, seat| Arc::strong_count(seat) > 1 || seat.lock().strong_count() > 0);
        Arc::clone(seats.entry(toc).or_default())
    }

    async fn sync_all(&self) {
        for core in self.dirty.take() {
            let (toc, again) = (core.toc(), Arc::clone(&core));
            if let Err(error) = blocking(move || core.make_durable()).await {
                tracing::warn!(%toc, %error, "filled chunks are not durable");
                if again.may_sync() {
                    self.dirty.keep(again);
                }
            }
        }
    }

    fn open(&self, spec: &ImageSpec, lock: Arc<dyn StoreFile>) -> Result<Arc<Core>> {
        spec.check()?;
        let shape = Shape::of(spec);
        let seat = self.seat(spec.toc);
        // Held while the files are opened, so that two openers make one image.
        let mut live = seat.lock();
        if let Some(core) = live.upgrade().filter(|core| core.is_of(&shape)) {
            return Ok(core);
        }
        let home = Home { dirty: Arc::downgrade(&self.dirty), lock };
        let (core, head) = Core::open(&*self.disk, &self.dir(spec.toc), spec, shape, home)?;
        *live = Arc::downgrade(&core);
        self.catalog.add(spec.toc, head);
        Ok(core)
    }

    fn remove(&self, toc: Digest) -> Result<()> {
        let seat = self.seat(toc);
        // Held until the files are gone, so that nobody opens half of them. Who has the image open
        // goes on reading it.
        let mut live = seat.lock();
        *live = Weak::new();
        self.catalog.forget(toc);
        names::remove_layer(&*self.disk, &self.layers, &toc.hex())
            .map_err(|error| Error::io("layer_store::remove", error).with_context("toc", toc))
    }

    fn list(&self) -> Result<Vec<LayerUsage>> {
        let names = self.disk.names(&self.layers);
        let names = names.map_err(|error| Error::io("layer_store::list", error))?;
        let mut found = Vec::new();
        for toc in names.iter().filter_map(|name| layer_named(name)) {
            match self.usage(toc) {
                Ok(usage) => found.push(usage),
                // Removed since the directory was read.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => {
                    return Err(Error::io("layer_store::list", error).with_context("toc", toc));
                }
            }
        }
        found.sort_by_key(|usage| usage.toc);
        Ok(found)
    }

    fn usage(&self, toc: Digest) -> std::io::Result<LayerUsage> {
        let dir = self.dir(toc);
        let mut disk_bytes = 0;
        for name in self.disk.names(&dir)? {
            match self.disk.occupied(&dir.join(name)) {
                Ok(bytes) => disk_bytes += bytes,
                // Replaced since the directory was read.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        let live = self.seats.lock().get(&toc).cloned();
        let live = live.and_then(|seat| seat.lock().upgrade());
        let presence = match live {
            Some(core) => core.presence(),
            None => files::presence(&*self.disk, &dir)?,
        };
        Ok(LayerUsage { toc, disk_bytes, presence })
    }
}

/// The layer whose directory has this name.
fn layer_named(name: &str) -> Option<Digest> {
    format!("sha256:{name}").parse().ok()
}

struct Claimed {
    lock: Arc<dyn StoreFile>,
    layers: PathBuf,
    catalog: Catalog,
}

/// Takes a root, and clears away what an earlier process did not finish.
fn claim(disk: &dyn Disk, root: &Path) -> Result<Claimed> {
    let operation = "layer_store::open";
    let io = |error| Error::io(operation, error).with_context("root", root.display());
    let layers = root.join("layers");
    names::create_dirs(disk, &layers).map_err(io)?;
    let lock = disk.lock(&root.join("lock")).map_err(|error| match error.kind() {
        std::io::ErrorKind::WouldBlock => Error::new(
            ErrorKind::FailedPrecondition,
            operation,
            "another process has this layer store open; give each a root of its own",
        )
        .with_context("root", root.display())
        .with_source(error),
        _ => io(error),
    })?;
    names::sync_names(disk, &layers).map_err(io)?;
    names::tidy(disk, &layers).map_err(io)?;
    let names = disk.names(&layers).map_err(io)?;
    let catalog = Catalog::of(names.iter().filter_map(|name| layer_named(name)));
    Ok(Claimed { lock, layers, catalog })
}

#[async_trait]
impl LayerStore for DiskLayerStore {
    async fn open(&self, spec: ImageSpec) -> Result<Arc<dyn LayerImage>> {
        let (shared, lock) = (Arc::clone(&self.shared), Arc::clone(&self.lock));
        let core = blocking(move || shared.open(&spec, lock)).await?;
        Ok(Arc::new(DiskLayerImage { core }))
    }

    async fn copy_local(&self, target: &dyn LayerImage, slot: &ChunkSlot) -> Result<bool> {
        self.shared.copy(target, slot).await
    }

    async fn put_artifact(&self, toc: Digest, artifact: Artifact, bytes: Bytes) -> Result<()> {
        let shared = Arc::clone(&self.shared);
        blocking(move || {
            let seat = shared.seat(toc);
            let _one_at_a_time = seat.lock();
            artifact::write(&*shared.disk, &shared.dir(toc), artifact, &bytes)
        })
        .await
    }

    async fn artifact(&self, toc: Digest, artifact: Artifact) -> Result<Option<Bytes>> {
        let shared = Arc::clone(&self.shared);
        blocking(move || artifact::read(&*shared.disk, &shared.dir(toc), artifact)).await
    }

    async fn remove(&self, toc: Digest) -> Result<()> {
        let shared = Arc::clone(&self.shared);
        blocking(move || shared.remove(toc)).await
    }

    async fn list(&self) -> Result<Vec<LayerUsage>> {
        let shared = Arc::clone(&self.shared);
        blocking(move || shared.list()).await
    }
}

#[cfg(test)]
mod tests;
