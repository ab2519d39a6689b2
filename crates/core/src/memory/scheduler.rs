//! A scheduler that does nothing but ask.
use async_trait::async_trait;

use crate::{
    Error, ErrorKind, FetchRequest, Fetched, ReadOptions, Result, Scheduler, SchedulerLoad,
};

/// A [`Scheduler`] that passes every request on at once: no joining, no order, no budget. For tests
/// and for sources that are local.
#[derive(Clone, Copy, Debug, Default)]
pub struct DirectScheduler;

const MAX_LEN: u64 = 64 * 1024 * 1024;

#[async_trait]
impl Scheduler for DirectScheduler {
    async fn fetch(&self, request: FetchRequest) -> Result<Fetched> {
        if request.range.len() > MAX_LEN {
            return Err(Error::new(
                ErrorKind::OutOfRange,
                "direct_scheduler::fetch",
                "the range is longer than one request may be",
            )
            .with_context("range", request.range));
        }
        let options = ReadOptions::default().with_priority(request.priority);
        request.source.read_at(request.range, options).await.map(Fetched::new)
    }

    fn max_len(&self) -> u64 {
        MAX_LEN
    }

    fn load(&self) -> SchedulerLoad {
        SchedulerLoad::default()
    }
}
