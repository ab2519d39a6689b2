//! The two ways once more, through containerd: `ctr` with overlayfs, and lazily with bolide.
use std::{path::Path, time::Instant};

use anyhow::Result;
use bolide_image::Location;

use super::{
    engine::{Engine, NAMESPACE},
    origin::{Access, Origin, Traffic},
    programs,
    way::{LazyWay, Way, all_of, node_config},
};
use crate::{mount::SourceImage, pull, sandbox::Finished};

/// containerd's own snapshotter.
const OVERLAYFS: &str = "overlayfs";
const BOLIDE: &str = "bolide";

/// Pulls everything, then runs. `dir` is empty; the engine rests.
pub(super) async fn full(
    engine: &mut Engine,
    (origin, name): (&Origin, &str),
    dir: &Path,
    command: &[String],
) -> Result<(Way, Finished)> {
    let access = origin.access(name).await?;
    engine.start(dir, None).await?;
    let began = Instant::now();
    pull_whole(engine, &access).await?;
    let pull_seconds = began.elapsed().as_secs_f64();
    let (finished, run_seconds) = run(engine, OVERLAYFS, &access, command).await?;
    let traffic = if let Some(traffic) = access.traffic() {
        traffic
    } else {
        let location = Location::Registry(access.reference.clone());
        all_of(&SourceImage::open_mountable(&location).await?)
    };
    engine.stop().await?;
    Ok((Way::new(traffic, (pull_seconds, run_seconds), &finished), finished))
}

async fn pull_whole(engine: &Engine, access: &Access) -> Result<()> {
    let reference = access.reference.to_string();
    let mut arguments = vec!["images", "pull", "--snapshotter", OVERLAYFS];
    if access.is_plain() {
        arguments.push("--plain-http");
    }
    arguments.push(&reference);
    programs::succeeded("ctr images pull", &engine.ctr(&arguments).await?)
}

/// Mounts, then runs. `dir` is empty; the engine rests.
pub(super) async fn lazy(
    engine: &mut Engine,
    (origin, name): (&Origin, &str),
    dir: &Path,
    command: &[String],
) -> Result<(LazyWay, Finished, String)> {
    let access = origin.access(name).await?;
    engine.start(dir, Some(node_config(&dir.join("node")))).await?;
    let began = Instant::now();
    let address = engine.socket();
    pull::quietly(address, NAMESPACE, BOLIDE, access.reference.clone()).await?;
    let pull_seconds = began.elapsed().as_secs_f64();
    let (finished, run_seconds) = run(engine, BOLIDE, &access, command).await?;
    let layers = engine.layers().await?;
    let fetched = layers.iter().map(|layer| layer.fetched_bytes).sum();
    let traffic = access.traffic().unwrap_or(Traffic { bytes: fetched, requests: None });
    let mounter = layers.iter().find_map(|layer| layer.mounter.clone());
    let way = Way::new(traffic, (pull_seconds, run_seconds), &finished);
    let lazy = LazyWay::new(way, &layers);
    engine.stop().await?;
    Ok((lazy, finished, mounter.unwrap_or_else(|| "none".to_owned())))
}

async fn run(
    engine: &Engine,
    snapshotter: &str,
    access: &Access,
    command: &[String],
) -> Result<(Finished, f64)> {
    let began = Instant::now();
    let finished = engine.run(snapshotter, &access.reference.to_string(), command).await?;
    Ok((finished, began.elapsed().as_secs_f64()))
}
