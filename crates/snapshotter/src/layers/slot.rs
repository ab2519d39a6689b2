//! One snapshot that shows a layer, and how it fares.
use std::{path::PathBuf, sync::Arc};

use bolide_core::{Digest, Error, Mounted};
use bolide_estargz::TocTrust;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::{shared::OpenLayer, whole::Verdict};
use crate::{LayerReport, labels::RemoteLayerRequest};

/// A layer that is mounted.
#[derive(Clone, Debug)]
pub(super) struct Shown {
    pub(super) layer: OpenLayer,
    /// On what ground its TOC is believed.
    pub(super) trust: TocTrust,
    pub(super) mounted: Arc<dyn Mounted>,
    pub(super) mounter: &'static str,
    /// Ends the task that waits for the mount's end.
    pub(super) watch: CancellationToken,
}

/// Whether a snapshot shows its layer.
#[derive(Clone, Debug)]
pub(super) enum State {
    /// It is being mounted.
    Pending,
    /// It does.
    Shown(Shown),
    /// It should, and does not.
    Broken(Error),
}

/// One snapshot.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) id: String,
    pub(super) request: RemoteLayerRequest,
    pub(super) target: PathBuf,
    /// Held while it is mounted or unmounted.
    pub(super) turn: tokio::sync::Mutex<()>,
    state: Mutex<State>,
}

impl Slot {
    pub(super) fn new(id: &str, request: RemoteLayerRequest, target: PathBuf) -> Arc<Self> {
        let (turn, state) = (tokio::sync::Mutex::new(()), Mutex::new(State::Pending));
        Arc::new(Self { id: id.to_owned(), request, target, turn, state })
    }

    pub(super) fn state(&self) -> State {
        self.state.lock().clone()
    }

    pub(super) fn set(&self, state: State) {
        *self.state.lock() = state;
    }

    /// Notes that a mount ended, unless another has taken its place.
    pub(super) fn lose(&self, lost: &Arc<dyn Mounted>, error: Error) -> Option<Shown> {
        let mut state = self.state.lock();
        let State::Shown(shown) = &*state else { return None };
        if !Arc::ptr_eq(&shown.mounted, lost) {
            return None;
        }
        let shown = shown.clone();
        *state = State::Broken(error);
        Some(shown)
    }

    /// Whether a check found the layer that the image names. A snapshot's name says its diffID, with
    /// that of its parent (image-spec, "Layer `ChainID`"); other names say nothing.
    fn agrees(&self, verdict: &Verdict) -> bool {
        let Verdict::Checked { diff_id, disagreements } = verdict else { return false };
        let parent = self.request.parent.rsplit('/').next().unwrap_or_default();
        let chain = match parent {
            "" => *diff_id,
            parent => Digest::of(format!("{parent} {diff_id}").as_bytes()),
        };
        let named = self.request.target.parse::<Digest>().ok();
        disagreements.is_empty() && named.is_none_or(|named| named == chain)
    }

    pub(super) fn report(&self) -> LayerReport {
        let request = &self.request;
        let report = LayerReport {
            snapshot_id: self.id.clone(),
            chain_id: request.target.clone(),
            reference: request.reference.clone(),
            blob: request.layer_digest.to_string(),
            toc: request.trust.and_then(TocTrust::digest).map(|toc| toc.to_string()),
            ..LayerReport::default()
        };
        match self.state() {
            State::Pending => report,
            State::Broken(error) => LayerReport { error: Some(error.to_string()), ..report },
            State::Shown(shown) => {
                let status = shown.layer.status();
                LayerReport {
                    toc: Some(status.toc.to_string()),
                    mounter: Some(shown.mounter.to_owned()),
                    blob_size: status.blob_size,
                    fetched_bytes: status.fetched_bytes,
                    present_bytes: status.presence.bytes,
                    total_bytes: status.presence.bytes_total,
                    whole: shown.layer.verdict().map(|verdict| self.agrees(&verdict)),
                    error: status.error,
                    ..report
                }
            }
        }
    }
}
