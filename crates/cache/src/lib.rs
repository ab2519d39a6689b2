//! Where verified bytes rest: the layer store and the cache tiers.
//!
//! [`DiskLayerStore`] holds the layer images of a node: every byte decompressed, verified and
//! written once, named by TOC digest. [`MemoryCache`] and [`TieredCache`] are tiers that the read
//! pipeline asks before the network.
#![forbid(unsafe_code)]

mod memory;
mod noop;
mod store;
mod tiered;

pub use memory::MemoryCache;
pub use noop::NoopCache;
pub use store::{DiskLayerConfig, DiskLayerStore};
pub use tiered::TieredCache;
