//! Deciding which bytes to fetch before anyone asks.
use std::{fmt, ops::Range, time::Duration};

use crate::{ByteRange, Digest, NodeId, Priority, TocIndex};

/// Something that happened on a mounted layer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AccessEvent {
    /// A file was opened.
    Opened {
        /// The file.
        file: NodeId,
    },
    /// Bytes of a file were read.
    Read {
        /// The file.
        file: NodeId,
        /// The bytes.
        range: Range<u64>,
        /// Whether every chunk was present already.
        hit: bool,
    },
    /// Every chunk of the layer is present now. Comes once.
    Complete,
    /// Nothing has been read from the layer for this long.
    Idle {
        /// How long.
        since: Duration,
    },
}

/// Bytes worth having.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum FetchTarget {
    /// Bytes of a file.
    File {
        /// The file.
        file: NodeId,
        /// The bytes, within the file.
        range: Range<u64>,
    },
    /// Every chunk whose member starts in this part of the blob, in blob order.
    Blob(ByteRange),
}

/// Bytes of a layer worth fetching.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchHint {
    /// TOC digest of the layer.
    pub layer: Digest,
    /// The bytes.
    pub target: FetchTarget,
    /// How urgent. Never [`Priority::OnDemand`].
    pub priority: Priority,
}

/// Where hints go. The driver implements it; tests use a `Vec`.
pub trait HintSink {
    /// Accepts a hint. `false` means that the sink wants no more for now.
    fn push(&mut self, hint: FetchHint) -> bool;
}

impl HintSink for Vec<FetchHint> {
    fn push(&mut self, hint: FetchHint) -> bool {
        Vec::push(self, hint);
        true
    }
}

/// A prefetch policy: turns what is known into what to fetch. It fetches nothing itself.
///
/// # Contract
///
/// * **Pure.** No I/O, no clock, no task. Time arrives as [`AccessEvent::Idle`]. The same calls
///   give the same hints, so a policy is tested by replaying a recorded trace.
/// * **Fast.** [`observe`](Self::observe) runs beside the read path: bounded work.
/// * **In bounds.** Hints name the layer of the index they were made from, lie inside its files
///   or its blob, and are never [`Priority::OnDemand`].
/// * **Advisory.** The driver may drop, reorder, split or delay any hint. Budgets, pausing for
///   reads that block a process, and cancellation are the driver's.
/// * **Heeds the sink.** After `push` answered `false` a call makes no further hint.
/// * **Per image.** One value serves the layers of one image; [`start`](Self::start) comes once for
///   each, before its events.
pub trait Prefetcher: fmt::Debug + Send + 'static {
    /// Short name for logs and metrics, for example `"landmark"`.
    fn name(&self) -> &'static str;

    /// Called once for a layer, when it is mounted.
    fn start(&mut self, layer: &dyn TocIndex, out: &mut dyn HintSink);

    /// Called after each event on a layer that was started.
    fn observe(&mut self, layer: &dyn TocIndex, event: &AccessEvent, out: &mut dyn HintSink) {
        let _ = (layer, event, out);
    }
}

/// Takes note of what happens on layers. The prefetch driver implements it; the read pipeline
/// calls it.
pub trait AccessSink: fmt::Debug + Send + Sync + 'static {
    /// Notes an event on the layer of this TOC digest. Never blocks; may drop events under load.
    fn record(&self, layer: Digest, event: AccessEvent);
}
