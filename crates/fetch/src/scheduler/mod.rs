//! The scheduler of a node: joins, merges and orders every request that goes to the network.
//!
//! Policy and mechanism are apart. `state` and `plan` are a state machine that knows wishes,
//! segments of blobs, requests in flight and a budget, and decides what is asked for next and who
//! is paused for it; no clock, no task, no source. `dispatcher` carries out what it says with one
//! task per request in flight.
//!
//! What it does beyond the contract of [`Scheduler`]:
//!
//! * Bytes are known by segment, so requests that overlap in part share what they have in common,
//!   and a more urgent one takes just its own bytes ahead.
//! * Requests of one urgency are merged; one that is paused is not made to drag others along.
//! * A waiting request for which there is no slot pauses a less urgent one in flight, and
//!   `Background` stands still while anybody waits for `OnDemand`. What had arrived is kept, and
//!   the rest is asked for later, from the byte that was reached.
mod budget;
mod config;
mod dispatcher;
mod lists;
mod plan;
mod segment;
mod state;

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use async_trait::async_trait;
use bolide_core::{
    BlobSource, Error, ErrorKind, FetchRequest, Fetched, Result, Scheduler, SchedulerLoad,
};
use futures::{
    FutureExt as _,
    future::{BoxFuture, ready},
};
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, oneshot},
    task::{JoinHandle, spawn_blocking},
};

use self::{
    budget::Budget,
    segment::{Answer, FlightId, WishId},
    state::{Effect, State, Wanted},
};
pub use config::SchedulerConfig;

/// The [`Scheduler`] of a node. Its tasks end when it is shut down or dropped.
pub struct NodeScheduler {
    shared: Arc<Shared>,
    dispatcher: Mutex<Option<JoinHandle<()>>>,
}

impl NodeScheduler {
    /// Starts a scheduler.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    #[must_use]
    pub fn new(config: SchedulerConfig) -> Arc<Self> {
        let shared = Arc::new(Shared::new(config.sound()));
        let dispatcher = tokio::spawn(dispatcher::run(Arc::clone(&shared)));
        Arc::new(Self { shared, dispatcher: Mutex::new(Some(dispatcher)) })
    }

    /// Here and not by the source, whose answer would be that of all who are merged with it.
    fn check(&self, request: &FetchRequest) -> Result<()> {
        let refuse = |rule| {
            Error::new(ErrorKind::OutOfRange, "scheduler::fetch", rule)
                .with_context("blob", request.source.digest())
                .with_context("range", request.range)
        };
        if request.range.len() > self.max_len() {
            return Err(refuse("the range is longer than one request may be; split it")
                .with_context("max_len", self.max_len()));
        }
        if request.range.end() > request.source.size() {
            return Err(
                refuse("the range ends past the blob").with_context("size", request.source.size())
            );
        }
        Ok(())
    }

    /// Fails what waits, stops what is in flight and returns when all tasks have ended. Later
    /// fetches fail as `FailedPrecondition`.
    pub async fn shutdown(&self) {
        self.shared.close();
        let dispatcher = self.dispatcher.lock().take();
        if let Some(dispatcher) = dispatcher {
            // It neither panics nor is aborted while it is awaited; there is nothing to report.
            let _ = dispatcher.await;
        }
    }
}

impl Drop for NodeScheduler {
    fn drop(&mut self) {
        if let Some(dispatcher) = self.dispatcher.get_mut().take() {
            dispatcher.abort();
        }
    }
}

impl fmt::Debug for NodeScheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeScheduler")
            .field("config", &self.shared.config)
            .field("load", &self.load())
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Scheduler for NodeScheduler {
    async fn fetch(&self, request: FetchRequest) -> Result<Fetched> {
        self.check(&request)?;
        let mut asked = self.shared.add_all(vec![request])?;
        match asked.pop() {
            Some((ticket, answer)) => self.shared.fetched(ticket, answer).await,
            None => Err(shut_down()),
        }
    }

    fn fetch_all(
        self: Arc<Self>,
        requests: Vec<FetchRequest>,
    ) -> Vec<BoxFuture<'static, Result<Fetched>>> {
        let failed = |error: Error| -> BoxFuture<'static, _> { ready(Err(error)).boxed() };
        let checked: Vec<_> =
            requests.into_iter().map(|request| self.check(&request).map(|()| request)).collect();
        let sound = checked.iter().filter_map(|request| request.as_ref().ok()).cloned().collect();
        let mut asked = match self.shared.add_all(sound) {
            Ok(asked) => asked.into_iter(),
            Err(error) => return checked.iter().map(|_| failed(error.clone())).collect(),
        };
        let fetch = |checked: Result<FetchRequest>| match checked
            .and_then(|_| asked.next().ok_or_else(shut_down))
        {
            Ok((ticket, answer)) => {
                // Whoever waits keeps the scheduler.
                let scheduler = Arc::clone(&self);
                async move { scheduler.shared.fetched(ticket, answer).await }.boxed()
            }
            Err(error) => failed(error),
        };
        checked.into_iter().map(fetch).collect()
    }

    fn max_len(&self) -> u64 {
        self.shared.config.max_len
    }

    fn load(&self) -> SchedulerLoad {
        let pending = self.shared.inner.lock().state.pending;
        SchedulerLoad { pending, held_bytes: self.shared.budget.arrived() }
    }
}

