//! Interruption: work that is dropped when somebody wants this process to end.
use anyhow::{Context as _, Result, bail};
use tokio::signal::unix::{SignalKind, signal};

/// Drops the work, and fails, when somebody wants this process to end.
pub(crate) async fn until_interrupted<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::select! {
        done = work => done,
        interrupt = interrupted() => {
            interrupt.context("cannot listen for signals")?;
            bail!("interrupted")
        }
    }
}

/// Waits until somebody wants this process to end.
async fn interrupted() -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        interrupt = tokio::signal::ctrl_c() => interrupt,
        _ = terminate.recv() => Ok(()),
    }
}
