//! The image that holds the TOCs of layers which do not hold their own.
use std::{collections::BTreeMap, io::Write as _};

use bolide_core::{Digest, Error, Result};
use bolide_estargz::format::{ANNOTATION_LAYER_DIGEST, TOC_IMAGE_SUFFIX, TOC_NAME};
use flate2::{Compression, write::GzEncoder};
use serde_json::{Map, json};
use tempfile::NamedTempFile;

use super::{Conversion, Converted};
use crate::{
    NewBlob,
    blob_reader::blocking,
    manifest::{self, Descriptor, Manifest, media_type},
};

impl<P> Conversion<'_, P> {
    /// Writes one image for the layers of all platforms, in the order of their digests.
    pub(super) async fn publish_tocs(&self, converted: &Converted) -> Result<()> {
        let tocs = converted
            .values()
            .filter_map(|layer| Some((layer.digest, layer.external_toc.clone()?)));
        let tocs: BTreeMap<_, _> = tocs.collect();
        let mut layers = Vec::with_capacity(tocs.len());
        let mut diff_ids = Vec::with_capacity(tocs.len());
        for (layer, toc) in tocs {
            let work_dir = self.sink.work_dir().to_owned();
            let packed = blocking(move || {
                let (blob, diff_id) = pack(&toc)?;
                let failed = |error| Error::io("convert::toc_image", error);
                let mut file = NamedTempFile::new_in(work_dir).map_err(failed)?;
                file.write_all(&blob).map_err(failed)?;
                Ok((file, Descriptor::of(media_type::OCI_LAYER_GZIP, &blob), diff_id))
            });
            let (file, mut name, diff_id) = packed.await?;
            let blob = NewBlob { digest: name.digest, diff_id: Some(diff_id) };
            self.sink.put_blob(file, blob).await?;
            name.annotations.insert(ANNOTATION_LAYER_DIGEST.to_owned(), layer.to_string());
            layers.push(name);
            diff_ids.push(diff_id);
        }
        let config = manifest::to_bytes(&json!({
            "architecture": "", "os": "", "rootfs": {"type": "layers", "diff_ids": diff_ids},
        }))?;
        let manifest = manifest::to_bytes(&Manifest {
            schema_version: 2,
            media_type: Some(media_type::OCI_MANIFEST.to_owned()),
            config: Descriptor::of(media_type::OCI_CONFIG, &config),
            layers,
            other: Map::new(),
        })?;
        self.sink.put_document(config).await?;
        let name = Descriptor::of(media_type::OCI_MANIFEST, &manifest);
        self.sink.publish_beside(name, manifest, TOC_IMAGE_SUFFIX).await
    }
}

/// A tar with the TOC in gzip, and the digest of the tar.
fn pack(toc: &[u8]) -> Result<(Vec<u8>, Digest)> {
    let failed = |error| Error::io("convert::toc_image", error);
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o444);
    header.set_size(toc.len() as u64);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    let mut tar = tar::Builder::new(Vec::new());
    tar.append_data(&mut header, TOC_NAME, toc).map_err(failed)?;
    let tar = tar.into_inner().map_err(failed)?;
    let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
    gzip.write_all(&tar).map_err(failed)?;
    Ok((gzip.finish().map_err(failed)?, Digest::of(&tar)))
}
