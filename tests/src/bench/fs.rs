//! A large layer over loopback: what its mount costs, and reads of it beside a plain directory.
use std::{fs, path::Path};

use anyhow::{Context as _, Result, ensure};
use bolide_e2e::{Daemon, Image, Registry, mounts_below};

use crate::{
    cache, content,
    host::{self, as_f64, drop_caches},
    interrupt::Interrupt,
    node::{Node, timed},
    reads::{self, Rate},
    report::{Figure, FileSystem},
    spread::Spread,
};

const IMAGE: &str = "large:esgz";

#[derive(Clone, Copy, Debug)]
enum Side {
    Bolide,
    Directory,
}

/// Measures both sides `runs` times, in turn.
pub(crate) fn measure(interrupt: &Interrupt, runs: u32) -> Result<FileSystem> {
    let dir = tempfile::Builder::new().prefix("bolide-bench-").tempdir()?;
    let registry = Registry::start(&dir.path().join("registry"))?;
    let layout = cache::directory("large", content::RECIPE, content::write_layout)?;
    registry.push(&Image::open(&layout)?, "large", "esgz")?;
    let tree = dir.path().join("tree");
    fs::create_dir(&tree)?;
    content::write_tree(&tree)?;
    let mut figures = Figures::default();
    let mut mounter = String::new();
    for run in 0..runs {
        interrupt.check()?;
        eprintln!("bench: file system {} of {runs}, bolide", run + 1);
        mounter = layer(&registry, &mut figures)?;
        interrupt.check()?;
        eprintln!("bench: file system {} of {runs}, directory", run + 1);
        metadata(Side::Directory, &tree, &mut figures)?;
        content_at_hand(Side::Directory, &tree, &mut figures)?;
    }
    Ok(FileSystem {
        mounter,
        beside: host::file_system(&tree)?,
        files: content::SMALL_FILES + 1,
        large_mib: content::LARGE >> 20,
        figures: figures.finish(),
    })
}

/// One life of a mounted layer; returns the name of its mounter.
fn layer(registry: &Registry, figures: &mut Figures) -> Result<String> {
    let side = Side::Bolide;
    // What the daemon costs without any layer, in the same state as with one below.
    let (mut node, (alone, before)) = Node::start_after(&registry.host(), restart)?;
    figures.add(side, "start of the daemon, no layer", "s", alone);
    figures.add(side, "memory of the daemon, no layer", "MB", before.rss);

    drop_caches()?;
    let pulled = node.pull_lazily(IMAGE)?;
    let seconds = pulled.layers.first().context("one layer")?.seconds;
    figures.add(side, "first mount, Prepare to answer", "s", seconds);
    let mounted = host::memory(node.daemon.id()?)?;
    figures.add(side, "memory more, after the first mount", "MB", mounted.rss - before.rss);
    figures.add(side, "peak of it", "MB", mounted.peak - before.rss);

    let (again, after) = restart(&mut node.daemon)?;
    figures.add(side, "mount with its index on disk", "s", again - alone);
    figures.add(side, "memory more, index from disk", "MB", after.rss - before.rss);

    let root = mounts_below(&node.daemon.root())?.pop().context("no layer is mounted")?;
    metadata(side, &root, figures)?;
    let walked = host::memory(node.daemon.id()?)?;
    figures.add(side, "memory more, after the walks", "MB", walked.rss - before.rss);
    first_touch(&root, figures)?;
    reads::sequential(&root.join(content::large()), 0..content::LARGE)?;
    content_at_hand(side, &root, figures)?;
    let read = host::memory(node.daemon.id()?)?;
    figures.add(side, "memory more, after all reads", "MB", read.rss - before.rss);
    figures.add(side, "peak of it since the restart", "MB", read.peak - before.rss);
    let layer = node.daemon.status()?.layers.into_iter().next();
    layer.and_then(|layer| layer.mounter).context("no lazy layer")
}

/// Stops the daemon and starts it; returns the seconds until it serves all it had mounted.
fn restart(daemon: &mut Daemon) -> Result<(f64, host::Memory)> {
    daemon.stop()?;
    let (taken, ()) = timed(|| daemon.resume())?;
    Ok((taken.as_secs_f64(), host::memory(daemon.id()?)?))
}

