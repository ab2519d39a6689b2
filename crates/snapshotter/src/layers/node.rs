//! The slots of a node: which snapshot shows which layer.
use std::{collections::BTreeMap, path::Path, sync::Arc};

use bolide_core::{Error, ErrorKind, MountRequest, Mounter, Result};
use bolide_fs::WorkerPool;
use bolide_prefetch::Driver;
use parking_lot::Mutex;
use tokio::sync::MutexGuard;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    LayerOptions, LayerParts, Places,
    ahead::Ahead,
    manifests::Manifests,
    open::Openings,
    shared::{Parts, SharedLayers},
    slot::{Shown, Slot, State},
};
use crate::{LayerReport, RemoteLayerRequest};

/// Whether the network may be asked for what the disk does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Network {
    Allowed,
    Forbidden,
}

#[derive(Debug)]
pub(super) struct Inner {
    places: Arc<dyn Places>,
    mounter: Arc<dyn Mounter>,
    pub(super) driver: Arc<Driver>,
    openings: Openings,
    pub(super) shared: SharedLayers,
    pub(super) options: LayerOptions,
    slots: Mutex<BTreeMap<String, Arc<Slot>>>,
    /// One task a mount, which waits for its end.
    pub(super) watches: TaskTracker,
    stop: CancellationToken,
}

impl Inner {
    pub(super) fn new(parts: LayerParts, options: LayerOptions) -> Arc<Self> {
        let openings = Openings {
            store: Arc::clone(&parts.store),
            workers: parts.workers.clone(),
            ahead: Ahead::new(),
            manifests: Manifests::new(Arc::clone(&parts.places), parts.workers.clone()),
            allow_no_verification: options.allow_no_verification,
        };
        let shared = SharedLayers::new(Parts {
            store: parts.store,
            scheduler: parts.scheduler,
            caches: parts.caches,
            driver: Arc::clone(&parts.driver),
            workers: parts.workers,
            checks: WorkerPool::new(1),
            read: options.read,
            background: options.background,
            neighbours: options.neighbours,
            spool: options.spool.clone(),
        });
        Arc::new(Self {
            places: parts.places,
            mounter: parts.mounter,
            driver: parts.driver,
            openings,
            shared,
            options,
            slots: Mutex::default(),
            watches: TaskTracker::new(),
            stop: CancellationToken::new(),
        })
    }

    /// The slot of an id, made when there is none.
    pub(super) fn slot(
        &self,
        id: &str,
        request: &RemoteLayerRequest,
        target: &Path,
    ) -> Result<Arc<Slot>> {
        let mut slots = self.slots.lock();
        let slot = slots
            .entry(id.to_owned())
            .or_insert_with(|| Slot::new(id, request.clone(), target.to_owned()));
        if slot.request == *request && slot.target == target {
            return Ok(Arc::clone(slot));
        }
        Err(Error::new(
            ErrorKind::AlreadyExists,
            "layers::mount",
            "another layer is mounted under this id, or elsewhere",
        )
        .with_context("id", id)
        .with_context("target", slot.target.display()))
    }

    pub(super) fn find(&self, id: &str) -> Option<Arc<Slot>> {
        self.slots.lock().get(id).map(Arc::clone)
    }

    /// Waits until it is the caller's turn to change a slot; `None` when the slot was forgotten
    /// meanwhile: what it shows then nobody would ever unmount.
    pub(super) async fn turn<'slot>(
        &self,
        slot: &'slot Arc<Slot>,
    ) -> Option<MutexGuard<'slot, ()>> {
        let turn = slot.turn.lock().await;
        let slots = self.slots.lock();
        slots.get(&slot.id).is_some_and(|held| Arc::ptr_eq(held, slot)).then_some(turn)
    }

    pub(super) fn forget(&self, slot: &Arc<Slot>) {
        let mut slots = self.slots.lock();
        if slots.get(&slot.id).is_some_and(|held| Arc::ptr_eq(held, slot)) {
            slots.remove(&slot.id);
        }
    }

    /// Makes a slot show its layer, whatever happened before. The caller has the slot's turn.
    pub(super) async fn show(
        self: &Arc<Self>,
        slot: &Arc<Slot>,
        network: Network,
    ) -> Result<Shown> {
        if let State::Shown(shown) = slot.state() {
            return Ok(shown);
        }
        let request = &slot.request;
        let opener = self.places.opener(&request.reference)?;
        let ready = self.openings.open(request, opener, network).await?;
        let trust = ready.trust;
        let prefetch = request.prefetch_size.unwrap_or(self.options.fallback_prefetch);
        let layer = self.shared.hold(ready, prefetch).await?;
        let mount = MountRequest {
            id: slot.id.clone(),
            layer: layer.view(),
            target: slot.target.clone(),
            options: self.options.mount.clone(),
        };
        let mounted = match self.mounter.mount(mount).await {
            Ok(mounted) => Arc::from(mounted),
            Err(error) => {
                self.shared.give_back(layer, false).await;
                return Err(error);
            }
        };
        let watch = self.stop.child_token();
        let shown = Shown { layer, trust, mounted, mounter: self.mounter.name(), watch };
        slot.set(State::Shown(shown.clone()));
        self.watch(slot, &shown);
        Ok(shown)
    }

    /// Notices when a mount ends that nobody asked to end.
    fn watch(self: &Arc<Self>, slot: &Arc<Slot>, shown: &Shown) {
        let (layers, slot) = (Arc::downgrade(self), Arc::downgrade(slot));
        let mounted = Arc::clone(&shown.mounted);
        let watch = shown.watch.clone();
        self.watches.spawn(async move {
            let Some(error) = watch.run_until_cancelled(mounted.lost()).await else { return };
            let (Some(layers), Some(slot)) = (layers.upgrade(), slot.upgrade()) else { return };
            tracing::error!(id = slot.id, %error, "a layer is no longer mounted; it is mounted again when it is needed");
            if let Some(shown) = slot.lose(&mounted, error) {
                layers.shared.give_back(shown.layer, true).await;
            }
        });
    }

    /// Unmounts a slot and forgets it. The caller has the slot's turn.
    pub(super) async fn hide(&self, slot: &Arc<Slot>, keep: bool) -> Result<()> {
        if let State::Shown(shown) = slot.state() {
            shown.mounted.unmount().await?;
            shown.watch.cancel();
            self.shared.give_back(shown.layer, keep).await;
        }
        self.forget(slot);
        Ok(())
    }

    /// Every slot, in the order of numbers.
    pub(super) fn reports(&self) -> Vec<LayerReport> {
        let mut reports: Vec<_> = self.slots.lock().values().map(|slot| slot.report()).collect();
        reports.sort_by(|a, b| {
            let order = |report: &LayerReport| report.snapshot_id.len();
            order(a).cmp(&order(b)).then_with(|| a.snapshot_id.cmp(&b.snapshot_id))
        });
        reports
    }

    /// Unmounts what is not in use and ends every task.
    pub(super) async fn shutdown(&self) {
        self.openings.ahead.clear();
        self.openings.manifests.clear();
        let slots: Vec<_> = self.slots.lock().values().map(Arc::clone).collect();
        for slot in slots {
            let Some(_turn) = self.turn(&slot).await else { continue };
            if let Err(error) = self.hide(&slot, true).await {
                tracing::warn!(id = slot.id, %error, "a layer stays mounted: something uses it");
            }
        }
        self.stop.cancel();
        self.watches.close();
        self.watches.wait().await;
    }
}
