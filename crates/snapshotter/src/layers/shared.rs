//! Layers that are open, each once, however many snapshots show it.
use std::{collections::HashMap, path::PathBuf, sync::Arc};

use bolide_core::{
    ChunkCache, Digest, LayerStatus, LayerStore, LayerView, Prefetcher, Result, Scheduler,
};
use bolide_fetch::FallbackSource;
use bolide_fs::{Layer, ReadConfig, WorkerPool};
use bolide_prefetch::{
    BackgroundPolicy, Driver, LandmarkPolicy, NeighbourPolicy, SequentialPolicy,
};
use tokio::sync::Mutex;

use super::{
    open::ReadyLayer,
    whole::{Verdict, WholeCheck},
};

/// What layers are composed from; there is one of each on a node.
#[derive(Clone, Debug)]
pub(super) struct Parts {
    pub(super) store: Arc<dyn LayerStore>,
    pub(super) scheduler: Arc<dyn Scheduler>,
    pub(super) caches: Vec<Arc<dyn ChunkCache>>,
    pub(super) driver: Arc<Driver>,
    pub(super) workers: WorkerPool,
    /// Where whole blobs are checked, one at a time: that takes seconds, and readers do not wait.
    pub(super) checks: WorkerPool,
    pub(super) read: ReadConfig,
    /// Whether what is missing is fetched while nothing else needs the network.
    pub(super) background: bool,
    /// Whether small files beside those that are read are fetched as well.
    pub(super) neighbours: bool,
    /// Directory in which blobs are kept until they are whole and were checked; `None` to check none.
    pub(super) spool: Option<PathBuf>,
}

/// One blob under one TOC.
type Key = (Digest, Digest);

#[derive(Debug)]
struct Held {
    layer: Arc<Layer>,
    source: FallbackSource,
    check: Arc<WholeCheck>,
    holders: usize,
}

/// A layer that somebody holds, until it is given back.
#[derive(Clone, Debug)]
pub(super) struct OpenLayer {
    key: Key,
    layer: Arc<Layer>,
    check: Arc<WholeCheck>,
}

impl OpenLayer {
    pub(super) fn view(&self) -> LayerView {
        self.layer.view()
    }

    pub(super) fn status(&self) -> LayerStatus {
        self.layer.status()
    }

    pub(super) fn toc(&self) -> Digest {
        self.key.0
    }

    /// What a check of the whole blob found, once it was made.
    pub(super) fn verdict(&self) -> Option<Verdict> {
        self.check.verdict()
    }
}

/// The open layers of a node.
#[derive(Debug)]
pub(super) struct SharedLayers {
    pub(super) parts: Parts,
    /// Held while a layer is composed or taken apart: local work of milliseconds.
    held: Mutex<HashMap<Key, Held>>,
}

impl SharedLayers {
    pub(super) fn new(parts: Parts) -> Self {
        Self { parts, held: Mutex::default() }
    }

    /// Composes a layer, or adds a source and a holder to the one that is open.
    pub(super) async fn hold(&self, ready: ReadyLayer, prefetch: u64) -> Result<OpenLayer> {
        let toc = bolide_core::TocIndex::digest(&*ready.index);
        let key = (toc, ready.source.digest());
        let mut held = self.held.lock().await;
        if let Some(known) = held.get_mut(&key) {
            known.source.add(ready.source)?;
            known.holders += 1;
            let (layer, check) = (Arc::clone(&known.layer), Arc::clone(&known.check));
            return Ok(OpenLayer { key, layer, check });
        }
        let source = FallbackSource::new(ready.source);
        let check = WholeCheck::begin(&self.parts, &ready.index, &source, ready.tail).await;
        let mut builder = Layer::builder()
            .source(check.source())
            .index(ready.index)
            .store(Arc::clone(&self.parts.store))
            .scheduler(Arc::clone(&self.parts.scheduler))
            .access(check.access())
            .workers(self.parts.workers.clone())
            .read_config(self.parts.read);
        for cache in &self.parts.caches {
            builder = builder.cache(Arc::clone(cache));
        }
        for policy in self.policies(prefetch) {
            builder = builder.prefetch(policy);
        }
        let layer = Arc::new(builder.build().await?);
        check.watch(&layer);
        // Before it is mounted: prefetch does not wait for the mount.
        self.parts.driver.add_layer(layer.view(), layer.take_prefetchers());
        let open = OpenLayer { key, layer: Arc::clone(&layer), check: Arc::clone(&check) };
        held.insert(key, Held { layer, source, check, holders: 1 });
        drop(held);
        if let Some(learned) = ready.learned {
            learned.keep(&*self.parts.store, toc).await;
        }
        Ok(open)
    }

    fn policies(&self, prefetch: u64) -> Vec<Box<dyn Prefetcher>> {
        let mut policies: Vec<Box<dyn Prefetcher>> =
            vec![Box::new(LandmarkPolicy::new(prefetch)), Box::new(SequentialPolicy::new())];
        if self.parts.neighbours {
            policies.push(Box::new(NeighbourPolicy::new()));
        }
        if self.parts.background {
            policies.push(Box::new(BackgroundPolicy::new()));
        }
        policies
    }

    /// Gives a layer back. The last holder closes it and, unless it is kept, frees its disk space.
    pub(super) async fn give_back(&self, layer: OpenLayer, keep: bool) {
        let mut held = self.held.lock().await;
        let Some(known) = held.get_mut(&layer.key) else { return };
        known.holders -= 1;
        if known.holders > 0 {
            return;
        }
        held.remove(&layer.key);
        let toc = layer.toc();
        self.parts.driver.remove_layer(toc);
        layer.check.end().await;
        layer.layer.close().await;
        let twin = held.keys().any(|(other, _)| *other == toc);
        // Within the lock: a layer that is opened again meanwhile would lose its new image.
        if !keep
            && !twin
            && let Err(error) = self.parts.store.remove(toc).await
        {
            tracing::warn!(%toc, %error, "a layer's data stays on disk");
        }
    }
}
