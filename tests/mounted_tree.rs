//! The tree that a container sees through lazy layers is the one an ordinary unpack gives.
use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result, ensure};
use bolide_e2e::{DaemonOptions, Lab, Tree, detach_below};

#[test]
#[ignore = "needs root, containerd and images: cargo xtask e2e"]
fn a_lazy_tree_equals_an_overlayfs_unpack() -> Result<()> {
    let lab = Lab::start(&DaemonOptions::default())?;
    let (reference, image) = lab.push_estargz()?;
    lab.pull("default", &reference)?;
    // Content that the lazy pull never fetched is fetched here, into the same content store.
    lab.containerd.ctr(
        "default",
        ["images", "pull", "--plain-http", "--snapshotter", "overlayfs", &reference],
    )?;

    let lazy = mount(&lab, "bolide", &reference)?;
    let ordinary = mount(&lab, "overlayfs", &reference)?;
    let (lazy_tree, ordinary_tree) = (Tree::read(&lazy)?, Tree::read(&ordinary)?);
    let differences = ordinary_tree.differences(&lazy_tree, 20);
    ensure!(differences.is_empty(), "overlayfs against bolide:\n{}", differences.join("\n"));
    expect_the_unusual(&ordinary_tree)?;

    let status = lab.daemon.status()?;
    ensure!(status.layers.len() == image.layers.len(), "lazy layers: {status:?}");
    for mount in [lazy, ordinary] {
        detach_below(&mount)?;
    }
    Ok(())
}

/// Mounts an image read-only through a view of its top snapshot.
fn mount(lab: &Lab, snapshotter: &str, reference: &str) -> Result<PathBuf> {
    let target = lab.dir().join(format!("tree-{snapshotter}"));
    fs::create_dir(&target)?;
    let shown = target.to_str().context("paths of tests are UTF-8")?;
    lab.containerd
        .ctr("default", ["images", "mount", "--snapshotter", snapshotter, reference, shown])?;
    Ok(target)
}

/// The comparison proves nothing of what the image does not hold.
fn expect_the_unusual(tree: &Tree) -> Result<()> {
    let node = |name: &str| {
        let name = PathBuf::from("opt/bolide").join(name);
        tree.nodes.get(&name).with_context(|| format!("{} is not in the image", name.display()))
    };
    let has = |name: &str, xattr: &str| -> Result<bool> {
        Ok(node(name)?.xattrs.keys().any(|key| key == xattr))
    };
    ensure!(has("capable", "security.capability")?, "no capabilities");
    ensure!(has("hard-1", "user.origin")?, "no user attribute");
    ensure!(node("hard-2")?.links == Some(3), "no hard links");
    ensure!(node("null")?.device != 0 && node("loop")?.device != 0, "no device numbers");
    ensure!(node("setuid")?.mode & 0o6000 == 0o6000, "no set-id bits");
    ensure!(node("dangling")?.target.is_some(), "no symbolic link");
    ensure!(node("many-chunks")?.size > Some(8 << 20), "no file of several chunks");
    let hidden = ["etc/issue", "usr/share/doc/base-files/copyright"];
    for name in hidden.map(PathBuf::from) {
        ensure!(!tree.nodes.contains_key(&name), "{} was deleted", name.display());
    }
    Ok(())
}
