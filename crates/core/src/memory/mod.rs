//! Implementations of the traits that live in memory: for tests, examples and composition.
mod blob;
mod scheduler;

pub use blob::MemoryBlob;
pub use scheduler::DirectScheduler;
