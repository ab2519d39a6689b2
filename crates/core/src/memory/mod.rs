//! Implementations of the traits that live in memory: for tests, examples and composition.
mod blob;
mod cache;
mod layer_store;
mod layer_writer;
mod mounter;
mod scheduler;
mod toc;
mod toc_builder;

pub use blob::MemoryBlob;
pub use cache::MapCache;
pub use layer_store::{MemoryLayerImage, MemoryLayerStore};
pub use mounter::{RecordingMounted, RecordingMounter};
pub use scheduler::DirectScheduler;
pub use toc::MemoryToc;
pub use toc_builder::{MemoryLayer, MemoryLayerBuilder, NodeMeta};
