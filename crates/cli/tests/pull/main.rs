//! `bolide pull` against a real containerd and a real registry: what it leaves in containerd, and
//! what it does not leave there.
mod double;
mod image;
mod ingest;
mod lab;
mod relay;

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bolide_core::Digest;
use serde_json::Value;

use crate::{
    double::{Double, NOT_LAZY, REASON},
    image::{LARGE, PRINTED, Sample},
    ingest::Ingest,
    lab::{Lab, NAMESPACE, cannot_run},
    relay::{Fault, Relay},
};

const OVERLAYFS: &str = "overlayfs";
/// More than anything takes that does not hang.
const SOON: Duration = Duration::from_mins(2);
const TOC: &str = "containerd.io/snapshot/stargz/toc.digest";

#[test]
fn an_image_is_complete_runs_and_is_pulled_once() -> Result<()> {
    if cannot_run() {
        return Ok(());
    }
    let (lab, sample) = (Lab::start()?, Sample::new()?);
    let reference = lab.push(&sample)?;
    let report = lab.pull(OVERLAYFS, &reference)?;
    ensure!(report["image"] == reference, "{report}");
    ensure!(report["digest"] == Digest::of(&sample.manifest()).to_string(), "{report}");
    for (layer, (blob, _)) in array(&report)?.iter().zip(&sample.layers) {
        ensure!(layer["digest"] == blob.digest.to_string(), "{report}");
        ensure!(layer["size"] == blob.size && layer["lazy"] == false, "{report}");
    }
    expect_usable(&lab, &reference, &sample)?;

    let served = lab.registry.served()?;
    let again = lab.pull(OVERLAYFS, &reference)?;
    ensure!(array(&again)?.len() == sample.layers.len(), "{again}");
    ensure!(lab.registry.served()? == served, "a blob was fetched again");
    expect_usable(&lab, &reference, &sample)
}

/// Complete, unpacked, runs, and its snapshots have the names that containerd would give them.
fn expect_usable(lab: &Lab, reference: &str, sample: &Sample) -> Result<()> {
    lab.expect_no_lease()?;
    let checked = lab.ctr(["images", "check", "--snapshotter", OVERLAYFS])?;
    let line = checked.lines().find(|line| line.contains(reference)).context("no image")?;
    ensure!(line.contains("complete (4/4)") && line.trim_end().ends_with("true"), "{checked}");
    let snapshots = lab.containerd.snapshots(NAMESPACE, OVERLAYFS)?;
    let mut parent = String::new();
    let mut expected = Vec::new();
    for name in sample.chain_ids()? {
        expected.push((name.clone(), std::mem::replace(&mut parent, name)));
    }
    expected.sort();
    ensure!(sorted(snapshots.clone()) == expected, "{snapshots:?}");
    let printed = lab.containerd.run_container(NAMESPACE, OVERLAYFS, reference, &[])?;
    ensure!(printed == PRINTED, "{printed}");
    Ok(())
}

#[test]
fn an_index_is_followed_and_garbage_collection_keeps_what_runs() -> Result<()> {
    if cannot_run() {
        return Ok(());
    }
    let (lab, sample) = (Lab::start()?, Sample::new()?);
    lab.push(&sample)?;
    let reference = format!("{}/sample:list", lab.registry.host());
    lab.pull(OVERLAYFS, &reference)?;
    let content = lab.ctr(["content", "ls"])?;
    let source = "containerd.io/distribution.source.127.0.0.1=sample";
    let blobs: Vec<_> = content.lines().skip(1).collect();
    ensure!(blobs.len() == 6 && blobs.iter().all(|line| line.contains(source)), "{content}");
    let uncompressed = format!("containerd.io/uncompressed={}", sample.diff_ids[LARGE]);
    ensure!(content.contains(&uncompressed), "{content}");

    // Layers' blobs lose their references and go; the snapshots are held by the configuration.
    lab.ctr(["content", "prune", "references"])?;
    collect(&lab)?;
    let left = lab.ctr(["content", "ls", "--quiet"])?;
    ensure!(left.lines().count() == 3, "index, manifest and configuration stay: {left}");
    let printed = lab.containerd.run_container(NAMESPACE, OVERLAYFS, &reference, &[])?;
    ensure!(printed == PRINTED, "{printed}");

    lab.containerd.remove_image(NAMESPACE, &reference)?;
    lab.expect_nothing(OVERLAYFS)
}

