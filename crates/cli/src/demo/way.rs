//! The two ways to a running program: everything first, or what is needed when it is needed.
use std::{path::Path, time::Instant};

use anyhow::{Context as _, Result};
use bolide_fetch::ImageReference;
use bolide_image::{LinkShape, Location, ServerHandle, ShapedLink};
use bolide_snapshotter::{Config, config::PrefetchSettings};
use serde::Serialize;

use crate::{
    mount::{LazyStack, SourceImage, unpack_all},
    sandbox::{Finished, Stack, exit_code, run_program},
};

/// Where the image comes from.
#[derive(Debug)]
pub(super) enum Origin {
    /// A registry of our own, behind a link.
    Served { server: ServerHandle, shape: LinkShape },
    /// A registry somewhere.
    Registry { reference: ImageReference, plain_http: Vec<String> },
}

/// One way, measured.
#[derive(Debug, Serialize)]
pub(super) struct Way {
    /// Bytes received until the program ended; those of layers alone where the registry is not ours.
    pub(super) bytes: u64,
    /// Requests until the program ended; those for layers alone where the registry is not ours.
    pub(super) requests: u64,
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

/// An origin, as one way reaches it: with connections and counters of its own.
struct Access {
    location: Location,
    plain_http: Vec<String>,
    link: Option<ShapedLink>,
}

impl Origin {
    /// What it is, for people.
    pub(super) fn link(&self) -> Option<LinkShape> {
        match self {
            Self::Served { shape, .. } => Some(*shape),
            Self::Registry { .. } => None,
        }
    }

    async fn access(&self, name: &str) -> Result<Access> {
        let (location, plain_http, link) = match self {
            Self::Served { server, shape } => {
                let link = ShapedLink::start(server.address(), *shape).await?;
                let location =
                    Location::Registry(format!("{}/demo{name}", link.address()).parse()?);
                (location, Vec::new(), Some(link))
            }
            Self::Registry { reference, plain_http } => {
                (Location::Registry(reference.clone()), plain_http.clone(), None)
            }
        };
        Ok(Access { location, plain_http, link })
    }

    /// Requests that the server of our own has answered.
    fn answered(&self) -> u64 {
        match self {
            Self::Served { server, .. } => server.counters().requests,
            Self::Registry { .. } => 0,
        }
    }
}

/// Pulls everything, then runs. `dir` is empty.
pub(super) async fn full(
    origin: &Origin,
    name: &str,
    dir: &Path,
    command: &[String],
) -> Result<(Way, Finished)> {
    let (access, answered) = (origin.access(name).await?, origin.answered());
    let began = Instant::now();
    let image = SourceImage::open(&access.location, &access.plain_http).await?;
    let stack = unpack_all(&image, dir).await?;
    let pull_seconds = began.elapsed().as_secs_f64();
    let (finished, run_seconds) = run(&image, &stack, command).await?;
    let (bytes, requests) = match &access.link {
        Some(link) => (link.counters().received, origin.answered() - answered),
        None => (image.layers().iter().map(|layer| layer.size).sum(), image.layers().len() as u64),
    };
    Ok((way(bytes, requests, (pull_seconds, run_seconds), &finished), finished))
}

/// Mounts, then runs. `dir` is empty. What is mounted stays mounted in this process's namespace
/// until it ends when this fails.
pub(super) async fn lazy(
    origin: &Origin,
    name: &str,
    dir: &Path,
    command: &[String],
) -> Result<(LazyWay, Finished, &'static str)> {
    let (access, answered) = (origin.access(name).await?, origin.answered());
    let mut config = Config { root: dir.join("node"), ..Config::default() };
    config.registry.plain_http.clone_from(&access.plain_http);
    // What nobody reads would make the figures say nothing.
    config.prefetch = PrefetchSettings { background: false, ..PrefetchSettings::default() };
    // Once for a machine, not once for an image: its time is not counted.
    let mut layers = LazyStack::prepare(&config, dir).await?;
    let mounter = layers.mounter();

    let began = Instant::now();
    let image = SourceImage::open(&access.location, &access.plain_http).await?;
    layers.mount(&image).await?;
    let pull_seconds = began.elapsed().as_secs_f64();
    let (finished, run_seconds) = run(&image, layers.stack(), command).await?;
    let (bytes, requests) = match &access.link {
        Some(link) => (link.counters().received, origin.answered() - answered),
        None => layers.traffic(),
    };
    let reports = layers.reports();
    let lazy = LazyWay {
        way: way(bytes, requests, (pull_seconds, run_seconds), &finished),
        touched_bytes: reports.iter().map(|layer| layer.present_bytes).sum(),
        total_bytes: reports.iter().map(|layer| layer.total_bytes).sum(),
        optimized: None,
    };
    layers.shutdown().await;
    Ok((lazy, finished, mounter))
}

async fn run(image: &SourceImage, stack: &Stack, command: &[String]) -> Result<(Finished, f64)> {
    let program = image.program(command)?;
    let began = Instant::now();
    let finished = run_program(&program, stack).await.context("cannot run the image's program")?;
    Ok((finished, began.elapsed().as_secs_f64()))
}

fn way(bytes: u64, requests: u64, seconds: (f64, f64), finished: &Finished) -> Way {
    let (pull_seconds, run_seconds) = seconds;
    Way {
        bytes,
        requests,
        seconds: pull_seconds + run_seconds,
        pull_seconds,
        run_seconds,
        exit: exit_code(finished.status),
    }
}
