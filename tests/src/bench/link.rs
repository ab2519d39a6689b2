//! The line to the registry, for a program without a runtime of its own.
use std::{net::SocketAddr, num::NonZeroU64, time::Duration};

use anyhow::{Context as _, Result};
use bolide_image::{LinkCounters, LinkShape, ShapedLink};
use tokio::runtime::Runtime;

/// Where most nodes are not: far from their registry, and not alone on the line.
pub(crate) const SHAPE: LinkShape = LinkShape {
    bits_per_second: match NonZeroU64::new(100_000_000) {
        Some(bits) => bits,
        None => NonZeroU64::MIN,
    },
    rtt: Duration::from_millis(20),
};

/// Carries the link.
pub(crate) fn runtime() -> Result<Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}

/// A running link.
#[derive(Debug)]
pub(crate) struct Link(ShapedLink);

impl Link {
    pub(crate) fn start(runtime: &Runtime, server: SocketAddr) -> Result<Self> {
        let link = runtime.block_on(ShapedLink::start(server, SHAPE)).context("link")?;
        Ok(Self(link))
    }

    /// Host and port, as they stand in a reference.
    pub(crate) fn host(&self) -> String {
        self.0.address().to_string()
    }

    pub(crate) fn counters(&self) -> LinkCounters {
        self.0.counters()
    }
}
