//! Where verified bytes rest: the layer store and the cache tiers.
//!
//! [`DiskLayerStore`] holds the layer images of a node: every byte decompressed, verified and
//! written once, named by TOC digest. [`MemoryCache`] and [`TieredCache`] are tiers that the read
//! pipeline asks before the network; so are `SledCache` (feature `sled`), a database on this node,
//! and `ObjectStoreCache` (feature `object-store`), which nodes share.
#![forbid(unsafe_code)]

mod blocking;
mod memory;
mod noop;
#[cfg(feature = "object-store")]
mod object_store;
#[cfg(feature = "sled")]
mod sled;
mod store;
mod tiered;

#[cfg(feature = "object-store")]
pub use crate::object_store::ObjectStoreCache;
#[cfg(feature = "sled")]
pub use crate::sled::SledCache;
pub use memory::MemoryCache;
pub use noop::NoopCache;
pub use store::{DiskLayerConfig, DiskLayerStore};
pub use tiered::TieredCache;
