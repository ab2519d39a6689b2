//! An image whose layers have first what its program uses first.
use anyhow::{Context as _, Result, ensure};
use bolide_e2e::{DaemonOptions, Lab};

/// What the program of the image says at its end.
const PRINTED: &str = "bolide-e2e: ";

#[test]
#[ignore = "needs root, containerd and images: cargo xtask e2e"]
fn a_cold_start_takes_one_request_a_layer_for_what_was_put_first() -> Result<()> {
    let lab = Lab::start(&DaemonOptions::default())?;
    let record = lab.dir().join("record");
    std::fs::write(&record, lab.opened_files()?.join("\n"))?;
    let record = record.to_str().context("paths of tests are UTF-8")?;
    let (reference, image) = lab.convert("first", &["--record-in", record])?;
    let before = lab.registry.served()?;
    lab.pull("default", &reference)?;
    let printed = lab.containerd.run_container("default", "bolide", &reference, &[])?;
    ensure!(printed.contains(PRINTED), "{printed}");
    let served = lab.registry.served()?;
    for layer in &image.layers {
        let requests = |served: &std::collections::BTreeMap<String, bolide_e2e::Served>| {
            served.get(&layer.digest).map_or(0, |served| served.requests)
        };
        // One for the table of contents, one for what was put first, and one more may be needed for
        // what a record of opened files does not tell.
        let asked = requests(&served) - requests(&before);
        ensure!(asked <= 3, "{asked} requests for {}", layer.digest);
    }
    Ok(())
}
