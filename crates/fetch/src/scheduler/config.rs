//! Bounds of a scheduler.
use bolide_core::Priority;

/// Least value of [`SchedulerConfig::max_len`], as the contract of schedulers has it.
const MIN_LEN: u64 = 64 * 1024;

/// Bounds of a [`NodeScheduler`](super::NodeScheduler). Values that would let it stand still are
/// raised to the least that works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SchedulerConfig {
    /// Requests in flight at once, of all blobs; at least 1. The default, 16, hides a round trip of
    /// 20 ms behind requests of 256 KiB on a line of 1 Gbit/s.
    pub max_in_flight: usize,
    /// How many of them only `OnDemand` may use, so that a blocked reader seldom has to pause
    /// somebody first; less than `max_in_flight`.
    pub reserved_on_demand: usize,
    /// Bytes under way or held by those who asked, at most; at least twice `max_len`. As much as
    /// `max_len` of it is kept for `OnDemand`.
    pub budget_bytes: u64,
    /// Longest range one fetch may ask for, in bytes; at least 64 KiB.
    pub max_len: u64,
    /// Longest request that merging makes, in bytes. Longer ones gain nothing: 8 MiB take 30 round
    /// trips of 20 ms on a line of 100 Mbit/s; shorter ones share the line more evenly.
    pub max_merged: u64,
    /// The same for `Prefetch`. What an optimizer put first comes with one request: it is used in
    /// the order in which it arrives, and who wants what lies behind is not kept waiting
    /// ([`max_wait`](Self::max_wait)).
    pub max_prefetch: u64,
    /// How many bytes of less urgent work a blocked reader waits for in a request that is under
    /// way, before that is paused and the reader's bytes are asked for by themselves. 1 MiB takes
    /// 80 ms at 100 Mbit/s, what a new connection costs.
    pub max_wait: u64,
}

impl Default for SchedulerConfig {
    fn default() -> Self {
        Self {
            max_in_flight: 16,
            reserved_on_demand: 4,
            budget_bytes: 256 << 20,
            max_len: 64 << 20,
            max_merged: 8 << 20,
            max_prefetch: 64 << 20,
            max_wait: 1 << 20,
        }
    }
}

impl SchedulerConfig {
    /// Longest request that merging makes for this priority.
    pub(super) fn longest(&self, priority: Priority) -> u64 {
        if priority == Priority::Prefetch { self.max_prefetch } else { self.max_merged }
    }

    pub(super) fn sound(self) -> Self {
        let max_in_flight = self.max_in_flight.max(1);
        let max_len = self.max_len.max(MIN_LEN);
        Self {
            max_in_flight,
            max_len,
            reserved_on_demand: self.reserved_on_demand.min(max_in_flight - 1),
            budget_bytes: self.budget_bytes.max(max_len.saturating_mul(2)),
            ..self
        }
    }
}
