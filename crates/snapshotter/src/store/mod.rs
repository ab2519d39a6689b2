//! Metadata of snapshots: who exists, whose child, with which labels.
mod redb_store;

use std::fmt;

use async_trait::async_trait;
use bolide_core::Result;

use crate::{
    labels::Labels,
    lifecycle::{NewSnapshot, Snapshot, Usage},
};

pub use redb_store::RedbStore;

/// A snapshot and its ancestors, the nearest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lineage {
    /// The snapshot.
    pub snapshot: Snapshot,
    /// Its ancestors.
    pub ancestors: Vec<Snapshot>,
}

/// Holds the metadata of snapshots.
///
/// # Contract
///
/// * **containerd's rules** are those of [`lifecycle`](crate::lifecycle); every change is one
///   transaction that follows them, durable when it returns.
/// * **Ids** grow, and none is given out again, not even after a restart, once it was used.
#[async_trait]
pub trait SnapshotStore: fmt::Debug + Send + Sync + 'static {
    /// The next free id.
    fn next_id(&self) -> u64;

    /// Adds a snapshot.
    async fn create(&self, new: NewSnapshot) -> Result<Lineage>;

    /// Commits the active snapshot `key` as `name`.
    async fn commit(&self, key: &str, name: &str, usage: Usage, labels: Labels)
    -> Result<Snapshot>;

    /// Removes a snapshot that has no children.
    async fn remove(&self, name: &str) -> Result<Snapshot>;

    /// One snapshot. `NotFound` when there is none.
    async fn get(&self, name: &str) -> Result<Snapshot>;

    /// One snapshot and its ancestors.
    async fn lineage(&self, name: &str) -> Result<Lineage>;

    /// Changes labels, as [`lifecycle::update`](crate::lifecycle::update) says.
    async fn update(&self, name: &str, labels: Labels, paths: Vec<String>) -> Result<Snapshot>;

    /// Every snapshot, in the order of names.
    async fn list(&self) -> Result<Vec<Snapshot>>;
}
