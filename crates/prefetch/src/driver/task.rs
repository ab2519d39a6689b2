//! The task of one layer.
use std::{sync::Arc, time::Duration};

use bolide_core::{AccessEvent, FetchTarget, FileReader, LayerView, Prefetcher, Result, TocIndex};
use futures::{
    StreamExt as _,
    future::{BoxFuture, FutureExt as _, pending},
    stream::FuturesUnordered,
};
use tokio::sync::{mpsc, watch};
use tracing::{Instrument as _, Span};

use super::{fills::Fills, lanes::Lanes};

/// Hints of one layer carried out at once while it is read: a reader meets the next file before what
/// was hinted at for this one has made its round trip.
const AHEAD: usize = 4;

/// How far what was hinted at when the layer was added has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Start {
    /// Fills are waiting or running.
    Running,
    /// Everything is there.
    Complete,
    /// Everything was tried, and something failed.
    Failed,
}

/// What the background lane did.
enum Background {
    /// A hint was carried out, or given up.
    Done,
    /// There was no hint, and nobody has read for this long.
    Idle(Duration),
}

/// Runs the policies of one layer and carries out their hints.
pub(super) struct LayerTask {
    toc: Arc<dyn TocIndex>,
    reader: Arc<dyn FileReader>,
    policies: Vec<Box<dyn Prefetcher>>,
    lanes: Lanes,
    fills: Arc<Fills>,
    progress: watch::Sender<Start>,
    /// From when the layer was added until what was hinted at then was carried out; a child of
    /// what added it.
    span: Span,
    failed: bool,
    /// Whether policies may have something to say when told that the layer is idle: they said
    /// something the last time, or something happened since.
    ask_when_idle: bool,
}

impl LayerTask {
    pub(super) fn new(
        layer: LayerView,
        policies: Vec<Box<dyn Prefetcher>>,
        fills: Arc<Fills>,
        progress: watch::Sender<Start>,
    ) -> Self {
        Self {
            lanes: Lanes::new(layer.toc.digest()),
            span: tracing::info_span!("prefetch", toc = %layer.toc.digest()),
            toc: layer.toc,
            reader: layer.reader,
            policies,
            fills,
            progress,
            failed: false,
            ask_when_idle: true,
        }
    }

    /// Runs until dropped.
    pub(super) async fn run(mut self, mut events: mpsc::Receiver<AccessEvent>) {
        self.start().await;
        let mut start: Option<BoxFuture<'static, Result<()>>> = None;
        let mut ahead: FuturesUnordered<BoxFuture<'static, Result<()>>> = FuturesUnordered::new();
        let mut background: Option<BoxFuture<'static, Background>> = None;
        loop {
            if start.is_none() {
                let next = self.lanes.start.pop_front().map(|target| self.prefetch(target));
                start = next.map(|fill| fill.instrument(self.span.clone()).boxed());
                if start.is_none() {
                    self.end_start();
                }
            }
            while ahead.len() < AHEAD
                && let Some(target) = self.lanes.ahead.pop_front()
            {
                ahead.push(self.prefetch(target));
            }
            // What will be used at start goes before what may never be.
            if background.is_none() && start.is_none() && ahead.is_empty() {
                background = self.next_background();
            }
            tokio::select! {
                event = events.recv() => match event {
                    Some(event) => self.observe(&event),
                    None => return,
                },
                filled = ended(&mut start) => self.failed |= filled.is_err(),
                Some(_) = ahead.next() => {}
                done = ended(&mut background) => if let Background::Idle(since) = done {
                    self.observe(&AccessEvent::Idle { since });
                    self.ask_when_idle = !self.lanes.background.is_empty();
                },
            }
        }
    }

    /// Starts the policies where blocking is allowed: some walk the whole index.
    async fn start(&mut self) {
        let toc = Arc::clone(&self.toc);
        let mut policies = std::mem::take(&mut self.policies);
        let mut lanes = Lanes::new(toc.digest());
        let started = tokio::task::spawn_blocking(move || {
            for policy in &mut policies {
                policy.start(&*toc, &mut lanes);
            }
            (policies, lanes)
        });
        match started.await {
            Ok((policies, lanes)) => (self.policies, self.lanes) = (policies, lanes),
            Err(error) => {
                self.failed = true;
                tracing::error!(layer = %self.toc.digest(), %error, "a prefetch policy did not start; the layer is not prefetched");
            }
        }
        self.lanes.end_start();
    }

    fn observe(&mut self, event: &AccessEvent) {
        self.ask_when_idle = true;
        for policy in &mut self.policies {
            policy.observe(&*self.toc, event, &mut self.lanes);
        }
    }

    fn prefetch(&self, target: FetchTarget) -> BoxFuture<'static, Result<()>> {
        Arc::clone(&self.fills).prefetch(Arc::clone(&self.reader), target).boxed()
    }

    fn next_background(&mut self) -> Option<BoxFuture<'static, Background>> {
        let fills = Arc::clone(&self.fills);
        if let Some(target) = self.lanes.background.pop_front() {
            let reader = Arc::clone(&self.reader);
            return Some(fills.background(reader, target).map(|()| Background::Done).boxed());
        }
        self.ask_when_idle.then(|| async move { Background::Idle(fills.idle().await) }.boxed())
    }

    fn end_start(&mut self) {
        self.span = Span::none();
        let end = if self.failed { Start::Failed } else { Start::Complete };
        self.progress.send_if_modified(|start| {
            let running = *start == Start::Running;
            if running {
                *start = end;
            }
            running
        });
    }
}

/// Waits for what a lane carries out and empties the lane; for ever when it is empty.
async fn ended<T>(lane: &mut Option<BoxFuture<'static, T>>) -> T {
    match lane {
        Some(running) => {
            let done = running.await;
            *lane = None;
            done
        }
        None => pending().await,
    }
}
