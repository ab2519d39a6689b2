//! Images that other tools made for lazy pulling, in their own formats.
use std::{path::PathBuf, process::Command, time::Duration};

use anyhow::{Context as _, Result, ensure};
use bolide_e2e::{DaemonOptions, Image, Lab, Tree, detach_below, from_environment, run};

/// Compressing a whole image.
const CONVERSION: Duration = Duration::from_mins(5);
/// What the program of the image says at its end.
const PRINTED: &str = "bolide-e2e: ";

#[test]
#[ignore = "needs root, containerd and images: cargo xtask e2e"]
fn what_skopeo_makes_zstd_chunked_starts_lazily() -> Result<()> {
    let mut lab = Lab::start(&DaemonOptions::default())?;
    let (reference, image) = push_zstd_chunked(&lab)?;
    lab.pull("default", &reference)?;
    let printed = lab.containerd.run_container("default", "bolide", &reference, &[])?;
    ensure!(printed.contains(PRINTED), "{printed}");
    let status = lab.daemon.status()?;
    ensure!(status.layers.len() == image.layers.len(), "not all are lazy: {status:?}");
    ensure!(status.not_lazy.is_empty(), "{status:?}");
    let (sent, all) = (lab.registry.layer_bytes_served(&image)?, image.layer_bytes());
    ensure!(sent * 5 < all, "the registry sent {sent} of {all} bytes of layers");

    expect_the_ordinary_tree(&lab, &reference)?;

    lab.registry.stop()?;
    lab.daemon.stop()?;
    lab.daemon.resume()?;
    lab.containerd.wait_for_snapshotter("bolide")?;
    let status = lab.daemon.status()?;
    ensure!(status.layers.len() == image.layers.len(), "layers are missing: {status:?}");
    let again = lab.containerd.run_container("default", "bolide", &reference, &[])?;
    ensure!(printed == again, "{printed}\n{again}");
    Ok(())
}

/// Pushes the image as skopeo compresses it; returns its reference.
fn push_zstd_chunked(lab: &Lab) -> Result<(String, Image)> {
    let layout = from_environment("BOLIDE_E2E_LAYOUT")?;
    let reference = format!("{}/python:zstd", lab.registry.host());
    let mut command = Command::new("skopeo");
    command.args(["copy", "--insecure-policy", "--dest-tls-verify=false"]);
    command.args(["--dest-compress-format", "zstd:chunked"]);
    command.arg(format!("oci:{}:python", layout.display())).arg(format!("docker://{reference}"));
    run(&mut command, CONVERSION)?.success("skopeo copy")?;
    let image = lab.registry.image("python", "zstd").context("the pushed image")?;
    let manifest = String::from_utf8_lossy(image.manifest());
    ensure!(manifest.contains("zstd-chunked.manifest-checksum"), "{manifest}");
    Ok((reference, image))
}

/// What is seen through lazy layers is what containerd unpacks of the same blobs.
fn expect_the_ordinary_tree(lab: &Lab, reference: &str) -> Result<()> {
    lab.containerd.ctr(
        "default",
        ["images", "pull", "--plain-http", "--snapshotter", "overlayfs", reference],
    )?;
    let [lazy, ordinary] = ["bolide", "overlayfs"].map(|snapshotter| -> Result<_> {
        let target: PathBuf = lab.dir().join(format!("tree-{snapshotter}"));
        std::fs::create_dir(&target)?;
        let shown = target.to_str().context("paths of tests are UTF-8")?;
        lab.containerd
            .ctr("default", ["images", "mount", "--snapshotter", snapshotter, reference, shown])?;
        let tree = Tree::read(&target);
        detach_below(&target)?;
        tree
    });
    let differences = ordinary?.differences(&lazy?, 20);
    ensure!(differences.is_empty(), "overlayfs against bolide:\n{}", differences.join("\n"));
    Ok(())
}