#[test]
fn an_image_moves_and_keeps_what_others_said_of_it() -> Result<()> {
    if cannot_run() {
        return Ok(());
    }
    let (lab, mut sample) = (Lab::start()?, Sample::new()?);
    let reference = lab.push(&sample)?;
    lab.pull(OVERLAYFS, &reference)?;
    lab.ctr(["images", "label", &reference, "kept=yes"])?;
    sample.layers.pop();
    sample.diff_ids.pop();
    lab.push(&sample)?;
    lab.pull(OVERLAYFS, &reference)?;
    let listed = lab.ctr(["images", "ls"])?;
    let digest = Digest::of(&sample.manifest()).to_string();
    ensure!(listed.contains(&digest) && listed.contains("kept=yes"), "{listed}");
    collect(&lab)?;
    ensure!(lab.containerd.snapshots(NAMESPACE, OVERLAYFS)?.len() == 2, "the old top stays");
    Ok(())
}

#[test]
fn lazy_layers_stay_in_the_registry_and_the_others_say_why() -> Result<()> {
    if cannot_run() {
        return Ok(());
    }
    let mut sample = Sample::new()?;
    // A TOC lets the middle layer look lazy, so that it is not fetched ahead of its turn.
    sample.layers[LARGE].0.annotations.insert(TOC.to_owned(), Digest::of(b"toc").to_string());
    let large = sample.layers[LARGE].0.digest.to_string();
    let lazy = [large.clone()];
    let (lab, double) = Lab::start_with(|dir| Double::start(dir, lazy))?;
    let reference = lab.push(&sample)?;
    let report = lab.pull("bolide", &reference)?;
    let shown: Vec<_> = array(&report)?.iter().map(|layer| layer["lazy"] == true).collect();
    ensure!(shown == [false, true, false], "{report}");
    ensure!(report["layers"][0]["reason"] == REASON, "{report}");
    ensure!(report["layers"][1]["reason"] == Value::Null, "{report}");
    ensure!(!lab.registry.served()?.contains_key(&large), "a lazy layer was fetched");

    let chain_ids = sample.chain_ids()?;
    let labels = double.labels();
    ensure!(labels.len() == 3, "{labels:?}");
    ensure!(labels[&chain_ids[0]][NOT_LAZY] == REASON, "the reason is not kept: {labels:?}");
    let asked = &labels[&chain_ids[LARGE]];
    ensure!(asked["containerd.io/snapshot/remote/stargz.reference"] == reference, "{asked:?}");
    ensure!(asked[TOC] == Digest::of(b"toc").to_string(), "{asked:?}");

    // It runs as far as a double can show it: containerd finds every snapshot. Nobody holds the
    // view, so garbage collection takes it.
    let views = ["snapshots", "--snapshotter", "bolide", "view", "look", chain_ids[2].as_str()];
    lab.ctr(views)?;
    let again = lab.pull("bolide", &reference)?;
    ensure!(
        again["layers"][0]["reason"] == REASON && again["layers"][1]["lazy"] == true,
        "{again}"
    );
    collect(&lab)?;
    ensure!(double.labels().len() == 3, "garbage collection took a snapshot");
    lab.containerd.remove_image(NAMESPACE, &reference)?;
    ensure!(double.labels().is_empty(), "{:?}", double.labels());
    lab.expect_nothing("bolide")
}

#[test]
fn an_interrupted_pull_leaves_nothing() -> Result<()> {
    if cannot_run() {
        return Ok(());
    }
    let (lab, sample) = (Lab::start()?, Sample::new()?);
    lab.push(&sample)?;
    let relay = Relay::start(&lab.registry.host(), 2 << 20, Fault::Stall)?;
    let mut pull = lab.spawn(OVERLAYFS, &format!("{}/sample:plain", relay.host()))?;
    let ingest = format!("layer-{}", sample.layers[LARGE].0.digest);
    pull.process.wait_until("half of a layer", SOON, || {
        let active = lab.ctr(["content", "active"]).ok()?;
        let snapshots = lab.containerd.snapshots(NAMESPACE, OVERLAYFS).ok()?;
        let reached = snapshots.len() == LARGE + 1;
        (relay.faults() > 0 && reached && active.contains(&ingest)).then_some(())
    })?;
    let status = pull.process.stop()?;
    ensure!(status.code() == Some(1), "{status}");
    let told = pull.told()?;
    ensure!(told == "bolide: terminated\n", "{told}");
    lab.expect_nothing(OVERLAYFS)
}

