//! Whoever knows nothing of lazy pulling unpacks our images as he unpacks their sources.
use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use bolide_e2e::{Tree, bolide, from_environment, run};

/// Copying and unpacking a whole image.
const PATIENCE: Duration = Duration::from_mins(10);

#[test]
#[ignore = "needs root, containerd and images: cargo xtask e2e"]
fn umoci_unpacks_every_format_to_the_tree_of_the_source() -> Result<()> {
    let dir = tempfile::Builder::new().prefix("bolide-e2e-").tempdir()?;
    let layout = from_environment("BOLIDE_E2E_LAYOUT")?;
    let source = unpack(dir.path(), "source", &format!("oci:{}:python", layout.display()))?;
    for (name, options) in [
        ("estargz", &["--format", "estargz"][..]),
        ("packed", &["--min-chunk-size", "50000"]),
        ("external", &["--format", "estargz-external-toc", "--keep-diff-id"]),
        ("zstd", &["--format", "zstd-chunked"]),
        ("podman", &["--format", "zstd-chunked-podman", "--keep-diff-id"]),
    ] {
        let converted = format!("oci:{}:x", dir.path().join(name).display());
        let mut convert = bolide(["convert", "--level", "1"])?;
        convert.arg(format!("oci:{}:python", layout.display())).arg(&converted).args(options);
        run(&mut convert, PATIENCE)?.success("bolide convert")?;
        let unpacked = unpack(dir.path(), name, &converted)?;
        let differences = source.differences(&unpacked, 20);
        ensure!(differences.is_empty(), "source against {name}:\n{}", differences.join("\n"));
    }
    Ok(())
}

/// The tree of an image as umoci unpacks it, without what only lazy pulling needs.
fn unpack(dir: &Path, name: &str, image: &str) -> Result<Tree> {
    // By way of an archive with plain layers: this umoci knows gzip, and skopeo all of them.
    let archive = dir.join(format!("{name}.tar"));
    let layout = dir.join(format!("{name}-plain"));
    let shown = |path: &Path| path.to_str().map(str::to_owned).context("paths of tests are UTF-8");
    skopeo(image, &format!("docker-archive:{}:x:x", shown(&archive)?))?;
    let plain = format!("{}:x", shown(&layout)?);
    skopeo(&format!("docker-archive:{}", shown(&archive)?), &format!("oci:{plain}"))?;
    let bundle = dir.join(format!("{name}-bundle"));
    let mut umoci = Command::new("umoci");
    umoci.args(["unpack", "--image", &plain]).arg(&bundle);
    run(&mut umoci, PATIENCE)?.success("umoci unpack")?;
    let mut tree = Tree::read(&bundle.join("rootfs"))?;
    for reserved in [".prefetch.landmark", ".no.prefetch.landmark", "stargz.index.json"] {
        tree.nodes.remove(&PathBuf::from(reserved));
    }
    for made in [&archive, &layout, &bundle] {
        if made.is_dir() { std::fs::remove_dir_all(made)? } else { std::fs::remove_file(made)? }
    }
    Ok(tree)
}

fn skopeo(source: &str, target: &str) -> Result<()> {
    let mut command = Command::new("skopeo");
    command.args(["copy", "--insecure-policy", "--quiet", source, target]);
    run(&mut command, PATIENCE)?.success("skopeo copy").map(drop)
}
