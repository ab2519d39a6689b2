//! Feeds policies with what happens on layers, and fills layers with what they hint at.
mod fills;
mod lanes;
mod task;

use std::{collections::HashMap, fmt, sync::Arc, time::Duration};

use bolide_core::{AccessEvent, AccessSink, Digest, LayerView, Prefetcher};
use parking_lot::RwLock;
use tokio::{
    runtime::Handle,
    sync::{mpsc, watch},
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use fills::Fills;
use task::{LayerTask, Start};

/// How a driver works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DriverConfig {
    /// Events that wait for a layer's policies; what comes beyond is dropped. At least 1.
    pub event_queue: usize,
    /// Prefetch hints carried out at once, of all layers. At least 1.
    pub prefetch_fills: usize,
    /// Background hints carried out at once, of all layers. At least 1.
    pub background_fills: usize,
    /// How long nothing must have been read, of any layer, before background hints are carried out.
    pub background_delay: Duration,
    /// Wait before a background hint is tried again after a failure that may pass. It doubles with
    /// every failure in a row.
    pub retry_delay: Duration,
    /// Longest wait before a background hint is tried again.
    pub max_retry_delay: Duration,
}

impl Default for DriverConfig {
    fn default() -> Self {
        Self {
            event_queue: 256,
            prefetch_fills: 8,
            background_fills: 1,
            background_delay: Duration::from_secs(5),
            retry_delay: Duration::from_secs(1),
            max_retry_delay: Duration::from_mins(1),
        }
    }
}

/// Carries out what prefetch policies hint at. There is one per node.
///
/// Every layer has a task of its own with three lanes: what its policies hinted at when it was
/// added, what they hint at while it is read, and the background. The second carries out four hints
/// at a time, the others one, in order. Dropping the driver, or [`shutdown`](Self::shutdown), ends all of them.
pub struct Driver {
    fills: Arc<Fills>,
    layers: RwLock<HashMap<Digest, Layer>>,
    tasks: TaskTracker,
    runtime: Handle,
    cancel: CancellationToken,
    event_queue: usize,
    /// Ends the tasks when the driver is dropped.
    _guard: DropGuard,
}

/// A layer that was added.
struct Layer {
    /// How often it was added and not yet removed.
    holders: usize,
    events: mpsc::Sender<AccessEvent>,
    start: watch::Receiver<Start>,
    cancel: CancellationToken,
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver").field("layers", &self.layers.read().len()).finish_non_exhaustive()
    }
}

impl Driver {
    /// Starts a driver without layers. Its tasks run on the current tokio runtime.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    #[must_use]
    pub fn start(config: DriverConfig) -> Arc<Self> {
        let cancel = CancellationToken::new();
        Arc::new(Self {
            event_queue: config.event_queue.max(1),
            fills: Arc::new(Fills::new(config)),
            layers: RwLock::default(),
            tasks: TaskTracker::new(),
            runtime: Handle::current(),
            _guard: cancel.clone().drop_guard(),
            cancel,
        })
    }

    /// Begins to prefetch a layer as `policies` say, the first first.
    ///
    /// A layer that was added before goes on as it is and must be removed once more.
    pub fn add_layer(&self, layer: LayerView, policies: Vec<Box<dyn Prefetcher>>) {
        let toc = layer.toc.digest();
        let mut layers = self.layers.write();
        if let Some(known) = layers.get_mut(&toc) {
            known.holders += 1;
            return;
        }
        let (events, inbox) = mpsc::channel(self.event_queue);
        let (progress, start) = watch::channel(Start::Running);
        let cancel = self.cancel.child_token();
        let task = LayerTask::new(layer, policies, Arc::clone(&self.fills), progress);
        let ended = cancel.clone();
        let run = async move {
            // Dropping the task withdraws its fills.
            let _ = ended.run_until_cancelled(task.run(inbox)).await;
        };
        self.tasks.spawn_on(run, &self.runtime);
        layers.insert(toc, Layer { holders: 1, events, start, cancel });
    }

    /// Stops prefetching a layer, once it was removed as often as it was added.
    pub fn remove_layer(&self, toc: Digest) {
        let mut layers = self.layers.write();
        let Some(layer) = layers.get_mut(&toc) else { return };
        layer.holders -= 1;
        if layer.holders == 0 {
            layer.cancel.cancel();
            layers.remove(&toc);
        }
    }

    /// Waits until what the policies hinted at when the layer was added is there, at most
    /// `timeout`. `false` when time ran out, a fill failed, or the layer was never added or
    /// was removed.
    pub async fn prefetched(&self, toc: Digest, timeout: Duration) -> bool {
        let Some(mut start) = self.layers.read().get(&toc).map(|layer| layer.start.clone()) else {
            return false;
        };
        let ended = start.wait_for(|start| *start != Start::Running);
        let outcome = tokio::time::timeout(timeout, ended).await;
        matches!(outcome, Ok(Ok(start)) if *start == Start::Complete)
    }

    /// Ends all tasks and waits for them. Layers added later are not prefetched.
    pub async fn shutdown(&self) {
        self.cancel.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl AccessSink for Driver {
    fn record(&self, layer: Digest, event: AccessEvent) {
        if matches!(event, AccessEvent::Read { .. }) {
            self.fills.touch();
        }
        if let Some(layer) = self.layers.read().get(&layer) {
            // A full queue means that policies lag behind; they are advisory, the reader is not.
            let _ = layer.events.try_send(event);
        }
    }
}
