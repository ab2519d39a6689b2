//! One fetch of a member, however many wait for it.
use std::{collections::HashMap, future::Future, sync::Arc};

use bolide_core::{Error, ErrorKind, Result};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

type Answer = watch::Receiver<Option<Result<()>>>;

/// Fetches under way, by the start of their member.
#[derive(Clone, Debug, Default)]
pub(super) struct Flights {
    under_way: Arc<Mutex<HashMap<u64, Answer>>>,
    tasks: TaskTracker,
}

impl Flights {
    /// Waits for the fetch of a member, starting it when nobody has.
    ///
    /// The work is a task of its own: a reader that goes away does not waste it for the others.
    pub(super) async fn join(&self, member: u64, work: impl FnOnce() -> Work) -> Result<()> {
        let mut answer = self.answer(member, work);
        let lost = || Error::new(ErrorKind::Unavailable, "flights::join", "the fetch was stopped");
        let found = answer.wait_for(Option::is_some).await.map_err(|_| lost())?;
        found.clone().unwrap_or_else(|| Err(lost()))
    }

    fn answer(&self, member: u64, work: impl FnOnce() -> Work) -> Answer {
        let mut under_way = self.under_way.lock();
        if let Some(answer) = under_way.get(&member) {
            return answer.clone();
        }
        let (sender, answer) = watch::channel(None);
        under_way.insert(member, answer.clone());
        let (work, landed) = (work(), Landing { member, under_way: Arc::clone(&self.under_way) });
        self.tasks.spawn(async move {
            let result = work.await;
            // First out of the list, then the answer: whoever comes between finds the chunks.
            drop(landed);
            sender.send_replace(Some(result));
        });
        answer
    }

    /// Waits for what is under way; nothing new may start.
    pub(super) async fn close(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// The work of one fetch.
pub(super) type Work = std::pin::Pin<Box<dyn Future<Output = Result<()>> + Send>>;

/// Takes a member off the list, also when its work panics.
struct Landing {
    member: u64,
    under_way: Arc<Mutex<HashMap<u64, Answer>>>,
}

impl Drop for Landing {
    fn drop(&mut self) {
        self.under_way.lock().remove(&self.member);
    }
}
