//! Converting an image: how fast, how large, in how much memory; beside the reference's converter where
//! a caller points at one.
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use bolide_e2e::{Containerd, Image, Process, Registry, bolide, from_environment};
use serde::Deserialize;
use tempfile::TempDir;

use crate::{
    host::{self, as_f64},
    interrupt::Interrupt,
    large_layer,
    report::{Conversion, Way},
    spread::Spread,
};

/// How often memory is looked at.
const SAMPLE: Duration = Duration::from_millis(10);
const LIMIT: Duration = Duration::from_mins(30);
/// Compressed alike by both: the reference's own level.
const LEVEL: &str = "9";

/// One conversion.
#[derive(Clone, Copy, Debug)]
struct Sample {
    seconds: f64,
    /// Most memory that the converter held, in MB.
    peak: f64,
    /// Compressed size of the layers made, in MB.
    size: f64,
}

#[derive(Debug, Deserialize)]
struct Report {
    layers: Vec<ReportedLayer>,
}

#[derive(Debug, Deserialize)]
struct ReportedLayer {
    size: u64,
    uncompressed_size: u64,
}

/// Measures all ways `runs` times, in turn.
pub(crate) fn measure(
    interrupt: &Interrupt,
    runs: u32,
    reference: Option<&Path>,
    large: bool,
) -> Result<Conversion> {
    let source = from_environment("BOLIDE_E2E_LAYOUT")?;
    let plain = Image::open(&source)?;
    let source = format!("oci:{}:python", source.display());
    let reference = reference.map(|program| Reference::start(program, &plain)).transpose()?;
    let ways: [(&str, &[&str]); 4] = [
        ("bolide, estargz, level 9", &["--level", LEVEL]),
        ("bolide, estargz, level 9, one thread", &["--level", LEVEL, "--parallelism", "1"]),
        ("bolide, estargz, level 6", &["--level", "6"]),
        ("bolide, zstd-chunked, level 3", &["--format", "zstd-chunked"]),
    ];
    let mut samples: Vec<(String, Vec<Sample>)> = Vec::new();
    let mut uncompressed = 0;
    for run in 0..runs {
        for (name, options) in ways {
            interrupt.check()?;
            eprintln!("bench: {name}, {} of {runs}", run + 1);
            let (sample, size) = convert(&source, options)?;
            uncompressed = size;
            add(&mut samples, name, sample);
        }
        if let Some(reference) = &reference {
            interrupt.check()?;
            eprintln!("bench: the reference, {} of {runs}", run + 1);
            add(&mut samples, "ctr-remote, estargz, level 9", reference.convert(run)?);
        }
    }
    let large_layer = large.then(|| large_layer::measure(interrupt)).transpose()?;
    Ok(Conversion {
        image_mb: megabytes(plain.layer_bytes()),
        uncompressed_mb: megabytes(uncompressed),
        ways: samples.into_iter().map(|(name, samples)| way(name, &samples)).collect(),
        large_layer,
    })
}

fn add(all: &mut Vec<(String, Vec<Sample>)>, name: &str, sample: Sample) {
    match all.iter_mut().find(|(known, _)| known == name) {
        Some((_, samples)) => samples.push(sample),
        None => all.push((name.to_owned(), vec![sample])),
    }
}

fn way(name: String, samples: &[Sample]) -> Way {
    let spread = |of: fn(&Sample) -> f64| Spread::of(samples.iter().map(of).collect());
    Way {
        name,
        seconds: spread(|sample| sample.seconds),
        peak: spread(|sample| sample.peak),
        size: spread(|sample| sample.size),
    }
}

/// Converts an image into a layout that is thrown away, as one sample.
pub(crate) fn once(source: &str, options: &[&str]) -> Result<Way> {
    let (sample, _) = convert(source, options)?;
    Ok(way(options.join(" "), &[sample]))
}

