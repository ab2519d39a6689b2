//! What a user may rely on, trait by trait.
pub mod blob_source;
pub mod chunk_cache;
pub mod layer_store;
pub mod scheduler;
pub mod toc_index;
pub mod verdict;

pub use verdict::{Broken, Verdict};
