//! Layers as they are pulled elsewhere: fetched whole, verified, unpacked.
use std::{fs::File, path::Path, sync::Arc};

use anyhow::{Context as _, Result, ensure};
use bolide_core::{BlobOpener, BlobSource as _, ByteRange, Digester, OpaqueXattr, ReadOptions};
use bolide_fetch::LazySource;
use bolide_image::{UnpackOptions, manifest::Descriptor, unpack_layer};
use futures::StreamExt as _;
use tokio::io::AsyncWriteExt as _;

use crate::sandbox::in_user_namespace;

/// Fetches a layer and unpacks it into `target`, an existing empty directory; meanwhile its blob is
/// in a file of `scratch`.
pub(crate) async fn unpack(
    opener: Arc<dyn BlobOpener>,
    layer: &Descriptor,
    target: &Path,
    scratch: &Path,
) -> Result<()> {
    let blob = fetch(opener, layer, scratch).await.with_context(|| named(layer))?;
    let (target, layer_name) = (target.to_owned(), named(layer));
    let rootless = in_user_namespace();
    let opaque = if rootless { OpaqueXattr::User } else { OpaqueXattr::Trusted };
    let options = UnpackOptions { opaque, lenient: rootless };
    let unpacking = move || unpack_layer(&mut blob.as_file(), &target, options).context(layer_name);
    tokio::task::spawn_blocking(unpacking).await.context("unpacking did not end")??;
    Ok(())
}

fn named(layer: &Descriptor) -> String {
    format!("layer {}", layer.digest)
}

async fn fetch(
    opener: Arc<dyn BlobOpener>,
    layer: &Descriptor,
    scratch: &Path,
) -> Result<tempfile::NamedTempFile> {
    let file = tempfile::NamedTempFile::new_in(scratch).context("cannot make a file")?;
    let mut out = tokio::fs::File::from_std(File::options().write(true).open(file.path())?);
    let source = LazySource::new(opener, layer.digest, layer.size);
    let range = ByteRange::new(0..layer.size).context("a layer has bytes")?;
    let mut pieces = source.stream(range, ReadOptions::default());
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