fn shut_down() -> Error {
    Error::new(ErrorKind::FailedPrecondition, "scheduler::fetch", "the scheduler was shut down")
}

/// What the scheduler, its dispatcher and its requests in flight share.
struct Shared {
    config: SchedulerConfig,
    budget: Budget,
    inner: Mutex<Inner>,
    /// Tells the dispatcher that there may be something to do.
    wake: Arc<Notify>,
    closed: AtomicBool,
}

/// There are as many entries as futures that wait and requests in flight; no queue of its own.
struct Inner {
    state: State,
    waiting: HashMap<WishId, Waiting>,
    stops: HashMap<FlightId, Arc<Notify>>,
}

struct Waiting {
    answer: oneshot::Sender<Result<Answer>>,
    source: Arc<dyn BlobSource>,
}

/// A wish and where its answer comes.
type Asked = (Ticket, oneshot::Receiver<Result<Answer>>);

/// Withdraws a wish when dropped.
struct Ticket {
    shared: Arc<Shared>,
    wish: WishId,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut inner = self.shared.inner.lock();
        // In one step: who is in the state has a source.
        let Some(waiting) = inner.waiting.remove(&self.wish) else { return };
        inner.state.withdraw(self.wish);
        let answered = inner.carry_out();
        drop(inner);
        answered.into_iter().for_each(Answered::send);
        self.shared.wake.notify_one();
        // Sources may do anything when dropped; not under the lock.
        drop(waiting);
    }
}

impl Shared {
    fn new(config: SchedulerConfig) -> Self {
        let wake = Arc::new(Notify::new());
        let budget = Budget::new(&config, Arc::clone(&wake));
        let state = State::new(config, budget.clone());
        let inner = Inner { state, waiting: HashMap::new(), stops: HashMap::new() };
        Self { config, budget, inner: Mutex::new(inner), wake, closed: AtomicBool::new(false) }
    }

    /// Adds wishes, all before the first is planned; in their order.
    fn add_all(self: &Arc<Self>, requests: Vec<FetchRequest>) -> Result<Vec<Asked>> {
        let mut inner = self.inner.lock();
        if self.closed.load(Ordering::Acquire) {
            return Err(shut_down());
        }
        let asked = requests.into_iter().map(|request| {
            let (sender, answer) = oneshot::channel();
            let wish = inner.state.add(Wanted {
                blob: request.source.digest(),
                range: request.range,
                priority: request.priority,
                merge_gap: request.source.capability().merge_gap,
            });
            inner.waiting.insert(wish, Waiting { answer: sender, source: request.source });
            (Ticket { shared: Arc::clone(self), wish }, answer)
        });
        let asked = asked.collect();
        let answered = inner.carry_out();
        drop(inner);
        answered.into_iter().for_each(Answered::send);
        self.wake.notify_one();
        Ok(asked)
    }

    /// Waits for an answer, and puts it together where it came in parts.
    async fn fetched(
        &self,
        ticket: Ticket,
        answer: oneshot::Receiver<Result<Answer>>,
    ) -> Result<Fetched> {
        let answer = answer.await.unwrap_or_else(|_| Err(shut_down()));
        drop(ticket);
        let (answer, budget) = (answer?, self.budget.clone());
        if answer.is_ready() {
            return Ok(answer.into_fetched(&budget));
        }
        // Parts of what others asked for: up to `max_len` bytes are copied.
        let copied = spawn_blocking(move || answer.into_fetched(&budget)).await;
        copied.map_err(|error| {
            Error::new(ErrorKind::Unexpected, "scheduler::fetch", "an answer was not put together")
                .with_source(error)
        })
    }

    /// Changes the state and carries out what follows from it.
    fn apply<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut inner = self.inner.lock();
        let result = change(&mut inner.state);
        let answered = inner.carry_out();
        drop(inner);
        answered.into_iter().for_each(Answered::send);
        result
    }

    fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.apply(|state| state.fail_all(&shut_down()));
        self.wake.notify_one();
    }
}

/// An answer on its way.
struct Answered(Waiting, Result<Answer>);

impl Answered {
    fn send(self) {
        // Whoever went away meanwhile does not need it.
        let _ = self.0.answer.send(self.1);
    }
}

impl Inner {
    fn carry_out(&mut self) -> Vec<Answered> {
        let mut answered = Vec::new();
        for effect in std::mem::take(&mut self.state.effects) {
            match effect {
                Effect::Answer(wish, answer) => {
                    let waiting = self.waiting.remove(&wish);
                    answered.extend(waiting.map(|waiting| Answered(waiting, answer)));
                }
                Effect::Stop(flight) => {
                    if let Some(stop) = self.stops.get(&flight) {
                        stop.notify_one();
                    }
                }
            }
        }
        answered
    }
}

#[cfg(test)]
mod tests;
