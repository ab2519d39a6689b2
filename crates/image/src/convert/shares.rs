//! The threads of a conversion, which its layers share.
use std::num::NonZeroUsize;

use parking_lot::Mutex;

/// Threads that layers share.
#[derive(Debug)]
pub(super) struct Shares {
    concurrent: usize,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    free: usize,
    running: usize,
    waiting: usize,
}

impl Shares {
    pub(super) fn new(threads: NonZeroUsize, layers: usize, most: usize) -> Self {
        let concurrent = threads.get().min(layers).clamp(1, most);
        let state = State { free: threads.get(), running: 0, waiting: layers };
        Self { concurrent, state: Mutex::new(state) }
    }

    /// Layers at work at once.
    pub(super) fn concurrent(&self) -> usize {
        self.concurrent
    }

    /// The threads of the next layer: those that are free, shared with who may start beside it.
    pub(super) fn take(&self) -> NonZeroUsize {
        let mut state = self.state.lock();
        let places = self.concurrent.saturating_sub(state.running).min(state.waiting).max(1);
        let taken = NonZeroUsize::new(state.free / places).unwrap_or(NonZeroUsize::MIN);
        state.free = state.free.saturating_sub(taken.get());
        state.running += 1;
        state.waiting = state.waiting.saturating_sub(1);
        taken
    }

    /// One layer needs no threads.
    pub(super) fn pass(&self) {
        let mut state = self.state.lock();
        state.waiting = state.waiting.saturating_sub(1);
    }

    pub(super) fn give(&self, taken: NonZeroUsize) {
        let mut state = self.state.lock();
        state.free += taken.get();
        state.running -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_share_the_threads() {
        let threads = |count| NonZeroUsize::new(count).expect("some");
        let alone = Shares::new(threads(8), 1, 4);
        assert_eq!((alone.concurrent(), alone.take().get()), (1, 8));
        let many = Shares::new(threads(8), 10, 4);
        let taken: Vec<_> = (0..4).map(|_| many.take()).collect();
        assert_eq!(taken.iter().map(|share| share.get()).collect::<Vec<_>>(), [2; 4]);
        many.give(taken[0]);
        assert_eq!(many.take().get(), 2);
        assert_eq!(Shares::new(threads(1), 10, 4).concurrent(), 1);
    }
}
