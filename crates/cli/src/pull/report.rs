//! What a pull tells: progress while it works, and what became of each layer.
use anyhow::Result;
use bolide_core::Digest;
use bolide_image::manifest::Descriptor;
use indicatif::{HumanBytes, MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use crate::output;

/// Letters of a digest that tell layers apart.
const SHORT: usize = 12;

/// The result of a pull.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// Name of the image in containerd.
    pub(super) image: String,
    /// Digest of its index or manifest.
    pub(super) digest: Digest,
    /// What became of the layers, lowest first.
    pub(super) layers: Vec<LayerReport>,
    /// How long it took.
    pub(super) seconds: f64,
}

/// What became of a layer.
#[derive(Debug, Serialize)]
pub(super) struct LayerReport {
    /// Digest of the blob.
    pub(super) digest: Digest,
    /// Name of the snapshot.
    pub(super) chain_id: Digest,
    /// Whether the snapshotter shows it lazily.
    pub(super) lazy: bool,
    /// Why it is not lazy, if the snapshotter says so.
    pub(super) reason: Option<String>,
    /// Size of the blob in bytes.
    pub(super) size: u64,
    /// How long it took.
    pub(super) seconds: f64,
}

impl Report {
    /// Prints for a person.
    pub(super) fn print(&self) -> Result<()> {
        for layer in &self.layers {
            let LayerReport { digest, chain_id, lazy, reason, size, seconds } = layer;
            let how = match (lazy, reason) {
                (true, _) => "lazy".to_owned(),
                (false, Some(reason)) => format!("not lazy: {reason}"),
                (false, None) => "not lazy".to_owned(),
            };
            let size = HumanBytes(*size);
            output::line(&format!("{digest}  {size}  {seconds:.2}s  {how}  chain {chain_id}"))?;
        }
        let lazy = self.layers.iter().filter(|layer| layer.lazy).count();
        output::line(&format!(
            "{} {}: {lazy} of {} layers are lazy, {:.2}s",
            self.image,
            self.digest,
            self.layers.len(),
            self.seconds
        ))
    }
}

/// A line for each layer. Drawn only when standard error is a terminal.
pub(super) fn bars<'a>(layers: impl IntoIterator<Item = &'a Descriptor>) -> Vec<ProgressBar> {
    let board = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{prefix}  {msg:9}  {bytes}/{total_bytes}");
    let bar = |layer: &Descriptor| {
        let bar = board.add(ProgressBar::new(layer.size));
        if let Ok(style) = &style {
            bar.set_style(style.clone());
        }
        bar.set_prefix(layer.digest.hex().chars().take(SHORT).collect::<String>());
        bar.with_message("waiting")
    };
    layers.into_iter().map(bar).collect()
}
