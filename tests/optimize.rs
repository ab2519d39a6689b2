//! What `bolide optimize` records of real images, beside what strace sees of the same run.
use std::{
    collections::{HashMap, HashSet},
    fs::{self, File},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use bolide_e2e::{
    DaemonOptions, Image, Lab, MountsBelow, TracedRunc, Used, bolide, from_environment, run,
};
use rustix::fs::{Mode, OFlags, ResolveFlags, open, openat2};
use serde::Deserialize;

/// A debug build under strace.
const PATIENCE: Duration = Duration::from_mins(10);
/// What every program of the images says at its end.
const PRINTED: &str = "bolide-e2e: ";
/// What a container sees in place of the image's.
const COVERED: [&str; 8] =
    ["/proc", "/sys", "/dev", "/run", "/etc/hosts", "/etc/resolv.conf", "/etc/hostname", "/tmp"];

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    path: PathBuf,
    layer_index: usize,
    uses: HashSet<String>,
    #[serde(default)]
    ranges: Vec<[u64; 2]>,
}

fn read_record(path: &Path) -> Result<Vec<Line>> {
    let text = fs::read_to_string(path).context("the record")?;
    text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

#[test]
#[ignore = "needs root, containerd and images: cargo xtask e2e"]
fn a_record_of_python_lacks_nothing_that_strace_sees() -> Result<()> {
    check("BOLIDE_E2E_LAYOUT")
}

#[test]
#[ignore = "needs root, containerd and images: cargo xtask e2e"]
fn a_record_of_node_lacks_nothing_that_strace_sees() -> Result<()> {
    check("BOLIDE_E2E_NODE_LAYOUT")
}

#[test]
#[ignore = "needs root, containerd and images: cargo xtask e2e"]
fn a_record_of_postgres_lacks_nothing_that_strace_sees() -> Result<()> {
    check("BOLIDE_E2E_POSTGRES_LAYOUT")
}

fn check(variable: &str) -> Result<()> {
    let dir = tempfile::Builder::new().prefix("bolide-e2e-").tempdir()?;
    let _mounts = MountsBelow(dir.path().to_owned());
    let layout = from_environment(variable)?;
    let source = format!("oci:{}", layout.display());
    let runc = TracedRunc::new()?;
    let record = dir.path().join("record");
    let mut command = bolide(["optimize", "--period", "10m", "--level", "1", "--record-out"])?;
    command.arg(&record).arg(&source).arg(format!("oci:{}", dir.path().join("out").display()));
    let printed = run(command.env("PATH", runc.path()?), PATIENCE)?.success("bolide optimize")?;
    ensure!(printed.contains(PRINTED), "{printed}");
    let lines = read_record(&record)?;
    let layers = Image::open(&layout)?.layers.len();
    ensure!(lines.iter().all(|line| line.layer_index < layers), "a layer that is none");

    let root = dir.path().join("root");
    fs::create_dir(&root)?;
    let mut mount = bolide(["mount", "--background", &source])?;
    run(mount.arg(&root), PATIENCE)?.success("bolide mount")?;
    let missing = missing(&root, &lines, &runc);
    run(bolide(["umount"])?.arg(&root), PATIENCE)?.success("bolide umount")?;
    let (checked, missing) = missing?;
    ensure!(missing.is_empty(), "{} of {checked} are missing: {missing:#?}", missing.len());
    // Dozens of files, each opened, and most of them read.
    ensure!(checked > 50, "strace saw next to nothing: {checked} uses");
    Ok(())
}

/// How many uses strace saw of the image, and which of them the record lacks.
fn missing(root: &Path, lines: &[Line], runc: &TracedRunc) -> Result<(usize, Vec<String>)> {
    // Files have several names: the record has one of them.
    let mut recorded = HashMap::<(u64, u64), HashSet<&str>>::new();
    for line in lines {
        let path = root.join(&line.path);
        let found = path.symlink_metadata().with_context(|| path.display().to_string())?;
        let uses = recorded.entry((found.dev(), found.ino())).or_default();
        uses.extend(line.uses.iter().map(String::as_str));
        ensure!(line.uses.contains("read") || line.ranges.is_empty(), "{line:?}");
        ensure!(
            line.ranges.iter().all(|[start, end]| start < end && *end <= found.len()),
            "{line:?}"
        );
    }
    let (mut checked, mut missing) = (0, Vec::new());
    for (used, path) in runc.uses()? {
        if path == Path::new("/") || COVERED.iter().any(|covered| path.starts_with(covered)) {
            continue;
        }
        // What the workload made itself is not there.
        let Some(node) = node(root, &path, used != Used::LinkRead) else { continue };
        let wanted: &[&str] = match used {
            Used::Opened => &["open"],
            Used::Executed => &["open", "read"],
            Used::Read => &["read"],
            Used::Listed => &["list"],
            Used::LinkRead => &["link"],
        };
        checked += 1;
        let held = recorded.get(&node);
        if !wanted.iter().all(|word| held.is_some_and(|held| held.contains(word))) {
            missing.push(format!("{used:?} {}", path.display()));
        }
    }
    missing.sort();
    Ok((checked, missing))
}

/// Device and number of what a path means inside of the root.
fn node(root: &Path, path: &Path, follow: bool) -> Option<(u64, u64)> {
    let dir = open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let mut flags = OFlags::PATH | OFlags::CLOEXEC;
    if !follow {
        flags |= OFlags::NOFOLLOW;
    }
    let file = openat2(dir, path, flags, Mode::empty(), ResolveFlags::IN_ROOT).ok()?;
    let found = File::from(file).metadata().ok()?;
    Some((found.dev(), found.ino()))
}

/// Requests for a layer of an optimized image: for its footer, for the rest of a table of contents
/// that is larger than what comes with it, for what is used first, and one more.
const REQUESTS: u64 = 4;

#[test]
#[ignore = "needs root, containerd and images: cargo xtask e2e"]
fn an_optimized_image_starts_with_one_prefetch_a_layer() -> Result<()> {
    let lab = Lab::start(&DaemonOptions::default())?;
    let host = lab.registry.host();
    let layout = from_environment("BOLIDE_E2E_LAYOUT")?;
    let reference = format!("{host}/python:fast");
    let mut command = bolide(["optimize", "--plain-http", &host])?;
    command.arg(format!("oci:{}:python", layout.display())).arg(&reference);
    run(&mut command, PATIENCE)?.success("bolide optimize")?;
    let image = lab.registry.image("python", "fast")?;
    lab.pull("default", &reference)?;
    let printed = lab.containerd.run_container("default", "bolide", &reference, &[])?;
    ensure!(printed.contains(PRINTED), "{printed}");
    let served = lab.registry.served()?;
    for layer in &image.layers {
        let served = served.get(&layer.digest).copied().unwrap_or_default();
        ensure!(served.requests <= REQUESTS, "{served:?} of {layer:?}");
        ensure!(served.bytes * 2 < layer.size, "{served:?} of {layer:?}");
    }
    Ok(())
}
