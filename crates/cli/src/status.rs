//! `bolide status`: what a daemon shows lazily, how far it is, and what it could not.
use std::path::PathBuf;

use anyhow::Result;
use bolide_snapshotter::{
    LayerReport,
    admin::{self, NotLazy, StatusReport},
};
use indicatif::HumanBytes;

use crate::output;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Admin socket of the daemon
    #[arg(long, value_name = "SOCKET", default_value = "/run/bolide/admin.sock")]
    address: PathBuf,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args) -> Result<()> {
    let report = admin::status(&args.address).await?;
    if args.json { output::json(&report) } else { print(&report) }
}

fn print(report: &StatusReport) -> Result<()> {
    output::line(&format!(
        "bolide {} on {}: {} lazy layers, {} not lazy",
        report.version,
        report.root.display(),
        report.layers.len(),
        report.not_lazy.len(),
    ))?;
    for layer in &report.layers {
        output::line(&lazy(layer))?;
    }
    for layer in &report.not_lazy {
        output::line(&not_lazy(layer))?;
    }
    Ok(())
}

fn lazy(layer: &LayerReport) -> String {
    let mounter = layer.mounter.as_deref().unwrap_or("not mounted");
    let error = layer.error.as_ref().map_or_else(String::new, |error| format!("\n    {error}"));
    format!(
        "{:>6}  {}  {mounter}  {}% of {} present, {} fetched  {}{error}",
        layer.snapshot_id,
        short(&layer.blob),
        percent(layer.present_bytes, layer.total_bytes),
        HumanBytes(layer.total_bytes),
        HumanBytes(layer.fetched_bytes),
        layer.reference,
    )
}

fn not_lazy(layer: &NotLazy) -> String {
    format!("not lazy  {}  {}\n    {}", short(&layer.blob), layer.reference, layer.reason)
}

/// A digest as people tell digests apart.
fn short(digest: &str) -> &str {
    digest.strip_prefix("sha256:").and_then(|hex| hex.get(..12)).unwrap_or("-")
}

fn percent(part: u64, whole: u64) -> u64 {
    part.saturating_mul(100).checked_div(whole).unwrap_or(100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_is_one_line_and_its_trouble_another() {
        let mut layer = LayerReport {
            snapshot_id: "7".into(),
            blob: format!("sha256:{}", "ab".repeat(32)),
            reference: "r/i:t".into(),
            mounter: Some("fuse".into()),
            present_bytes: 1 << 20,
            total_bytes: 4 << 20,
            fetched_bytes: 300 << 10,
            ..LayerReport::default()
        };
        let shown = lazy(&layer);
        assert!(
            shown.contains("abababababab  fuse  25% of 4.00 MiB present, 300.00 KiB"),
            "{shown}"
        );
        layer.error = Some("no route".into());
        assert!(lazy(&layer).ends_with("\n    no route"));
        assert_eq!(percent(0, 0), 100);
    }
}
