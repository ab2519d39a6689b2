//! Layers mounted lazily: from the labels of a snapshot to a file system.
//!
//! Nothing here names a backend: [`assembly`](crate::assembly) does.
mod ahead;
mod manifests;
mod node;
mod open;
mod places;
mod shared;
mod slot;
mod whole;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use bolide_core::{
    ChunkCache, Error, ErrorKind, LayerStore, MountOptions, Mounter, Result, Scheduler,
};
use bolide_fs::{ReadConfig, WorkerPool};
use bolide_prefetch::Driver;

use crate::{LayerReport, MountedInfo, RemoteLayerRequest, RemoteLayers};
use node::{Inner, Network};
use slot::State;

pub use places::{ManifestName, Places};

/// What lazily mounted layers are made of. Everything is shared by the layers of a node.
#[derive(Debug)]
pub struct LayerParts {
    /// Where blobs are.
    pub places: Arc<dyn Places>,
    /// Where verified bytes rest.
    pub store: Arc<dyn LayerStore>,
    /// Orders requests.
    pub scheduler: Arc<dyn Scheduler>,
    /// Tiers asked before the network, in this order.
    pub caches: Vec<Arc<dyn ChunkCache>>,
    /// Carries out prefetch policies.
    pub driver: Arc<Driver>,
    /// Shows layers.
    pub mounter: Arc<dyn Mounter>,
    /// Where inflating, indexing and file I/O run.
    pub workers: WorkerPool,
}

/// How lazily mounted layers behave.
#[derive(Clone, Debug)]
pub struct LayerOptions {
    /// How reads behave.
    pub read: ReadConfig,
    /// How layers are shown.
    pub mount: MountOptions,
    /// Whether a layer without a TOC digest is mounted unverified.
    pub allow_no_verification: bool,
    /// Whether what is missing is fetched while nothing else needs the network.
    pub background: bool,
    /// Whether small files beside those that are read are fetched as well.
    pub neighbours: bool,
    /// Bytes of a layer's start to prefetch when neither image nor label says.
    pub fallback_prefetch: u64,
    /// Longest time a container's start waits for prefetch.
    pub prefetch_wait: Duration,
    /// Directory in which blobs are kept until they are whole and were checked; `None` to check none.
    pub spool: Option<PathBuf>,
}

/// The [`RemoteLayers`] of a node.
#[derive(Clone, Debug)]
pub struct NodeLayers(Arc<Inner>);

impl NodeLayers {
    /// Shows layers made of `parts`.
    #[must_use]
    pub fn new(parts: LayerParts, options: LayerOptions) -> Self {
        Self(Inner::new(parts, options))
    }
}

#[async_trait]
impl RemoteLayers for NodeLayers {
    async fn mount(
        &self,
        id: &str,
        request: &RemoteLayerRequest,
        target: &Path,
    ) -> Result<MountedInfo> {
        let layers = &self.0;
        loop {
            let slot = layers.slot(id, request, target)?;
            let Some(_turn) = layers.turn(&slot).await else { continue };
            let shown = layers.show(&slot, Network::Allowed).await;
            let shown = shown.inspect_err(|_| layers.forget(&slot))?;
            let (toc, trust) = (shown.layer.toc(), shown.trust);
            return Ok(MountedInfo { toc, trust, mounter: shown.mounter });
        }
    }

    async fn restore(&self, id: &str, request: &RemoteLayerRequest, target: &Path) -> Result<()> {
        loop {
            let slot = self.0.slot(id, request, target)?;
            let Some(_turn) = self.0.turn(&slot).await else { continue };
            // A start must not wait for a registry: what the disk does not know is opened when a
            // container needs it.
            let shown = self.0.show(&slot, Network::Forbidden).await;
            return shown.map(drop).inspect_err(|error| slot.set(State::Broken(error.clone())));
        }
    }

    async fn unmount(&self, id: &str) -> Result<()> {
        while let Some(slot) = self.0.find(id) {
            if let Some(_turn) = self.0.turn(&slot).await {
                return self.0.hide(&slot, false).await;
            }
        }
        Ok(())
    }

    async fn check(&self, id: &str) -> Result<()> {
        let missing = || {
            Error::new(ErrorKind::Unavailable, "layers::check", "no layer is mounted under this id")
                .with_context("id", id)
        };
        let slot = self.0.find(id).ok_or_else(missing)?;
        let turn = self.0.turn(&slot).await.ok_or_else(missing)?;
        let shown = self.0.show(&slot, Network::Allowed).await.map_err(|error| {
            slot.set(State::Broken(error.clone()));
            Error::new(ErrorKind::Unavailable, "layers::check", "the layer cannot be mounted")
                .with_context("id", id)
                .with_context("layer", slot.request.layer_digest)
                .with_context("cause", &error)
                .with_source(error)
        })?;
        drop(turn);
        let wait = self.0.options.prefetch_wait;
        if !wait.is_zero() && !self.0.driver.prefetched(shown.layer.toc(), wait).await {
            tracing::info!(id, "the start goes on before everything was prefetched");
        }
        Ok(())
    }

    fn status(&self) -> Vec<LayerReport> {
        self.0.reports()
    }

    async fn shutdown(&self) {
        self.0.shutdown().await;
    }
}

#[cfg(test)]
mod tests;
