//! The memory that fetched bytes take, from the request until the answer is dropped.
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use bolide_core::Priority;
use tokio::sync::Notify;

use super::SchedulerConfig;

/// What is used of the budget. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Budget(Arc<Ledger>);

#[derive(Debug)]
struct Ledger {
    limit: u64,
    /// Kept for `OnDemand`.
    kept: u64,
    used: AtomicU64,
    arrived: AtomicU64,
    answers: AtomicU64,
    freed: Arc<Notify>,
}

impl Budget {
    /// Nothing is used; `freed` is told when something is given back.
    pub(super) fn new(config: &SchedulerConfig, freed: Arc<Notify>) -> Self {
        Self(Arc::new(Ledger {
            limit: config.budget_bytes,
            kept: config.max_len,
            used: AtomicU64::new(0),
            arrived: AtomicU64::new(0),
            answers: AtomicU64::new(0),
            freed,
        }))
    }

    /// Whether there is room for `len` more bytes.
    pub(super) fn fits(&self, len: u64, priority: Priority) -> bool {
        let kept = if priority == Priority::OnDemand { 0 } else { self.0.kept };
        self.used().saturating_add(len) <= self.0.limit.saturating_sub(kept)
    }

    /// Takes room, whether there is any or not.
    pub(super) fn take(&self, len: u64) -> Arc<Hold> {
        self.0.used.fetch_add(len, Ordering::Relaxed);
        Arc::new(Hold { len, arrived: AtomicU64::new(0), budget: self.clone() })
    }

    /// Counts an answer until it is dropped.
    pub(super) fn answer(&self) -> Outstanding {
        self.0.answers.fetch_add(1, Ordering::Relaxed);
        Outstanding(self.clone())
    }

    /// Bytes taken.
    pub(super) fn used(&self) -> u64 {
        self.0.used.load(Ordering::Relaxed)
    }

    /// Bytes taken that have arrived.
    pub(super) fn arrived(&self) -> u64 {
        self.0.arrived.load(Ordering::Relaxed)
    }

    /// Answers that those who asked have not dropped.
    pub(super) fn answers(&self) -> u64 {
        self.0.answers.load(Ordering::Relaxed)
    }
}

/// A share of the budget, given back when dropped.
#[derive(Debug)]
pub(super) struct Hold {
    len: u64,
    arrived: AtomicU64,
    budget: Budget,
}

impl Hold {
    /// Says that `len` of its bytes have arrived.
    pub(super) fn arrive(&self, len: u64) {
        self.arrived.fetch_add(len, Ordering::Relaxed);
        self.budget.0.arrived.fetch_add(len, Ordering::Relaxed);
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let ledger = &self.budget.0;
        ledger.used.fetch_sub(self.len, Ordering::Relaxed);
        ledger.arrived.fetch_sub(self.arrived.load(Ordering::Relaxed), Ordering::Relaxed);
        ledger.freed.notify_one();
    }
}

/// One answer that somebody holds.
#[derive(Debug)]
pub(super) struct Outstanding(Budget);

impl Drop for Outstanding {
    fn drop(&mut self) {
        self.0.0.answers.fetch_sub(1, Ordering::Relaxed);
        self.0.0.freed.notify_one();
    }
}
