//! Composes a layer from its parts.
use std::sync::Arc;

use bolide_core::{
    AccessSink, BlobSource, ChunkCache, Error, ErrorKind, LayerStatus, LayerStore, LayerView,
    Prefetcher, Result, Scheduler, StatusSource as _, TocIndex, memory::DirectScheduler,
};
use parking_lot::Mutex;

use crate::read::{Parts, Pipeline, ReadConfig, WorkerPool};

/// A layer, ready to be mounted.
#[derive(Debug)]
pub struct Layer {
    view: LayerView,
    pipeline: Pipeline,
    /// Behind a lock because policies need not be shareable, and a layer is.
    prefetchers: Mutex<Vec<Box<dyn Prefetcher>>>,
}

impl Layer {
    /// Starts to compose a layer. Source, index and store are required.
    #[must_use]
    pub fn builder() -> LayerBuilder {
        LayerBuilder::default()
    }

    /// What a mounter needs.
    #[must_use]
    pub fn view(&self) -> LayerView {
        self.view.clone()
    }

    /// Its state.
    #[must_use]
    pub fn status(&self) -> LayerStatus {
        self.pipeline.status()
    }

    /// The prefetch policies it was given, for the driver that serves its image. Once.
    pub fn take_prefetchers(&self) -> Vec<Box<dyn Prefetcher>> {
        std::mem::take(&mut *self.prefetchers.lock())
    }

    /// Stops fetches under way and waits for their end. Call it once nothing reads the layer any
    /// more: a read of absent data fails as `Unavailable` from here on.
    pub async fn close(&self) {
        self.pipeline.close().await;
    }
}

/// Composes a [`Layer`].
#[derive(Debug, Default)]
pub struct LayerBuilder {
    source: Option<Arc<dyn BlobSource>>,
    index: Option<Arc<dyn TocIndex>>,
    store: Option<Arc<dyn LayerStore>>,
    scheduler: Option<Arc<dyn Scheduler>>,
    caches: Vec<Arc<dyn ChunkCache>>,
    access: Option<Arc<dyn AccessSink>>,
    prefetchers: Vec<Box<dyn Prefetcher>>,
    workers: WorkerPool,
    config: ReadConfig,
}

impl LayerBuilder {
    /// Where compressed bytes come from. Required.
    #[must_use]
    pub fn source(mut self, source: Arc<dyn BlobSource>) -> Self {
        self.source = Some(source);
        self
    }

    /// The layer's tree. Required.
    #[must_use]
    pub fn index(mut self, index: Arc<dyn TocIndex>) -> Self {
        self.index = Some(index);
        self
    }

    /// Where verified bytes rest. Required.
    #[must_use]
    pub fn store(mut self, store: Arc<dyn LayerStore>) -> Self {
        self.store = Some(store);
        self
    }

    /// Orders requests; the node's one. Without it each request goes out at once.
    #[must_use]
    pub fn scheduler(mut self, scheduler: Arc<dyn Scheduler>) -> Self {
        self.scheduler = Some(scheduler);
        self
    }

    /// A tier asked before the network; several are asked in the order given.
    #[must_use]
    pub fn cache(mut self, cache: Arc<dyn ChunkCache>) -> Self {
        self.caches.push(cache);
        self
    }

    /// Who takes note of reads.
    #[must_use]
    pub fn access(mut self, access: Arc<dyn AccessSink>) -> Self {
        self.access = Some(access);
        self
    }

    /// A prefetch policy.
    #[must_use]
    pub fn prefetch(mut self, policy: Box<dyn Prefetcher>) -> Self {
        self.prefetchers.push(policy);
        self
    }

    /// Where inflating and file I/O run; shared by the layers of a node.
    #[must_use]
    pub fn workers(mut self, workers: WorkerPool) -> Self {
        self.workers = workers;
        self
    }

    /// How reads behave.
    #[must_use]
    pub fn read_config(mut self, config: ReadConfig) -> Self {
        self.config = config;
        self
    }

    /// Opens the layer image. `Config` when a required part is missing.
    pub async fn build(self) -> Result<Layer> {
        let index = self.index.ok_or_else(|| missing("index"))?;
        let store = self.store.ok_or_else(|| missing("store"))?;
        let source = self.source.ok_or_else(|| missing("source"))?;
        let image = store.open(index.image_spec()?).await?;
        let pipeline = Pipeline::new(Parts {
            index: Arc::clone(&index),
            image: Arc::clone(&image),
            store,
            source,
            scheduler: self.scheduler.unwrap_or_else(|| Arc::new(DirectScheduler)),
            caches: self.caches,
            access: self.access,
            workers: self.workers,
            config: self.config,
        });
        let reader = Arc::new(pipeline.clone());
        let view = LayerView {
            toc: index,
            reader: Arc::<Pipeline>::clone(&reader),
            image,
            status: reader,
        };
        Ok(Layer { view, pipeline, prefetchers: Mutex::new(self.prefetchers) })
    }
}

fn missing(part: &'static str) -> Error {
    Error::new(ErrorKind::Config, "layer::build", "a layer needs a source, an index and a store")
        .with_context("missing", part)
}
