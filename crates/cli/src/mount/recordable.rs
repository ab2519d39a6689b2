//! An image as it must be for its use to be recorded: each of its layers shown by this process.
use std::{num::NonZeroUsize, path::Path, thread::available_parallelism};

use anyhow::{Context as _, Result};
use bolide_estargz::BuildOptions;
use bolide_image::{Access, ConvertOptions, Location, convert_image};

use super::SourceImage;

/// An image whose layers are all lazy; one with others is converted into `dir`, with the same layers
/// in the same order. `location` is where it was opened.
pub(crate) async fn recordable(
    image: SourceImage,
    location: &Location,
    access: &Access,
    dir: &Path,
) -> Result<SourceImage> {
    // Archives and containerd are not mounted from.
    let is_mounted = matches!(location, Location::Layout { .. } | Location::Registry(_));
    if is_mounted && (0..image.layers().len()).all(|number| image.request(number).is_some()) {
        return Ok(image);
    }
    let layer = BuildOptions {
        // It is read once, and gone.
        level: Some(1),
        parallelism: available_parallelism().unwrap_or(NonZeroUsize::MIN),
        ..BuildOptions::default()
    };
    let options = ConvertOptions { layer, ..ConvertOptions::default() };
    let lazy = Location::Layout { dir: dir.to_owned(), tag: None };
    let converted = convert_image(access, location, &lazy, &options, |_| ()).await;
    converted.context("cannot convert the image to record its use")?;
    SourceImage::open(&lazy, &Access::layouts()).await
}
