//! Shows layers through FUSE. FUSE types stay in this module.
mod attr;
mod filesystem;
mod listings;
mod mounter;

pub use mounter::{FuseConfig, FuseMounter, detach};
