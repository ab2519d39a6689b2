//! Where inflating, hashing and file I/O run.
use std::sync::Arc;

use bolide_core::{Error, ErrorKind, Result};
use tokio::sync::Semaphore;

/// A bounded number of threads for work that blocks or computes.
#[derive(Clone, Debug)]
pub struct WorkerPool {
    permits: Arc<Semaphore>,
}

impl WorkerPool {
    /// Lets `threads` pieces of work run at once, at least 1.
    #[must_use]
    pub fn new(threads: usize) -> Self {
        Self { permits: Arc::new(Semaphore::new(threads.max(1))) }
    }

    /// Runs `work` and waits for it. A panic in it becomes `Unexpected`.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let failed = |error: String| Error::new(ErrorKind::Unexpected, "worker_pool::run", error);
        let permit = Arc::clone(&self.permits).acquire_owned().await;
        let permit = permit.map_err(|error| failed(error.to_string()))?;
        let done = tokio::task::spawn_blocking(move || {
            let done = work();
            drop(permit);
            done
        });
        done.await.unwrap_or_else(|error| Err(failed(error.to_string())))
    }
}

impl Default for WorkerPool {
    fn default() -> Self {
        Self::new(std::thread::available_parallelism().map_or(2, std::num::NonZero::get))
    }
}