/// Walks, with the caches of the kernel empty and full.
fn metadata(side: Side, root: &Path, figures: &mut Figures) -> Result<()> {
    for (name, walk) in
        [("walk and lstat", reads::stat as fn(&Path) -> _), ("find -type f", reads::list)]
    {
        drop_caches()?;
        for state in ["caches dropped", "warm"] {
            let (files, seconds): (u64, f64) = walk(root)?;
            ensure!(files == content::SMALL_FILES + 1, "{files} files in {}", root.display());
            figures.add(side, &format!("{name}, {state}"), "files/s", as_f64(files) / seconds);
        }
    }
    Ok(())
}

/// Reads what nobody has read: through the registry.
fn first_touch(root: &Path, figures: &mut Figures) -> Result<()> {
    let (large, half) = (root.join(content::large()), content::LARGE / 2);
    // The second half first: reading on from the first would run ahead into it.
    let rate = reads::random(&large, &(half..content::LARGE))?;
    figures.rate(Side::Bolide, "4 KiB random, first touch", rate);
    let speed = reads::sequential(&large, 0..half)?;
    figures.add(Side::Bolide, "128 KiB sequential, first touch", "MB/s", speed);
    let rate = reads::small_files(root)?;
    figures.rate(Side::Bolide, "1,500 small files, first touch", rate);
    Ok(())
}

/// Reads what is on this machine, with the page cache empty and full.
fn content_at_hand(side: Side, root: &Path, figures: &mut Figures) -> Result<()> {
    let (large, whole) = (root.join(content::large()), 0..content::LARGE);
    drop_caches()?;
    let before = host::page_cache()?;
    let speed = reads::sequential(&large, whole.clone())?;
    let held = host::page_cache()?.saturating_sub(before);
    figures.add(side, "128 KiB sequential, page cache dropped", "MB/s", speed);
    let held = as_f64(held) / as_f64(content::LARGE);
    figures.add(side, "page cache held for a byte read", "bytes", held);
    let speed = reads::sequential(&large, whole.clone())?;
    figures.add(side, "128 KiB sequential, hot", "MB/s", speed);
    figures.rate(side, "4 KiB random, hot", reads::random(&large, &whole)?);
    drop_caches()?;
    figures.rate(side, "4 KiB random, page cache dropped", reads::random(&large, &whole)?);
    drop_caches()?;
    figures.rate(side, "1,500 small files, page cache dropped", reads::small_files(root)?);
    figures.rate(side, "1,500 small files, hot", reads::small_files(root)?);
    Ok(())
}

/// Figures in the order they were first taken.
#[derive(Debug, Default)]
struct Figures(Vec<Samples>);

#[derive(Debug)]
struct Samples {
    name: String,
    unit: &'static str,
    bolide: Vec<f64>,
    directory: Vec<f64>,
}

impl Figures {
    fn add(&mut self, side: Side, name: &str, unit: &'static str, value: f64) {
        let known = self.0.iter().position(|samples| samples.name == name);
        let at = known.unwrap_or_else(|| {
            let name = name.to_owned();
            self.0.push(Samples { name, unit, bolide: Vec::new(), directory: Vec::new() });
            self.0.len() - 1
        });
        match side {
            Side::Bolide => self.0[at].bolide.push(value),
            Side::Directory => self.0[at].directory.push(value),
        }
    }

    fn rate(&mut self, side: Side, name: &str, rate: Rate) {
        self.add(side, name, "1/s", rate.per_second);
        self.add(side, &format!("{name}: half within"), "us", rate.p50);
        self.add(side, &format!("{name}: 99 % within"), "us", rate.p99);
    }

    fn finish(self) -> Vec<Figure> {
        let spread = |samples: Vec<f64>| (!samples.is_empty()).then(|| Spread::of(samples));
        let figure = |Samples { name, unit, bolide, directory }| Figure {
            name,
            unit,
            bolide: spread(bolide),
            directory: spread(directory),
        };
        self.0.into_iter().map(figure).collect()
    }
}