/// The same; returns the uncompressed size of its layers, too.
fn convert(source: &str, options: &[&str]) -> Result<(Sample, u64)> {
    let dir = tempfile::Builder::new().prefix("bolide-bench-").tempdir()?;
    let mut command = bolide(["convert", "--json", source])?;
    command.arg(format!("oci:{}", dir.path().join("out").display())).args(options);
    let (seconds, peak, stdout) = watched("bolide convert", &mut command, dir.path())?;
    let report: Report = serde_json::from_str(&stdout).context("the report of bolide convert")?;
    let sum = |of: fn(&ReportedLayer) -> u64| report.layers.iter().map(of).sum();
    let sample = Sample { seconds, peak, size: megabytes(sum(|layer| layer.size)) };
    Ok((sample, sum(|layer| layer.uncompressed_size)))
}

/// Runs a program to its end; returns the seconds it took, the most memory it held in MB, and what
/// it printed.
fn watched(name: &str, command: &mut Command, dir: &Path) -> Result<(f64, f64, String)> {
    let (out, err) = (dir.join("stdout"), dir.join("stderr"));
    let began = Instant::now();
    let mut process = Process::spawn(name, command, &out, &err)?;
    let mut peak = 0.0_f64;
    let status = loop {
        // A process that has just ended has no memory to look at.
        peak = host::memory(process.id()).map_or(peak, |memory| peak.max(memory.peak));
        if let Some(status) = process.wait(SAMPLE)? {
            break status;
        }
        ensure!(began.elapsed() < LIMIT, "{name} did not end in {LIMIT:?}");
    };
    let seconds = began.elapsed().as_secs_f64();
    ensure!(status.success(), "{name}: {status}\n{}", fs::read_to_string(err)?);
    Ok((seconds, peak, fs::read_to_string(out)?))
}

/// The reference's converter and the containerd it works in.
struct Reference {
    program: PathBuf,
    containerd: Containerd,
    source: String,
    dir: TempDir,
    _registry: Registry,
}

impl Reference {
    fn start(program: &Path, plain: &Image) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("bolide-bench-").tempdir()?;
        let registry = Registry::start(&dir.path().join("registry"))?;
        registry.push(plain, "python", "plain")?;
        // No snapshotter is asked for anything.
        let nobody = dir.path().join("nobody.sock");
        let containerd = Containerd::start(&dir.path().join("containerd"), &nobody)?;
        let source = format!("{}/python:plain", registry.host());
        containerd.ctr("default", ["content", "fetch", "--plain-http", &source])?;
        let program = program.to_owned();
        Ok(Self { program, containerd, source, dir, _registry: registry })
    }

    fn convert(&self, run: u32) -> Result<Sample> {
        let target = format!("{}-{run}", self.source);
        let mut command = Command::new(&self.program);
        command.arg("--address").arg(self.containerd.socket()).args(["images", "convert"]);
        command.args(["--estargz", "--oci", "--estargz-compression-level", LEVEL]);
        command.args(["--estargz-parallelism", &host::cpus()?.to_string()]);
        command.args([&self.source, &target]);
        let (seconds, peak, _) = watched("ctr-remote", &mut command, self.dir.path())?;
        let size = self.layer_bytes(&target)?;
        // Without it, the next conversion finds its layers made.
        self.containerd.ctr("default", ["images", "rm", "--sync", &target])?;
        Ok(Sample { seconds, peak, size: megabytes(size) })
    }

    /// Compressed size of the layers of an image in the content store.
    fn layer_bytes(&self, name: &str) -> Result<u64> {
        let blob = |digest: &str| self.containerd.ctr("default", ["content", "get", digest]);
        let listed = self.containerd.ctr("default", ["images", "ls", &format!("name=={name}")])?;
        let line = listed.lines().nth(1).context("the converted image is not listed")?;
        let digest = line.split_whitespace().find(|word| word.starts_with("sha256:"));
        let mut document: serde_json::Value =
            serde_json::from_str(&blob(digest.context("digest of an image")?)?)?;
        if let Some(manifest) = document["manifests"][0]["digest"].as_str() {
            document = serde_json::from_str(&blob(manifest)?)?;
        }
        let layers = document["layers"].as_array().context("layers")?;
        layers.iter().map(|layer| layer["size"].as_u64().context("size of a layer")).sum()
    }
}

fn megabytes(bytes: u64) -> f64 {
    as_f64(bytes) / 1e6
}
