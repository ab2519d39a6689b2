//! From an image in a registry to the end of its program, on a node that has never seen it.
use std::time::Duration;

use anyhow::{Context as _, Result};
use bolide_e2e::Registry;
use tokio::runtime::Runtime;

use crate::{
    host::{as_f64, drop_caches, memory},
    images,
    interrupt::Interrupt,
    link::{Link, SHAPE},
    node::{Node, timed},
    report::{Cold, Mode},
    spread::Spread,
};

/// Round trips that no order of work can avoid: name to manifest, manifest to layers, content.
const ROUND_TRIPS: u32 = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Overlayfs,
    Bolide,
    Landmark,
}

impl Way {
    const ALL: [Self; 3] = [Self::Overlayfs, Self::Bolide, Self::Landmark];

    fn name(self) -> &'static str {
        match self {
            Self::Overlayfs => "overlayfs",
            Self::Bolide => "bolide, no hints",
            Self::Landmark => "bolide, landmark",
        }
    }

    fn image(self) -> &'static str {
        match self {
            Self::Overlayfs => "python:plain",
            Self::Bolide => "python:esgz",
            Self::Landmark => "python:landmark",
        }
    }

    fn is_lazy(self) -> bool {
        self != Self::Overlayfs
    }
}

/// One cold start.
#[derive(Clone, Copy, Debug)]
struct Sample {
    pull: Duration,
    create: Duration,
    run: Duration,
    received: u64,
    requests: u64,
    connections: u64,
    rss: f64,
    peak: f64,
}

/// The registry and the line to it, which outlive the nodes that pull.
#[derive(Debug)]
struct Remote {
    link: Link,
    registry: Registry,
}

/// Measures every way, `runs` times, one after the other so that all meet the same moods of the
/// machine.
pub(crate) fn measure(runtime: &Runtime, interrupt: &Interrupt, runs: u32) -> Result<Cold> {
    let dir = tempfile::Builder::new().prefix("bolide-bench-").tempdir()?;
    let registry = Registry::start(&dir.path().join("registry"))?;
    let (plain, needed) = images::push(&registry)?;
    let remote = Remote { link: Link::start(runtime, registry.address())?, registry };
    let mut samples = Way::ALL.map(|_| Vec::new());
    let (mut warm, mut mounter) = (Vec::new(), String::new());
    for run in 0..runs {
        for (way, samples) in Way::ALL.into_iter().zip(&mut samples) {
            interrupt.check()?;
            eprintln!("bench: cold start {} of {runs}, {}", run + 1, way.name());
            let mut node = Node::start(&remote.link.host())?;
            samples.push(sample(&remote, &mut node, way)?);
            if way.is_lazy() {
                let layer = node.daemon.status()?.layers.into_iter().next();
                mounter = layer.and_then(|layer| layer.mounter).context("no lazy layer")?;
            } else {
                let (create, run) = node.start_container("overlayfs", way.image())?;
                warm.push((create + run).as_secs_f64());
            }
        }
    }
    let warm = Spread::of(warm);
    let fetching = SHAPE.transmission(needed) + ROUND_TRIPS * SHAPE.rtt;
    Ok(Cold {
        link: SHAPE.to_string(),
        mounter,
        image_mb: as_f64(plain.layer_bytes()) / 1e6,
        needed_mb: as_f64(needed) / 1e6,
        floor: warm.median + fetching.as_secs_f64(),
        warm,
        modes: Way::ALL.into_iter().zip(&samples).map(|(way, all)| mode(way, all)).collect(),
    })
}

fn sample(remote: &Remote, node: &mut Node, way: Way) -> Result<Sample> {
    let snapshotter = if way.is_lazy() { "bolide" } else { "overlayfs" };
    drop_caches()?;
    let (before, asked) = (remote.link.counters(), remote.registry.requests()?);
    let (pull, ()) = if way.is_lazy() {
        timed(|| node.pull_lazily(way.image()).map(drop))?
    } else {
        timed(|| node.pull_whole(way.image()))?
    };
    let (create, run) = node.start_container(snapshotter, way.image())?;
    let after = remote.link.counters();
    let memory = memory(node.daemon.id()?)?;
    Ok(Sample {
        pull,
        create,
        run,
        received: after.received - before.received,
        requests: remote.registry.requests()? - asked,
        connections: after.connections - before.connections,
        rss: memory.rss,
        peak: memory.peak,
    })
}

fn mode(way: Way, samples: &[Sample]) -> Mode {
    let spread = |figure: &dyn Fn(&Sample) -> f64| Spread::of(samples.iter().map(figure).collect());
    Mode {
        name: way.name().to_owned(),
        pull: spread(&|sample| sample.pull.as_secs_f64()),
        create: spread(&|sample| sample.create.as_secs_f64()),
        run: spread(&|sample| sample.run.as_secs_f64()),
        total: spread(&|sample| (sample.pull + sample.create + sample.run).as_secs_f64()),
        received: spread(&|sample| as_f64(sample.received) / 1e6),
        requests: spread(&|sample| as_f64(sample.requests)),
        connections: spread(&|sample| as_f64(sample.connections)),
        rss: way.is_lazy().then(|| spread(&|sample| sample.rss)),
        peak: way.is_lazy().then(|| spread(&|sample| sample.peak)),
    }
}
