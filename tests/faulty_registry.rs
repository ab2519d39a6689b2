//! What a container sees when the registry lies or is gone: an error in bounded time, and never a
//! wrong byte.
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bolide_e2e::{DaemonOptions, Lab};

/// A file of several chunks that the program reads only when it is told to.
const LARGE: &str = "/opt/bolide/many-chunks";
/// A small file of the same layer.
const SMALL: &str = "/opt/bolide/capable";
/// What a program is told of a read that failed.
const FAILED: &str = "Input/output error";

#[test]
#[ignore = "needs root, containerd and images: cargo xtask e2e"]
fn one_flipped_byte_fails_its_file_and_no_other() -> Result<()> {
    let lab = Lab::start(&DaemonOptions::default())?;
    let (reference, image) = lab.push_estargz()?;
    let top = image.layers.last().context("the image has layers")?;
    // Nearly all of the layer is the large file, so its middle is.
    lab.registry.damage(&top.digest, top.size / 2)?;
    lab.pull("default", &reference)?;

    for attempt in 0..2 {
        let failed = lab.containerd.try_run_container("default", "bolide", &reference, &[LARGE])?;
        ensure!(!failed.status.success(), "attempt {attempt} read damaged data: {failed:?}");
        ensure!(failed.stderr.contains(FAILED), "attempt {attempt}: {failed:?}");
    }
    lab.containerd.run_container("default", "bolide", &reference, &[SMALL])?;

    let log = lab.daemon.log_text();
    let told = |line: &str| line.contains("many-chunks") && line.contains(&top.digest);
    ensure!(log.lines().any(told), "no line names the file and its layer:\n{log}");
    Ok(())
}

#[test]
#[ignore = "needs root, containerd and images: cargo xtask e2e"]
fn a_registry_that_goes_and_comes_back() -> Result<()> {
    let limit = Duration::from_secs(3);
    let options = DaemonOptions { read_timeout: "3s".to_owned(), ..DaemonOptions::default() };
    let mut lab = Lab::start(&options)?;
    let (reference, _) = lab.push_estargz()?;
    lab.pull("default", &reference)?;
    lab.containerd.run_container("default", "bolide", &reference, &[])?;

    lab.registry.stop()?;
    let begin = Instant::now();
    let failed = lab.containerd.try_run_container("default", "bolide", &reference, &[LARGE])?;
    ensure!(!failed.status.success() && failed.stderr.contains(FAILED), "{failed:?}");
    // The rest of the allowance is for starting a container and python on a busy machine.
    let allowed = limit + Duration::from_secs(20);
    ensure!(begin.elapsed() < allowed, "the read was blocked for {:?}", begin.elapsed());

    lab.registry.resume()?;
    let printed = lab.containerd.run_container("default", "bolide", &reference, &[LARGE])?;
    ensure!(printed.contains(LARGE), "{printed}");
    Ok(())
}
