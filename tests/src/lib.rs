//! End-to-end tests against real containerd, runc, registry and kernel.
//!
//! A [`Lab`] is a private set of daemons below one temporary directory. Each process is ended by its
//! own descriptor and each mount below the directory is detached when the lab goes, also when the
//! test failed. `cargo xtask e2e` builds what the tests need and runs them one at a time.
#![forbid(unsafe_code)]

mod containerd;
mod daemon;
mod image;
mod lab;
mod mounts;
mod process;
mod record;
mod registry;
mod touched;
mod traced;
mod tree;

pub use containerd::Containerd;
pub use daemon::{Daemon, DaemonOptions, LazyLayer, NotLazy, Status, bolide, from_environment};
pub use image::{Image, Layer, hex, sha256, sha256_of};
pub use lab::Lab;
pub use mounts::{MountsBelow, below as mounts_below, detach_below};
pub use process::{Finished, Process, run};
pub use record::{entrypoint, opened_files};
pub use registry::{Registry, Served};
pub use touched::touched_bytes;
pub use traced::{TracedRunc, Used};
pub use tree::{Node, Tree};
