//! What to fetch before it is asked for: pure policies, and the driver that carries out their hints.
//!
//! A policy (see [`policy`]) turns an index and what happens on its layer into hints; it fetches
//! nothing and is tested by replaying a trace. The [`Driver`] feeds policies off the read path and
//! fills layers with what they hint at: the only part of this crate that awaits.
#![forbid(unsafe_code)]

mod driver;
pub mod policy;

pub use driver::{Driver, DriverConfig};
pub use policy::{
    BackgroundPolicy, ChainPolicy, LandmarkPolicy, NeighbourPolicy, SequentialPolicy,
};
