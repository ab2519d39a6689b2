//! Ctrl-C: the sample under way is finished, and then everything is taken down in good order.
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use anyhow::{Result, ensure};
use tokio::{runtime::Runtime, signal::unix};

/// Whether somebody wants the run to end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Listens from now on, in place of ending at once.
    pub(crate) fn listen(runtime: &Runtime) -> Result<Self> {
        let interrupt = Self::default();
        let wanted = interrupt.clone();
        let _entered = runtime.enter();
        // Registered before anything is started, which is then left alone by the terminal.
        let mut signals = unix::signal(unix::SignalKind::interrupt())?;
        runtime.spawn(async move {
            while signals.recv().await.is_some() {
                eprintln!("bench: interrupted; this sample is finished first");
                wanted.0.store(true, Ordering::Relaxed);
            }
        });
        Ok(interrupt)
    }

    /// Fails once somebody interrupted.
    pub(crate) fn check(&self) -> Result<()> {
        ensure!(!self.0.load(Ordering::Relaxed), "interrupted");
        Ok(())
    }
}
