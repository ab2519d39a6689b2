//! The read path.
mod decode;
mod fill;
mod flights;
mod gather;
mod pipeline;
mod plan;
mod pool;
mod stream_fill;

use std::time::Duration;

pub(crate) use pipeline::{Parts, Pipeline};
pub use pool::WorkerPool;

/// How reads behave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadConfig {
    /// Longest time a process is blocked on a read before it gets an error.
    pub on_demand_timeout: Duration,
    /// Members fetched at once for one fill.
    pub fill_concurrency: usize,
}

impl Default for ReadConfig {
    fn default() -> Self {
        // As long as the reference waits for one fetch; the scheduler orders what is waiting, so
        // that a fill may submit much at once and still be overtaken.
        Self { on_demand_timeout: Duration::from_mins(5), fill_concurrency: 1024 }
    }
}
