//! Whoever knows nothing of lazy pulling unpacks our images as he unpacks their sources.
use std::{fs, path::Path, process::Command, time::Duration};

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
    let (layout, bundle) = (dir.join(format!("{name}-gzip")), dir.join(format!("{name}-bundle")));
    let gzip = format!("{}:x", layout.to_str().context("paths of tests are UTF-8")?);
    // This umoci knows gzip alone, and skopeo all formats.
    let mut skopeo = Command::new("skopeo");
    skopeo.args(["copy", "--insecure-policy", "--quiet", "--dest-compress-format", "gzip", image]);
    run(skopeo.arg(format!("oci:{gzip}")), PATIENCE)?.success("skopeo copy")?;
    let mut umoci = Command::new("umoci");
    run(umoci.args(["unpack", "--image", &gzip]).arg(&bundle), PATIENCE)?
        .success("umoci unpack")?;
    let mut tree = Tree::read(&bundle.join("rootfs"))?;
    for reserved in [".prefetch.landmark", ".no.prefetch.landmark", "stargz.index.json"] {
        tree.nodes.remove(Path::new(reserved));
    }
    fs::remove_dir_all(&layout)?;
    fs::remove_dir_all(&bundle)?;
    Ok(tree)
}
