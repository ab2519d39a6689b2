//! Layer images on disk.
//!
//! ```text
//! <root>/lock                          held by the one process that writes here
//! <root>/layers/<hex of TOC digest>/
//!     data                             the layer image, sparse
//!     presence                         which chunks it holds
//!     toc.json, blob.json, ..          artifacts
//! ```
//!
//! A chunk's bit is written to `presence` only after `data` was synced with the chunk in it, so a
//! bit that survives a crash is true. Bits that do not survive cost a fetch, nothing else.
mod artifact;
mod content;
mod image;
mod presence;
mod slot_writer;

use std::{
    collections::HashMap,
    fs::{self, File},
    path::{Path, PathBuf},
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bolide_core::{
    Artifact, ChunkSlot, Digest, Error, ErrorKind, ImageSpec, LayerImage, LayerStore, LayerUsage,
    Presence, Result,
};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::{sync::Notify, task::JoinHandle, time::timeout};

use content::ContentIndex;
use image::{Core, Dirty, DiskLayerImage, Home};

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
    lock: Arc<File>,
}

#[derive(Debug)]
struct Shared {
    layers: PathBuf,
    images: Mutex<HashMap<Digest, Weak<Core>>>,
    content: Arc<ContentIndex>,
    dirty: Arc<Dirty>,
    closing: Notify,
    /// Next name of a temporary file.
    tickets: AtomicU64,
}

impl DiskLayerStore {
    /// Opens or makes a store. `FailedPrecondition` when another process has it open.
    ///
    /// Must be called on a tokio runtime; [`close`](Self::close) ends its one task.
    pub async fn open(root: PathBuf, config: DiskLayerConfig) -> Result<Arc<Self>> {
        let (lock, layers) = blocking(move || claim(&root)).await?;
        let shared = Arc::new(Shared {
            layers,
            images: Mutex::default(),
            content: Arc::default(),
            dirty: Arc::default(),
            closing: Notify::new(),
            tickets: AtomicU64::new(0),
        });
        let flusher = tokio::spawn(flush(Arc::clone(&shared), config.sync_interval));
        Ok(Arc::new(Self { shared, flusher: Mutex::new(Some(flusher)), lock: Arc::new(lock) }))
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

    async fn sync_all(&self) {
        for core in self.dirty.take() {
            let (toc, again) = (core.spec.toc, Arc::clone(&core));
            if let Err(error) = blocking(move || core.make_durable()).await {
                tracing::warn!(%toc, %error, "filled chunks are not durable");
                if again.may_sync() {
                    self.dirty.keep(again);
                }
            }
        }
    }
}

fn claim(root: &Path) -> Result<(File, PathBuf)> {
    let operation = "layer_store::open";
    let io = |error| Error::io(operation, error).with_context("root", root.display());
    let layers = root.join("layers");
    fs::create_dir_all(&layers).map_err(io)?;
    let lock = File::create(root.join("lock")).map_err(io)?;
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).map_err(
        |error| {
            Error::new(
                ErrorKind::FailedPrecondition,
                operation,
                "another process has this layer store open; give each a root of its own",
            )
            .with_context("root", root.display())
            .with_source(std::io::Error::from(error))
        },
    )?;
    Ok((lock, layers))
}

/// Runs file I/O where it may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        Err(Error::new(ErrorKind::Unexpected, "layer_store::blocking", error.to_string()))
    })
}

#[async_trait]
impl LayerStore for DiskLayerStore {
    async fn open(&self, spec: ImageSpec) -> Result<Arc<dyn LayerImage>> {
        let (shared, lock) = (Arc::clone(&self.shared), Arc::clone(&self.lock));
        let core = blocking(move || {
            spec.check()?;
            // Held while the files are opened, so that two openers make one image.
            let mut images = shared.images.lock();
            let live = images.get(&spec.toc).and_then(Weak::upgrade);
            if let Some(core) = live.filter(|core| core.spec == spec) {
                return Ok(core);
            }
            let (dirty, content) = (Arc::downgrade(&shared.dirty), Arc::clone(&shared.content));
            let core = Core::open(&shared.dir(spec.toc), spec, Home { dirty, content, lock })?;
            images.retain(|_, core| core.strong_count() > 0);
            images.insert(core.spec.toc, Arc::downgrade(&core));
            shared.content.add_image(&core);
            Ok(core)
        });
        Ok(Arc::new(DiskLayerImage { core: core.await? }))
    }

    async fn copy_local(&self, target: &dyn LayerImage, slot: &ChunkSlot) -> Result<bool> {
        self.shared.content.copy(target, slot).await
    }

    async fn put_artifact(&self, toc: Digest, artifact: Artifact, bytes: Bytes) -> Result<()> {
        let dir = self.shared.dir(toc);
        let ticket = self.shared.tickets.fetch_add(1, Ordering::Relaxed);
        blocking(move || artifact::write(&dir, artifact, ticket, &bytes)).await
    }

    async fn artifact(&self, toc: Digest, artifact: Artifact) -> Result<Option<Bytes>> {
        let dir = self.shared.dir(toc);
        blocking(move || artifact::read(&dir, artifact)).await
    }

    async fn remove(&self, toc: Digest) -> Result<()> {
        let shared = Arc::clone(&self.shared);
        blocking(move || {
            // Held until the files are gone, so that nobody opens half of them.
            let mut images = shared.images.lock();
            images.remove(&toc);
            shared.content.forget(toc);
            match fs::remove_dir_all(shared.dir(toc)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    Err(Error::io("layer_store::remove", error).with_context("toc", toc))
                }
                _ => Ok(()),
            }
        })
        .await
    }

    async fn list(&self) -> Result<Vec<LayerUsage>> {
        let shared = Arc::clone(&self.shared);
        blocking(move || list(&shared)).await
    }
}

fn list(shared: &Shared) -> Result<Vec<LayerUsage>> {
    let io = |error| Error::io("layer_store::list", error);
    let mut found = Vec::new();
    for entry in fs::read_dir(&shared.layers).map_err(io)? {
        let entry = entry.map_err(io)?;
        let name = format!("sha256:{}", entry.file_name().to_string_lossy());
        let Ok(toc) = name.parse::<Digest>() else { continue };
        let live = shared.images.lock().get(&toc).and_then(Weak::upgrade);
        let presence = live.map_or_else(Presence::default, |core| core.presence());
        match artifact::disk_bytes(&entry.path()) {
            Ok(disk_bytes) => found.push(LayerUsage { toc, disk_bytes, presence }),
            // Removed since the directory was read.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    found.sort_by_key(|usage| usage.toc);
    Ok(found)
}

#[cfg(test)]
mod tests;
