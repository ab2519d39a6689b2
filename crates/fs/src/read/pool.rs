//! Where inflating, hashing and file I/O run.
use std::sync::Arc;

use bolide_core::{Error, ErrorKind, Priority, Result};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::flights::Urgency;

/// A bounded number of threads for work that blocks or computes.
#[derive(Clone, Debug)]
pub struct WorkerPool {
    permits: Arc<Semaphore>,
    /// Work that nobody is blocked on holds one of these as well, from before it queues: so that a
    /// blocked reader's waits for what runs, and not for all that was fetched ahead.
    ahead: Arc<Semaphore>,
}

impl WorkerPool {
    /// Lets `threads` pieces of work run at once, at least 1.
    #[must_use]
    pub fn new(threads: usize) -> Self {
        let semaphore = || Arc::new(Semaphore::new(threads.max(1)));
        Self { permits: semaphore(), ahead: semaphore() }
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

    /// The same, for work that may be less urgent than that of others, and may become as urgent.
    pub(super) async fn run_in_turn<T: Send + 'static>(
        &self,
        urgency: &mut Urgency,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let turn = self.turn(urgency).await;
        let in_turn = move || {
            let done = work();
            drop(turn);
            done
        };
        self.run(in_turn).await
    }

    /// Waits for a turn among work fetched ahead; `None` as soon as somebody is blocked on it.
    async fn turn(&self, urgency: &mut Urgency) -> Option<OwnedSemaphorePermit> {
        let ahead = Arc::clone(&self.ahead).acquire_owned();
        tokio::select! {
            biased;
            _ = urgency.wait_for(|urgency| *urgency == Priority::OnDemand) => None,
            // The semaphore is never closed; were it, working at once would still be right.
            turn = ahead => turn.ok(),
        }
    }
}

impl Default for WorkerPool {
    fn default() -> Self {
        Self::new(std::thread::available_parallelism().map_or(2, std::num::NonZero::get))
    }
}

#[cfg(test)]
mod tests {
    use futures::future::join_all;
    use parking_lot::Mutex;
    use tokio::sync::watch;

    use super::*;

    #[tokio::test]
    async fn what_a_reader_waits_for_overtakes_what_was_fetched_ahead() {
        let pool = WorkerPool::new(1);
        let order: Arc<Mutex<Vec<usize>>> = Arc::default();
        let work = |name| {
            let order = Arc::clone(&order);
            move || {
                order.lock().push(name);
                Ok(())
            }
        };
        let (release, held) = std::sync::mpsc::channel::<()>();
        let busy = pool.run(move || Ok(held.recv().is_ok()));
        let wishes: Vec<_> = (0..10).map(|_| watch::channel(Priority::Prefetch)).collect();
        let ahead = wishes.iter().enumerate().map(|(name, (_, urgency))| {
            let (pool, mut urgency, work) = (&pool, urgency.clone(), work(name));
            async move { pool.run_in_turn(&mut urgency, work).await }
        });
        let (_sender, mut now) = watch::channel(Priority::OnDemand);
        let urgent = pool.run_in_turn(&mut now, work(100));
        let last = async {
            // Somebody comes to wait for the ninth.
            wishes[9].0.send_replace(Priority::OnDemand);
            tokio::task::yield_now().await;
            release.send(()).expect("waits");
        };
        let (busy, ahead, urgent, ()) = tokio::join!(busy, join_all(ahead), urgent, last);
        assert!(busy.expect("ran") && ahead.iter().all(Result::is_ok) && urgent.is_ok());
        let order = order.lock().clone();
        // One was about to run.
        assert_eq!(order[..3], [0, 100, 9], "{order:?}");
        assert_eq!(order.len(), 11);
    }
}
