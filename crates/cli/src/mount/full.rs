//! Layers as they are pulled elsewhere: fetched whole, verified, unpacked.
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use bolide_core::{Digester, OpaqueXattr};
use bolide_image::{ImageSource, UnpackOptions, manifest::Descriptor, unpack_layer};
use bolide_snapshotter::user_namespace;
use futures::StreamExt as _;
use tempfile::NamedTempFile;
use tokio::io::AsyncWriteExt as _;

/// Fetches a layer and unpacks it into `target`, an existing empty directory; meanwhile its blob is
/// in a file of `scratch`.
pub(crate) async fn unpack(
    image: &ImageSource,
    layer: &Descriptor,
    target: &Path,
    scratch: &Path,
) -> Result<()> {
    let blob = fetch(image, layer, scratch).await.with_context(|| named(layer))?;
    let (target, layer_name) = (target.to_owned(), named(layer));
    let rootless = user_namespace::inside();
    let opaque = if rootless { OpaqueXattr::User } else { OpaqueXattr::Trusted };
    let options = UnpackOptions { opaque, lenient: rootless };
    let unpacking = move || unpack_layer(&mut blob.as_file(), &target, options).context(layer_name);
    tokio::task::spawn_blocking(unpacking).await.context("unpacking did not end")??;
    Ok(())
}

fn named(layer: &Descriptor) -> String {
    format!("layer {}", layer.digest)
}

async fn fetch(image: &ImageSource, layer: &Descriptor, scratch: &Path) -> Result<NamedTempFile> {
    let file = NamedTempFile::new_in(scratch).context("cannot make a file")?;
    let mut out = tokio::fs::File::from_std(file.reopen().context("cannot open a file")?);
    let mut pieces = image.blob(layer).await?;
    let mut digester = Digester::new();
    while let Some(piece) = pieces.next().await.transpose()? {
        digester.update(&piece);
        out.write_all(&piece).await.context("cannot write a blob")?;
    }
    out.flush().await.context("cannot write a blob")?;
    let found = digester.finish();
    ensure!(found == layer.digest, "the blob does not match its digest but {found}");
    Ok(file)
}
