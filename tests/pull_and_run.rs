//! From an image in a registry to a container that prints, most of the image staying where it was.
use std::{
    os::unix::fs::MetadataExt as _,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use bolide_e2e::{DaemonOptions, Image, Lab, touched_bytes};

/// What the program of the image says at its end.
const PRINTED: &str = "bolide-e2e: ";
/// Label of a snapshot that is shown lazily.
const REMOTE: &str = "containerd.io/snapshot/remote";

#[test]
#[ignore = "needs root, containerd and images: cargo xtask e2e"]
fn a_lazy_container_prints_while_its_layers_stay_in_the_registry() -> Result<()> {
    let lab = Lab::start(&DaemonOptions::default())?;
    let (reference, image) = lab.push_estargz()?;
    lab.pull("default", &reference)?;
    expect_remote(&lab, "default", &image)?;
    let sent_for_the_index = lab.registry.layer_bytes_served(&image)?;

    let printed = lab.containerd.run_container("default", "bolide", &reference, &[])?;
    ensure!(printed.contains(PRINTED), "{printed}");

    let sent = lab.registry.layer_bytes_served(&image)?;
    let all = image.layer_bytes();
    ensure!(sent * 5 < all, "the registry sent {sent} of {all} bytes of layers");
    let files = lab.opened_files()?;
    let sizes: Vec<_> = image.layers.iter().map(|layer| layer.size).collect();
    let touched = touched_bytes(&lab.registry.host(), &reference, &sizes, &files)?;
    let fetched = sent - sent_for_the_index;
    ensure!(fetched * 10 <= touched * 13, "{fetched} bytes were sent, {touched} were touched");
    Ok(())
}

#[test]
#[ignore = "needs root, containerd and images: cargo xtask e2e"]
fn background_fill_brings_the_rest() -> Result<()> {
    let lab = Lab::start(&DaemonOptions { background: true, ..DaemonOptions::default() })?;
    let (reference, image) = lab.push_estargz()?;
    lab.pull("default", &reference)?;
    let complete = |lab: &Lab| -> Result<bool> {
        let status = lab.daemon.status()?;
        let whole = status.layers.iter().filter(|layer| layer.present_bytes == layer.total_bytes);
        ensure!(status.layers.iter().all(|layer| layer.whole != Some(false)), "{status:?}");
        // The base is checked as a whole. The application's layer holds a copy of a file below it,
        // which is taken from there: too little of its blob passes through for a check.
        let base = status.layers.iter().find(|layer| layer.blob == image.layers[0].digest);
        let checked = base.is_some_and(|base| base.whole == Some(true));
        Ok(checked && whole.count() == image.layers.len())
    };
    // Each question takes a process of its own, so this does not spin.
    let deadline = Instant::now() + Duration::from_mins(2);
    while !complete(&lab)? {
        ensure!(Instant::now() < deadline, "{:?}", lab.daemon.status()?);
    }
    let sent = lab.registry.layer_bytes_served(&image)?;
    let all = image.layer_bytes();
    ensure!(sent * 10 >= all * 9, "complete, though the registry sent {sent} of {all} bytes");
    ensure!(sent * 10 <= all * 11, "the registry sent {sent} bytes of layers of {all}");
    Ok(())
}

#[test]
#[ignore = "needs root, containerd and images: cargo xtask e2e"]
fn an_estargz_image_runs_with_overlayfs() -> Result<()> {
    let lab = Lab::start(&DaemonOptions::default())?;
    let (reference, _) = lab.push_estargz()?;
    let arguments = ["images", "pull", "--plain-http", "--snapshotter", "overlayfs", &reference];
    lab.containerd.ctr("default", arguments)?;
    let printed = lab.containerd.run_container("default", "overlayfs", &reference, &[])?;
    ensure!(printed.contains(PRINTED), "{printed}");
    Ok(())
}

#[test]
#[ignore = "needs root, containerd and images: cargo xtask e2e"]
fn a_plain_image_falls_back_and_status_says_why() -> Result<()> {
    let lab = Lab::start(&DaemonOptions::default())?;
    let (reference, image) = lab.push_plain()?;
    lab.pull("default", &reference)?;
    let printed = lab.containerd.run_container("default", "bolide", &reference, &[])?;
    ensure!(printed.contains(PRINTED), "{printed}");

    let status = lab.daemon.status()?;
    ensure!(status.layers.is_empty(), "no layer can be lazy: {:?}", status.layers);
    for layer in &image.layers {
        let entry = status.not_lazy.iter().find(|entry| entry.blob == layer.digest);
        let reason = &entry.with_context(|| format!("{} in {status:?}", layer.digest))?.reason;
        ensure!(!reason.is_empty(), "no reason for {}", layer.digest);
    }
    Ok(())
}

#[test]
#[ignore = "needs root, containerd and images: cargo xtask e2e"]
fn a_second_namespace_reuses_the_snapshots() -> Result<()> {
    let lab = Lab::start(&DaemonOptions::default())?;
    let (reference, image) = lab.push_estargz()?;
    lab.pull("one", &reference)?;
    let printed = lab.containerd.run_container("one", "bolide", &reference, &[])?;
    let mounts = lab.mounts()?.len();
    let sent = lab.registry.layer_bytes_served(&image)?;

    lab.pull("two", &reference)?;
    expect_remote(&lab, "two", &image)?;
    ensure!(lab.mounts()?.len() == mounts, "mounted twice: {:?}", lab.mounts()?);
    let again = lab.containerd.run_container("two", "bolide", &reference, &[])?;
    ensure!(printed == again, "{printed}\n{again}");
    let sent_again = lab.registry.layer_bytes_served(&image)?;
    ensure!(sent_again == sent, "the registry sent {} bytes more", sent_again - sent);
    Ok(())
}

#[test]
#[ignore = "needs root, containerd and images: cargo xtask e2e"]
fn removing_the_image_unmounts_and_frees() -> Result<()> {
    let lab = Lab::start(&DaemonOptions::default())?;
    let (reference, image) = lab.push_estargz()?;
    let before = lab.mounts()?;
    let snapshots = lab.daemon.root().join("snapshots");
    lab.pull("default", &reference)?;
    lab.containerd.run_container("default", "bolide", &reference, &[])?;
    ensure!(lab.mounts()?.len() >= before.len() + image.layers.len(), "{:?}", lab.mounts()?);
    let used = disk_bytes(&lab.daemon.root())?;

    lab.containerd.remove_image("default", &reference)?;
    ensure!(lab.containerd.snapshots("default", "bolide")?.is_empty(), "snapshots are left");
    ensure!(lab.mounts()? == before, "mounts are left: {:?}", lab.mounts()?);
    ensure!(disk_bytes(&snapshots)? == 0, "files of snapshots are left");
    let left = disk_bytes(&lab.daemon.root())?;
    ensure!(left * 10 < used, "{left} of {used} bytes are left on disk");
    ensure!(lab.daemon.status()?.layers.is_empty(), "layers are left");
    Ok(())
}

#[test]
#[ignore = "needs root, containerd and images: cargo xtask e2e"]
fn a_restarted_daemon_needs_no_registry_for_what_is_local() -> Result<()> {
    // Whatever tiers there are, the layer images answer.
    for cache in ["", "memory = \"16MiB\"\nsled = \"64MiB\""] {
        let options = DaemonOptions { cache: cache.to_owned(), ..DaemonOptions::default() };
        restart_without_registry(&options).with_context(|| format!("cache {cache:?}"))?;
    }
    Ok(())
}

fn restart_without_registry(options: &DaemonOptions) -> Result<()> {
    let mut lab = Lab::start(options)?;
    let (reference, image) = lab.push_estargz()?;
    lab.pull("default", &reference)?;
    let printed = lab.containerd.run_container("default", "bolide", &reference, &[])?;
    let snapshots = lab.containerd.snapshots("default", "bolide")?;

    lab.registry.stop()?;
    lab.daemon.stop()?;
    lab.daemon.resume()?;
    lab.containerd.wait_for_snapshotter("bolide")?;
    ensure!(lab.containerd.snapshots("default", "bolide")? == snapshots, "snapshots changed");
    ensure!(lab.daemon.status()?.layers.len() == image.layers.len(), "layers are missing");
    let again = lab.containerd.run_container("default", "bolide", &reference, &[])?;
    ensure!(printed == again, "{printed}\n{again}");
    Ok(())
}

/// Every layer must be a remote snapshot upon the one below.
fn expect_remote(lab: &Lab, namespace: &str, image: &Image) -> Result<()> {
    for layer in &image.layers {
        let info = lab.containerd.snapshot_info(namespace, &layer.chain_id)?;
        ensure!(info["Labels"].get(REMOTE).is_some(), "{} is not lazy: {info}", layer.digest);
    }
    Ok(())
}

/// Bytes that the files below a directory occupy on disk.
fn disk_bytes(dir: &Path) -> Result<u64> {
    let mut total = 0;
    for entry in std::fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let path = entry?.path();
        let meta = match path.symlink_metadata() {
            // The daemon works while this looks.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            meta => meta.with_context(|| path.display().to_string())?,
        };
        total += if meta.is_dir() { disk_bytes(&path)? } else { meta.blocks() * 512 };
    }
    Ok(total)
}
