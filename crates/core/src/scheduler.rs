//! Ordering every request that goes to the network.
use std::{any::Any, fmt, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;

use crate::{BlobSource, ByteRange, Priority, Result};

/// One wish for bytes of a blob.
#[derive(Clone, Debug)]
pub struct FetchRequest {
    /// The blob. Requests for blobs of one digest are joined, whatever source they name.
    pub source: Arc<dyn BlobSource>,
    /// The bytes.
    pub range: ByteRange,
    /// How urgent.
    pub priority: Priority,
}

/// Bytes that were fetched, and the share of the memory budget they hold until dropped.
pub struct Fetched {
    bytes: Bytes,
    _budget: Option<Box<dyn Any + Send + Sync>>,
}

impl Fetched {
    /// Bytes that hold no budget.
    #[must_use]
    pub fn new(bytes: Bytes) -> Self {
        Self { bytes, _budget: None }
    }

    /// Bytes that hold `budget` until dropped.
    #[must_use]
    pub fn with_budget(bytes: Bytes, budget: impl Any + Send + Sync) -> Self {
        Self { bytes, _budget: Some(Box::new(budget)) }
    }

    /// The bytes: exactly the range asked for, unverified.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }
}

impl fmt::Debug for Fetched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fetched").field("len", &self.bytes.len()).finish_non_exhaustive()
    }
}

/// What a scheduler has to do at this moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SchedulerLoad {
    /// Requests waiting or running, by [`Priority`] in the order of [`Priority::ALL`].
    pub pending: [usize; 3],
    /// Bytes fetched and not yet dropped by those who asked.
    pub held_bytes: u64,
}

/// Orders every request of a node that goes to the network. There is one per node.
///
/// # Contract
///
/// * **Once.** A byte that a request in flight will deliver is not asked for again: equal and
///   contained requests join it.
/// * **Merged.** Waiting requests of one blob and one priority that lie nearer than its source's
///   `merge_gap` become one. Each is answered as soon as its bytes have arrived, not when the
///   merged one ends. Merging happens here and nowhere else.
/// * **Ordered.** `OnDemand` before `Prefetch` before `Background`; equal priorities in the order
///   of arrival. A request joined by a more urgent one takes over its urgency for the bytes they
///   share. Work that is pre-empted goes on later from the byte it had reached.
/// * **Bounded.** Requests in flight and bytes held are limited. A caller must therefore poll all
///   its fetches together and drop each result when it is used, or it may wait for itself.
/// * **Together.** What [`fetch_all`](Self::fetch_all) is asked for is known as a whole before any of
///   it is sent, so that what lies together can become one request.
/// * **Range limit.** `OutOfRange` when a request is longer than [`max_len`](Self::max_len);
///   callers split.
/// * **Cancel-safe.** A dropped future withdraws its request; what others joined goes on.
/// * **No policy of sources.** A failure of the source is everyone's answer; retries are wrappers.
#[async_trait]
pub trait Scheduler: fmt::Debug + Send + Sync + 'static {
    /// Fetches bytes.
    async fn fetch(&self, request: FetchRequest) -> Result<Fetched>;

    /// Begins to fetch all of `requests`; the futures are in their order, each as of
    /// [`fetch`](Self::fetch). Unless overridden they begin when they are polled.
    fn fetch_all(
        self: Arc<Self>,
        requests: Vec<FetchRequest>,
    ) -> Vec<BoxFuture<'static, Result<Fetched>>> {
        let fetch = |request| -> BoxFuture<'static, Result<Fetched>> {
            let scheduler = Arc::clone(&self);
            Box::pin(async move { scheduler.fetch(request).await })
        };
        requests.into_iter().map(fetch).collect()
    }

    /// Longest range one request may ask for, in bytes; at least 64 KiB.
    fn max_len(&self) -> u64;

    /// What there is to do.
    fn load(&self) -> SchedulerLoad;
}
