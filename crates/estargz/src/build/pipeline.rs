//! Runs work on several threads and keeps its order.
//!
//! ```text
//! produce ──┬─> workers (as many as wanted) ──> collect, on the caller's thread, in order
//!           └─> observe, in order
//! ```
//!
//! Every queue is bounded, and so is what is under way at once: one item for each worker and two
//! more. All threads are scoped: they have ended, and whatever failed or panicked in them is an
//! error, when [`run`] returns.
use std::{
    num::NonZeroUsize,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::{self, Scope, ScopedJoinHandle},
};

use bolide_core::{Error, ErrorKind, Result};

/// Most threads that work, however many are asked for: each holds some MiB.
const MAX_WORKERS: usize = 64;

/// Gives an item away: what is worked on and observed, and what only the last stage needs. It fails
/// once nobody takes items any more; the producer ends then.
pub(super) type Give<'a, T, S> = &'a mut dyn FnMut(T, S) -> Result<()>;

/// The stages.
pub(super) struct Stages<P, O, W, C> {
    /// Makes items, in order, on a thread of its own.
    pub(super) produce: P,
    /// Sees each item, in order, on a thread of its own.
    pub(super) observe: O,
    /// Makes a worker; each has a thread of its own and takes whichever item comes next.
    pub(super) worker: W,
    /// Takes results, in order, on the caller's thread.
    pub(super) collect: C,
}

/// Runs the stages to their end; returns what the producer does.
///
/// The first error counts, in the order of what it comes from: collecting (which fails with what a
/// worker failed with), observing, producing.
pub(super) fn run<T, S, R, Done, F>(
    workers: NonZeroUsize,
    stages: Stages<
        impl FnOnce(Give<'_, T, S>) -> Result<Done> + Send,
        impl FnMut(&T) -> Result<()> + Send,
        impl Fn() -> Result<F> + Sync,
        impl FnMut(R, S) -> Result<()>,
    >,
) -> Result<Done>
where
    T: Send + Sync,
    S: Send,
    R: Send,
    Done: Send,
    F: FnMut(&T) -> Result<R>,
{
    let Stages { produce, mut observe, worker, mut collect } = stages;
    let workers = workers.get().min(MAX_WORKERS);
    let (work, todo) = sync_channel::<Task<T, R>>(workers + 2);
    let (order, results) = sync_channel::<(S, Receiver<Result<R>>)>(workers + 1);
    let (show, seen) = sync_channel::<Arc<T>>(1);
    let todo = Arc::new(Mutex::new(todo));
    let worker = &worker;
    thread::scope(|scope| {
        let working: Vec<_> = (0..workers)
            .map(|_| {
                let todo = Arc::clone(&todo);
                spawn(scope, "layer-compress", move || work_through(&todo, worker))
            })
            .collect::<Result<_>>()?;
        // Only workers hold it, so that what waits in it is dropped when none is left.
        drop(todo);
        let observing =
            spawn(scope, "layer-digest", move || seen.iter().try_for_each(|item| observe(&item)))?;
        let producing = spawn(scope, "layer-read", move || {
            produce(&mut |item, aside| {
                let item = Arc::new(item);
                let (done, result) = sync_channel(1);
                order.send((aside, result)).map_err(|_| stopped())?;
                work.send((Arc::clone(&item), done)).map_err(|_| stopped())?;
                show.send(item).map_err(|_| stopped())
            })
        })?;
        let collected = results.iter().try_for_each(|(aside, result)| {
            // Nobody answers when a worker panicked.
            collect(result.recv().map_err(|_| panicked())??, aside)
        });
        // The producer notices, and the others after it.
        drop(results);
        let produced = join(producing);
        let observed = join(observing);
        for thread in working {
            // Whoever waited for its result knows already that it panicked.
            let _ = thread.join();
        }
        collected.and(observed)?;
        produced
    })
}

/// An item to work on, and who waits for the result.
type Task<T, R> = (Arc<T>, SyncSender<Result<R>>);

/// Works until there is nothing more to come.
fn work_through<T, R, F: FnMut(&T) -> Result<R>>(
    todo: &Mutex<Receiver<Task<T, R>>>,
    worker: &impl Fn() -> Result<F>,
) {
    let mut worker = worker();
    loop {
        let next = todo.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((item, done)) = next else { return };
        let result = match &mut worker {
            Ok(work) => work(&item),
            Err(error) => Err(error.clone()),
        };
        // The caller may have failed meanwhile; then nobody asks for the result.
        let _ = done.send(result);
    }
}

/// Begins a thread; those that run already end when this fails, since their queues are dropped.
fn spawn<'scope, R: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    name: &str,
    run: impl FnOnce() -> R + Send + 'scope,
) -> Result<ScopedJoinHandle<'scope, R>> {
    let thread = thread::Builder::new().name(name.to_owned()).spawn_scoped(scope, run);
    thread.map_err(|error| Error::io("estargz::pipeline", error))
}

fn join<R>(thread: ScopedJoinHandle<'_, Result<R>>) -> Result<R> {
    thread.join().unwrap_or_else(|_| Err(panicked()))
}

fn stopped() -> Error {
    Error::new(ErrorKind::Unexpected, "estargz::pipeline", "another thread ended before its time")
}

fn panicked() -> Error {
    Error::new(
        ErrorKind::Unexpected,
        "estargz::pipeline",
        "a thread that builds the layer panicked",
    )
}

#[cfg(test)]
mod tests;
