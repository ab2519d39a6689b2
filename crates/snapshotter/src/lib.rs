//! containerd's view: the remote snapshotter.
#![forbid(unsafe_code)]

pub mod admin;
pub mod config;
mod daemon;
mod filters;
pub mod labels;
mod lifecycle;
mod mounts;
mod remote;
mod store;

pub use config::Config;
pub use daemon::{Daemon, DaemonEnv};
pub use labels::RemoteLayerRequest;
pub use remote::{LayerReport, MountedInfo, RemoteLayers};
