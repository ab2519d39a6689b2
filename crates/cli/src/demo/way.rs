//! The two ways to a running program: everything first, or what is needed when it is needed.
use std::{path::Path, time::Instant};

use anyhow::{Context as _, Result};
use bolide_image::Location;
use bolide_snapshotter::{Config, LayerReport, config::PrefetchSettings};
use serde::Serialize;

use super::origin::{Origin, Traffic};
use crate::{
    mount::{LazyStack, SourceImage, unpack_all},
    sandbox::{Finished, Stack, exit_code, run_program},
};

/// One way, measured.
#[derive(Debug, Serialize)]
pub(super) struct Way {
    /// Bytes received until the program ended; those of layers alone where there is no link.
    pub(super) bytes: u64,
    /// Requests until the program ended; `None` where there is no link to count them.
    pub(super) requests: Option<u64>,
    /// Seconds from nothing to the program's end.
    pub(super) seconds: f64,
    /// Seconds until the program could start.
    pub(super) pull_seconds: f64,
    /// Seconds that the program ran.
    pub(super) run_seconds: f64,
    /// The program's exit code; 128 more than a signal that ended it.
    pub(super) exit: u8,
}

/// The lazy way, measured.
#[derive(Debug, Serialize)]
pub(super) struct LazyWay {
    #[serde(flatten)]
    pub(super) way: Way,
    /// Uncompressed bytes of the chunks that were read.
    pub(super) touched_bytes: u64,
    /// Uncompressed bytes of the layers.
    pub(super) total_bytes: u64,
    /// The same for the image laid out by what its program uses first, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) optimized: Option<Box<LazyWay>>,
}

impl Way {
    /// `seconds` are those until the program could start, and those that it ran.
    pub(super) fn new(traffic: Traffic, seconds: (f64, f64), finished: &Finished) -> Self {
        let (pull_seconds, run_seconds) = seconds;
        Self {
            bytes: traffic.bytes,
            requests: traffic.requests,
            seconds: pull_seconds + run_seconds,
            pull_seconds,
            run_seconds,
            exit: exit_code(finished.status),
        }
    }
}

impl LazyWay {
    /// With what is known of the layers.
    pub(super) fn new(way: Way, layers: &[LayerReport]) -> Self {
        Self {
            way,
            touched_bytes: layers.iter().map(|layer| layer.present_bytes).sum(),
            total_bytes: layers.iter().map(|layer| layer.total_bytes).sum(),
            optimized: None,
        }
    }
}

/// A node that keeps everything below `root`, and fetches nothing that nobody asks for: the figures
/// would say nothing.
pub(super) fn node_config(root: &Path) -> Config {
    let prefetch = PrefetchSettings { background: false, ..PrefetchSettings::default() };
    Config { root: root.to_owned(), prefetch, ..Config::default() }
}

/// Every layer, once.
pub(super) fn all_of(image: &SourceImage) -> Traffic {
    Traffic { bytes: image.layers().iter().map(|layer| layer.size).sum(), requests: None }
}

/// Pulls everything, then runs. `dir` is empty.
pub(super) async fn full(
    origin: &Origin,
    name: &str,
    dir: &Path,
    command: &[String],
) -> Result<(Way, Finished)> {
    let access = origin.access(name).await?;
    let location = Location::Registry(access.reference.clone());
    let began = Instant::now();
    let image = SourceImage::open_mountable(&location).await?;
    let stack = unpack_all(&image, dir).await?;
    let pull_seconds = began.elapsed().as_secs_f64();
    let (finished, run_seconds) = run(&image, &stack, command).await?;
    let traffic = access.traffic().unwrap_or_else(|| all_of(&image));
    Ok((Way::new(traffic, (pull_seconds, run_seconds), &finished), finished))
}

/// Mounts, then runs. `dir` is empty. What is mounted stays mounted in this process's namespace
/// until it ends when this fails.
pub(super) async fn lazy(
    origin: &Origin,
    name: &str,
    dir: &Path,
    command: &[String],
) -> Result<(LazyWay, Finished, String)> {
    let access = origin.access(name).await?;
    let location = Location::Registry(access.reference.clone());
    // Once for a machine, not once for an image: its time is not counted.
    let mut layers = LazyStack::prepare(&node_config(&dir.join("node")), dir, None).await?;
    let mounter = layers.mounter().to_owned();

    let began = Instant::now();
    let image = SourceImage::open_mountable(&location).await?;
    layers.mount(&image).await?;
    let pull_seconds = began.elapsed().as_secs_f64();
    let (finished, run_seconds) = run(&image, layers.stack(), command).await?;
    let traffic = access.traffic().unwrap_or_else(|| {
        let (_, bytes) = layers.traffic();
        Traffic { bytes, requests: None }
    });
    let way = Way::new(traffic, (pull_seconds, run_seconds), &finished);
    let lazy = LazyWay::new(way, &layers.reports());
    layers.shutdown().await;
    Ok((lazy, finished, mounter))
}

async fn run(image: &SourceImage, stack: &Stack, command: &[String]) -> Result<(Finished, f64)> {
    let program = image.program(command)?;
    let began = Instant::now();
    let finished = run_program(&program, stack).await.context("cannot run the image's program")?;
    Ok((finished, began.elapsed().as_secs_f64()))
}
