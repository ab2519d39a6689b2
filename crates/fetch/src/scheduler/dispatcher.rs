//! Carries out what the state machine says: one task per request in flight, all owned here.
use std::sync::{Arc, atomic::Ordering};

use bolide_core::{BlobSource, Error, ErrorKind, ReadOptions, Result};
use bytes::Bytes;
use futures::{StreamExt as _, stream::BoxStream};
use tokio::{sync::Notify, task::JoinSet};
use tracing::Instrument as _;

use super::{Shared, plan::Start, segment::FlightId, state::Step};

/// Sends requests until the scheduler is closed. Requests in flight end with it.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut flights = JoinSet::new();
    while !shared.closed.load(Ordering::Acquire) {
        for (start, source, stop) in shared.start() {
            let span = tracing::debug_span!(
                "network_request",
                blob = %start.blob,
                range = %start.range,
                priority = start.priority.name(),
                joined = start.joined,
            );
            flights.spawn(fly(Arc::clone(&shared), start, source, stop).instrument(span));
        }
        tokio::select! {
            () = shared.wake.notified() => {}
            // How it ended, `Landing` has said.
            Some(_) = flights.join_next() => {}
        }
        // A caller that polls many fetches together has asked for all of them by the time this goes
        // on: the first is planned with its neighbours.
        tokio::task::yield_now().await;
    }
    flights.shutdown().await;
}

impl Shared {
    /// Everything that may go out now.
    fn start(&self) -> Vec<(Start, Arc<dyn BlobSource>, Arc<Notify>)> {
        let mut inner = self.inner.lock();
        let mut starts = Vec::new();
        while let Some(start) = inner.state.next() {
            let source = inner.waiting.get(&start.lead).map(|lead| Arc::clone(&lead.source));
            let Some(source) = source else {
                let gone = Error::new(
                    ErrorKind::Unexpected,
                    "scheduler::start",
                    "a request waits for which nobody does",
                );
                inner.state.ended(start.flight, Err(gone));
                continue;
            };
            let stop = Arc::new(Notify::new());
            inner.stops.insert(start.flight, Arc::clone(&stop));
            starts.push((start, source, stop));
        }
        inner.state.pre_empt();
        let answered = inner.carry_out();
        drop(inner);
        answered.into_iter().for_each(super::Answered::send);
        starts
    }

    fn land(&self, flight: FlightId, how: Result<()>) {
        let joined = self.apply(|state| state.ended(flight, how));
        self.landed(flight, joined);
    }

    fn landed(&self, flight: FlightId, joined: usize) {
        self.inner.lock().stops.remove(&flight);
        tracing::Span::current().record("joined", joined);
        self.wake.notify_one();
    }
}

/// One request: streams it into the state until that has what it wants.
async fn fly(shared: Arc<Shared>, start: Start, source: Arc<dyn BlobSource>, stop: Arc<Notify>) {
    let landing = Landing { shared, flight: start.flight, flown: false };
    let options = ReadOptions::default().with_priority(start.priority);
    let pieces = source.stream(start.range, options);
    let flown = tokio::select! {
        flown = landing.receive(pieces) => flown,
        // The other future holds no piece while it waits: nothing that arrived is lost.
        () = stop.notified() => Flown::Ended(Ok(())),
    };
    landing.finish(flown, &source, start);
}

/// How a request went.
enum Flown {
    /// All that was wanted has arrived, for so many wishes.
    Done(usize),
    Ended(Result<()>),
    Short,
}

/// Says that a request has ended, also when its source panics.
struct Landing {
    shared: Arc<Shared>,
    flight: FlightId,
    flown: bool,
}

impl Landing {
    async fn receive(&self, mut pieces: BoxStream<'static, Result<Bytes>>) -> Flown {
        loop {
            // A source whose bytes are always at hand would keep a worker for itself.
            tokio::task::coop::consume_budget().await;
            let piece = match pieces.next().await {
                Some(Ok(piece)) => piece,
                Some(Err(error)) => return Flown::Ended(Err(error)),
                None => return Flown::Short,
            };
            match self.shared.apply(|state| state.arrived(self.flight, piece)) {
                Step::More => {}
                Step::Settled => self.shared.wake.notify_one(),
                Step::Stop => return Flown::Ended(Ok(())),
                Step::Done(joined) => return Flown::Done(joined),
            }
        }
    }

    fn finish(mut self, flown: Flown, source: &Arc<dyn BlobSource>, start: Start) {
        self.flown = true;
        match flown {
            Flown::Done(joined) => self.shared.landed(self.flight, joined),
            Flown::Ended(how) => self.shared.land(self.flight, how),
            Flown::Short => {
                let short = Error::new(
                    ErrorKind::Unavailable,
                    "scheduler::fetch",
                    "the source ended early",
                )
                .with_context("source", source)
                .with_context("range", start.range);
                self.shared.land(self.flight, Err(short));
            }
        }
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        if !self.flown {
            let lost = Error::new(ErrorKind::Unexpected, "scheduler::fetch", "the source panicked");
            self.shared.land(self.flight, Err(lost));
        }
    }
}
