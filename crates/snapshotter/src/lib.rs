//! containerd's view: the remote snapshotter.
#![forbid(unsafe_code)]
#![allow(
    dead_code,
    unused_imports,
    clippy::all,
    clippy::pedantic,
    reason = "parts of a service that is not there yet; they are finished with it"
)]

pub mod admin;
pub mod assembly;
pub mod config;
mod filters;
pub mod labels;
pub mod layers;
mod lifecycle;
mod mounts;
mod remote;
mod store;

pub use config::Config;
pub use labels::RemoteLayerRequest;
pub use remote::{LayerReport, MountedInfo, RemoteLayers};
