//! Implementations that misbehave on purpose.
mod gated;
mod source;

pub use gated::{GatedSource, overlap};
pub use source::{FaultySource, SourceFault};
