//! Implementations that misbehave on purpose.
mod source;

pub use source::{FaultySource, SourceFault};