#[test]
fn a_blob_that_another_client_writes_is_waited_for_and_not_believed() -> Result<()> {
    if cannot_run() {
        return Ok(());
    }
    let (lab, sample) = (Lab::start()?, Sample::new()?);
    let reference = lab.push(&sample)?;
    let layer = |at: usize| sample.layers[at].0.clone();
    let other = Ingest::start(&lab.containerd.socket(), &layer(LARGE), &vec![0; 1 << 20])?;
    let mut pull = lab.spawn(OVERLAYFS, &reference)?;
    // The layers beside it arrive, and the one below is unpacked.
    pull.process.wait_until("the other layers", SOON, || {
        let content = lab.ctr(["content", "ls", "--quiet"]).ok()?;
        let others = [0, 2].iter().all(|at| content.contains(&layer(*at).digest.to_string()));
        let snapshots = lab.containerd.snapshots(NAMESPACE, OVERLAYFS).ok()?;
        (others && snapshots.len() == LARGE + 1).then_some(())
    })?;
    drop(other);
    let status = pull.process.wait(SOON)?.context("the pull waits for ever")?;
    ensure!(status.success(), "{}", pull.told()?);
    expect_usable(&lab, &reference, &sample)
}

#[test]
fn a_broken_download_goes_on_where_it_broke_a_few_times() -> Result<()> {
    if cannot_run() {
        return Ok(());
    }
    let (lab, sample) = (Lab::start()?, Sample::new()?);
    lab.push(&sample)?;
    let hopeless = Relay::start(&lab.registry.host(), 128 << 10, Fault::Cut)?;
    let told = lab.refused(OVERLAYFS, &format!("{}/sample:plain", hopeless.host()))?;
    ensure!(told.contains("tries=5") && told.contains("sha256:"), "{told}");
    lab.expect_nothing(OVERLAYFS)?;

    let relay = Relay::start(&lab.registry.host(), 1 << 20, Fault::Cut)?;
    let reference = format!("{}/sample:plain", relay.host());
    lab.pull(OVERLAYFS, &reference)?;
    ensure!(relay.faults() >= 3, "{} answers were cut", relay.faults());
    expect_usable(&lab, &reference, &sample)
}

#[test]
fn other_bytes_than_the_digest_names_are_refused() -> Result<()> {
    if cannot_run() {
        return Ok(());
    }
    let (lab, sample) = (Lab::start()?, Sample::new()?);
    let reference = lab.push(&sample)?;
    let large = &sample.layers[LARGE].0;
    lab.registry.damage(&large.digest.to_string(), large.size / 2)?;
    let told = lab.refused(OVERLAYFS, &reference)?;
    ensure!(told.contains("other bytes than its digest"), "{told}");
    ensure!(told.contains(&format!("layer {}", large.digest)), "{told}");
    lab.expect_nothing(OVERLAYFS)
}

#[test]
fn a_layer_that_unpacks_to_something_else_is_refused() -> Result<()> {
    if cannot_run() {
        return Ok(());
    }
    let (lab, mut sample) = (Lab::start()?, Sample::new()?);
    sample.diff_ids[LARGE] = Digest::of(b"another tar");
    let reference = lab.push(&sample)?;
    let told = lab.refused(OVERLAYFS, &reference)?;
    ensure!(told.contains(&sample.diff_ids[LARGE].to_string()), "{told}");
    lab.expect_nothing(OVERLAYFS)
}

#[test]
fn a_snapshotter_that_is_missing_or_dead_is_named() -> Result<()> {
    if cannot_run() {
        return Ok(());
    }
    let (lab, sample) = (Lab::start()?, Sample::new()?);
    let reference = lab.push(&sample)?;
    let told = lab.refused("stargz", &reference)?;
    ensure!(told.contains("[proxy_plugins.stargz]") && told.contains("overlayfs"), "{told}");
    // Nobody listens on the socket of this one.
    let told = lab.refused("bolide", &reference)?;
    ensure!(told.contains("double/sock") && told.contains("running?"), "{told}");
    lab.expect_nothing(OVERLAYFS)?;
    let told = lab.refused(OVERLAYFS, &format!("{}/absent:1", lab.registry.host()))?;
    ensure!(told.contains("absent:1") && told.contains("404"), "{told}");
    lab.expect_nothing(OVERLAYFS)
}

#[test]
fn a_missing_socket_is_named_with_a_remedy() -> Result<()> {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_bolide"))
        .args(["pull", "--address", "/nonexistent/containerd.sock", "python"])
        .output()?;
    let told = String::from_utf8(output.stderr)?;
    ensure!(output.status.code() == Some(1), "{told}");
    ensure!(told.contains("/nonexistent/containerd.sock") && told.contains("--address"), "{told}");
    Ok(())
}

fn array(report: &Value) -> Result<&Vec<Value>> {
    report["layers"].as_array().context("a report lists layers")
}

fn sorted<T: Ord>(mut items: Vec<T>) -> Vec<T> {
    items.sort();
    items
}

/// Garbage collection happens when a lease is deleted, and is waited for.
fn collect(lab: &Lab) -> Result<()> {
    lab.ctr(["leases", "create", "--id", "collect"])?;
    lab.ctr(["leases", "delete", "--sync", "collect"]).map(drop)
}
