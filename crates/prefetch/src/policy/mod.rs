//! Policies: from what is known of a layer to what is worth fetching.
mod background;
mod chain;
mod landmark;
mod neighbours;
mod sequential;

pub use background::BackgroundPolicy;
pub use chain::ChainPolicy;
pub use landmark::LandmarkPolicy;
pub use neighbours::NeighbourPolicy;
pub use sequential::SequentialPolicy;
