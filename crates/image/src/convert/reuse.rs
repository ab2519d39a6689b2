//! Blobs that are taken over as they are.
use std::io;

use bolide_core::{Digest, Error, Result};
use bolide_estargz::{
    BlobFormat, Footer, TAIL_HINT, TocTrust,
    format::{ANNOTATION_TOC_DIGEST, ANNOTATION_UNCOMPRESSED_SIZE},
    open_layer,
};
use tempfile::NamedTempFile;

use super::{Conversion, ConvertedLayer, Unit};
use crate::{
    NewBlob,
    blob_reader::{BlobReader, blocking, feed},
    manifest::{Descriptor, Manifest, media_type},
    source::stream_blob,
};

impl<P> Conversion<'_, P> {
    /// What a layer is when it is taken over; none when it must be converted.
    pub(super) async fn reusable(&self, unit: &Unit<'_>) -> Result<Option<ConvertedLayer>> {
        let (name, wanted) = (unit.name, &self.options.layer);
        let trust = TocTrust::of_annotations(&name.annotations).ok().flatten();
        let is_wanted = if wanted.latest_mtime.is_some() {
            false
        } else if wanted.format.is_lazy() {
            let asked = self.options.reuse && wanted.format != BlobFormat::EstargzExternalToc;
            match trust {
                Some(trust) if asked => self.is_lazy_as_wanted(unit, trust).await?,
                _ => false,
            }
        } else {
            // The same bytes again, unless another level was asked for.
            wanted.level.is_none() && is_plain_in(name, wanted.format)
        };
        let size = name.annotations.get(ANNOTATION_UNCOMPRESSED_SIZE);
        Ok(is_wanted.then(|| ConvertedLayer {
            source: name.digest,
            source_size: name.size,
            digest: name.digest,
            size: name.size,
            diff_id: unit.diff_id,
            uncompressed_size: size.and_then(|size| size.parse().ok()),
            toc_digest: trust.and_then(|trust| match trust {
                TocTrust::Digest(document) => Some(document),
                TocTrust::Compressed(_) | TocTrust::Unverified => None,
            }),
            reused: true,
            prioritized_size: 0,
            annotations: None,
            external_toc: None,
        }))
    }

    async fn is_lazy_as_wanted(&self, unit: &Unit<'_>, trust: TocTrust) -> Result<bool> {
        let opened = unit.image.open_blob(unit.name, TAIL_HINT).await?;
        let footer = Footer::parse(&opened.tail, opened.source.size());
        let format = match footer {
            Ok(Footer::Estargz { .. }) => BlobFormat::Estargz,
            Ok(Footer::ZstdChunked(footer)) if footer.podman => BlobFormat::ZstdChunkedPodman,
            Ok(Footer::ZstdChunked(_)) => BlobFormat::ZstdChunked,
            _ => return Ok(false),
        };
        if format != self.options.layer.format {
            return Ok(false);
        }
        let opened = match open_layer(&opened, trust).await {
            Ok(opened) => opened,
            Err(error) if error.is_retryable() => return Err(error),
            Err(error) => {
                tracing::debug!(%error, layer = %unit.name.digest, "a layer is converted anew");
                return Ok(false);
            }
        };
        let list = self.options.prioritized.of(unit.name.digest).clone();
        if list.is_empty() {
            return Ok(true);
        }
        blocking(move || {
            let names = opened.list()?.into_iter().map(|file| file.name).collect();
            Ok(list.expand(&names).paths.is_empty())
        })
        .await
    }

    /// Takes a blob over as it is, moving its bytes only where they must be.
    pub(super) async fn copy(
        &self,
        name: &Descriptor,
        diff_id: Option<Digest>,
        read: impl Fn(u64),
    ) -> Result<()> {
        if self.sink.adopt(name, self.src).await? {
            read(name.size);
            return Ok(());
        }
        let stream = stream_blob(self.sources.blobs(), name).await?;
        let (sender, mut reader) = BlobReader::new(name.digest, name.size);
        let work_dir = self.sink.work_dir().to_owned();
        let work = blocking(move || {
            let failed = |error| Error::io("convert::copy", error);
            let mut file = NamedTempFile::new_in(work_dir).map_err(failed)?;
            let copied = io::copy(&mut reader, &mut file).map_err(failed);
            // A broken source explains whatever copying complains of.
            reader.finish()?;
            copied.map(|_| file)
        });
        let (file, ()) = futures::join!(work, feed(stream, sender, read));
        self.sink.put_blob(file?, NewBlob { digest: name.digest, diff_id }).await
    }

    /// Takes over what a manifest names that is no image.
    pub(super) async fn copy_other(&self, manifest: &Manifest) -> Result<()> {
        for name in std::iter::once(&manifest.config).chain(&manifest.layers) {
            let copied = self.copy(name, None, |_| ()).await;
            copied.map_err(|error| error.with_context("blob", name.digest))?;
        }
        Ok(())
    }
}

/// Whether a layer is a tar in the compression of a format that is not lazy, and nothing else.
fn is_plain_in(name: &Descriptor, format: BlobFormat) -> bool {
    let media_type = name.media_type.as_str();
    let fits = match format {
        BlobFormat::TarGzip => {
            [media_type::OCI_LAYER_GZIP, media_type::DOCKER_LAYER_GZIP].contains(&media_type)
        }
        BlobFormat::TarZstd => media_type == media_type::OCI_LAYER_ZSTD,
        _ => false,
    };
    let is_lazy = |key: &String| key == ANNOTATION_TOC_DIGEST || key.contains(".zstd-chunked.");
    fits && !name.annotations.keys().any(is_lazy)
}
