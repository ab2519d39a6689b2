//! Policies: from what is known of a layer to what is worth fetching.
mod background;
mod chain;
mod landmark;
mod sequential;

pub use background::BackgroundPolicy;
pub use chain::ChainPolicy;
pub use landmark::LandmarkPolicy;
pub use sequential::SequentialPolicy;
