//! One fetch of a member, however many wait for it.
use std::{collections::HashMap, future::Future, pin::Pin, sync::Arc};

use bolide_core::{Error, ErrorKind, Priority, Result};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

type Answer = watch::Receiver<Option<Result<()>>>;

/// How urgent a fetch under way is, as the most urgent of those who wait for it.
pub(super) type Urgency = watch::Receiver<Priority>;

/// The work of one fetch.
pub(super) type Work = Pin<Box<dyn Future<Output = Result<()>> + Send>>;

/// Fetches under way, by the start of their member.
#[derive(Clone, Debug, Default)]
pub(super) struct Flights {
    under_way: Arc<Mutex<HashMap<u64, Flight>>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

#[derive(Debug)]
struct Flight {
    answer: Answer,
    urgency: watch::Sender<Priority>,
}

impl Flights {
    /// Waits for the fetch of a member, starting it when nobody has.
    ///
    /// The work is a task of its own: a reader that goes away does not waste it for the others.
    /// One that is in more of a hurry than those who wait already raises its urgency.
    pub(super) async fn join(
        &self,
        member: u64,
        priority: Priority,
        work: impl FnOnce(Urgency) -> Work,
    ) -> Result<()> {
        let mut answer = self.answer(member, priority, work);
        let found = answer.wait_for(Option::is_some).await.map_err(|_| stopped())?;
        found.clone().unwrap_or_else(|| Err(stopped()))
    }

    fn answer(
        &self,
        member: u64,
        priority: Priority,
        work: impl FnOnce(Urgency) -> Work,
    ) -> Answer {
        let mut under_way = self.under_way.lock();
        if let Some(flight) = under_way.get(&member) {
            flight.urgency.send_if_modified(|held| {
                let raised = priority < *held;
                *held = priority.min(*held);
                raised
            });
            return flight.answer.clone();
        }
        let (sender, answer) = watch::channel(None);
        let (urgency, watched) = watch::channel(priority);
        under_way.insert(member, Flight { answer: answer.clone(), urgency });
        let (work, stop) = (work(watched), self.stop.clone());
        let landing = Landing { member, under_way: Arc::clone(&self.under_way) };
        self.tasks.spawn(async move {
            let result = stop.run_until_cancelled(work).await;
            // First out of the list, then the answer: whoever comes between finds the chunks.
            drop(landing);
            sender.send_replace(Some(result.unwrap_or_else(|| Err(stopped()))));
        });
        answer
    }

    /// Does `work`, unless [`close`](Self::close) stops it.
    pub(super) async fn unless_stopped<T>(&self, work: impl Future<Output = T>) -> Result<T> {
        self.stop.run_until_cancelled(work).await.ok_or_else(stopped)
    }

    /// Stops what is under way and waits until it has ended; nothing new gets anywhere.
    pub(super) async fn close(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

fn stopped() -> Error {
    Error::new(ErrorKind::Unavailable, "flights::join", "the fetch was stopped: the layer closes")
}

/// Takes a member off the list, also when its work panics.
struct Landing {
    member: u64,
    under_way: Arc<Mutex<HashMap<u64, Flight>>>,
}

impl Drop for Landing {
    fn drop(&mut self) {
        self.under_way.lock().remove(&self.member);
    }
}
