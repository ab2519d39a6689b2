//! Everything one run of the benchmark found.
use anyhow::Result;
use serde::Serialize;

use crate::{host::Host, spread::Spread};

/// The document of one run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Document {
    pub(crate) host: Host,
    pub(crate) runs: u32,
    pub(crate) cold: Option<Cold>,
    pub(crate) fs: Option<FileSystem>,
    pub(crate) conversion: Option<Conversion>,
}

/// Conversions of one image. Times in seconds, sizes in MB.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Conversion {
    /// Compressed size of all layers of the plain image.
    pub(crate) image_mb: f64,
    /// Uncompressed size of the layers made.
    pub(crate) uncompressed_mb: f64,
    pub(crate) ways: Vec<Way>,
    pub(crate) large_layer: Option<LargeLayer>,
}

/// One way to convert.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Way {
    pub(crate) name: String,
    pub(crate) seconds: Spread,
    /// Most memory that the converter held.
    pub(crate) peak: Spread,
    /// Compressed size of the layers made.
    pub(crate) size: Spread,
}

/// A layer of 4 GiB, converted once each way.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct LargeLayer {
    pub(crate) in_order: Way,
    pub(crate) put_first: Way,
}

/// Cold starts of one image.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Cold {
    /// Bandwidth and round-trip time of the line to the registry.
    pub(crate) link: String,
    pub(crate) mounter: String,
    /// Compressed size of all layers of the plain image, in MB.
    pub(crate) image_mb: f64,
    /// Compressed size of the files that the program opens, in MB.
    pub(crate) needed_mb: f64,
    /// Create and run with everything local and in memory, in seconds.
    pub(crate) warm: Spread,
    /// No way of fetching before use can be faster than this, in seconds.
    pub(crate) floor: f64,
    pub(crate) modes: Vec<Mode>,
}

/// One way to start a container. Times in seconds, sizes in MB.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Mode {
    pub(crate) name: String,
    pub(crate) pull: Spread,
    pub(crate) create: Spread,
    pub(crate) run: Spread,
    pub(crate) total: Spread,
    /// Came through the link up to the end of the run.
    pub(crate) received: Spread,
    pub(crate) requests: Spread,
    pub(crate) connections: Spread,
    /// Of `bolide serve` at the end of the run.
    pub(crate) rss: Option<Spread>,
    pub(crate) peak: Option<Spread>,
}

/// A large layer beside the same tree in a directory.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct FileSystem {
    pub(crate) mounter: String,
    /// File system of the plain directory.
    pub(crate) beside: String,
    pub(crate) files: u64,
    pub(crate) large_mib: u64,
    pub(crate) figures: Vec<Figure>,
}

/// One figure of the file system.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figure {
    pub(crate) name: String,
    pub(crate) unit: &'static str,
    pub(crate) bolide: Option<Spread>,
    /// Of the same tree as plain files.
    pub(crate) directory: Option<Spread>,
}

impl Document {
    pub(crate) fn new(runs: u32) -> Result<Self> {
        Ok(Self { host: Host::look()?, runs, cold: None, fs: None, conversion: None })
    }
}
