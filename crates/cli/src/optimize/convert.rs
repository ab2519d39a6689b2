//! The conversion that follows a recording.
use anyhow::{Context as _, Result};
use bolide_estargz::BuildOptions;
use bolide_image::{Access, ConvertOptions, Location, Platform, convert_image};

use super::Args;
use crate::{output, registry};

/// Writes the image with these paths first.
pub(super) async fn convert(args: &Args, prioritized: Vec<String>) -> Result<()> {
    let layer = BuildOptions { level: Some(args.level), prioritized, ..BuildOptions::default() };
    let options = ConvertOptions { layer, platform: args.platform(), oci: true };
    let mut access = Access::layouts();
    if [&args.src, &args.dst].iter().any(|place| matches!(place, Location::Registry(_))) {
        access = access.with_registries(registry::client(&args.plain_http)?);
    }
    let work = tempfile::Builder::new().prefix("bolide-").tempdir();
    let work = work.context("cannot make a temporary directory")?;
    let access = access.with_work_dir(work.path());
    let report = convert_image(&access, &args.src, &args.dst, &options, |_| ()).await?;
    if args.json {
        return output::json(&report);
    }
    output::line(&format!("{} {}", args.dst, report.digest))
}

impl Args {
    pub(super) fn platform(&self) -> Platform {
        self.platform.clone().unwrap_or_else(Platform::host)
    }
}
