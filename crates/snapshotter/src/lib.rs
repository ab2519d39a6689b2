//! containerd's view: the remote snapshotter.
//!
//! [`grpc`] speaks containerd's protocol on a socket and asks the [`SnapshotService`] behind it,
//! which keeps metadata in a [`SnapshotStore`] and has lazy layers mounted by [`RemoteLayers`].
#![forbid(unsafe_code)]

pub mod admin;
pub mod assembly;
mod blocking;
pub mod config;
pub mod daemon;
mod filters;
pub mod grpc;
pub mod labels;
pub mod layers;
pub mod lifecycle;
mod mounts;
mod remote;
mod service;
mod store;
pub mod user_namespace;

pub use config::Config;
pub use labels::RemoteLayerRequest;
pub use remote::{LayerReport, MountedInfo, RemoteLayers};
pub use service::SnapshotService;
pub use store::{Lineage, RedbStore, SnapshotStore};
