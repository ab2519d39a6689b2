//! Interruption: work that is dropped when somebody wants this process to end.
use anyhow::{Context as _, Result, bail};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Drops the work, and fails, when somebody wants this process to end.
pub(crate) async fn until_interrupted<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    Signals::listen()?.bound(work).await
}

/// What asks this process to end, for work that must be ended in good order: from when it is listened
/// for, nothing else ends it.
#[derive(Debug)]
pub(crate) struct Signals {
    pub(crate) interrupts: Signal,
    pub(crate) terminates: Signal,
}

impl Signals {
    pub(crate) fn listen() -> Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self {
            interrupts: listen(SignalKind::interrupt())?,
            terminates: listen(SignalKind::terminate())?,
        })
    }

    /// Drops the work, and fails, when somebody wants this process to end.
    pub(crate) async fn bound<T>(&mut self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            done = work => done,
            () = self.next() => bail!("interrupted"),
        }
    }

    /// Waits until somebody wants this process to end.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupts.recv() => {}
            _ = self.terminates.recv() => {}
        }
    }
}
