//! Rewrites an image with eStargz layers.
use std::{
    collections::{BTreeMap, HashMap},
    io::{BufWriter, Write as _},
    path::Path,
};

use bolide_core::{Digest, Error, ErrorKind, Result};
use bolide_estargz::{BuildOptions, BuildReport, Spool, convert_layer};
use futures::{StreamExt as _, TryStreamExt as _};
use serde::Serialize;
use tempfile::NamedTempFile;

use crate::{
    Access, ImageSink, ImageSource, Location, Platform,
    blob_reader::{BlobReader, blocking, feed},
    manifest::{self, Descriptor, media_type},
};

/// Layers converted at once. Each keeps one core busy and a spool file open.
const CONCURRENT_LAYERS: usize = 2;

/// How to convert an image.
#[derive(Clone, Debug)]
pub struct ConvertOptions {
    /// How to write each layer. Prioritized paths are passed over by layers that lack them.
    pub layer: BuildOptions,
    /// Which image of an index to convert.
    pub platform: Platform,
    /// Whether Docker's media types become OCI's. Docker's have no room for annotations, so some
    /// registries and tools drop those.
    pub oci: bool,
}

impl Default for ConvertOptions {
    fn default() -> Self {
        Self { layer: BuildOptions::default(), platform: Platform::host(), oci: false }
    }
}

/// What happens while an image is converted. Layers are numbered from 0, bottom to top.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Progress {
    /// A layer of this size, in bytes, is begun.
    Started {
        /// Number of the layer.
        layer: usize,
        /// Size of the source blob, in bytes.
        size: u64,
    },
    /// So many more bytes of a layer's source blob were read.
    Read {
        /// Number of the layer.
        layer: usize,
        /// Bytes since the last report.
        bytes: u64,
    },
    /// A layer is stored at the destination.
    Stored {
        /// Number of the layer.
        layer: usize,
        /// Size of the new blob, in bytes.
        size: u64,
    },
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ConvertReport {
    /// Digest of the new manifest.
    pub digest: Digest,
    /// The layers, bottom to top.
    pub layers: Vec<ConvertedLayer>,
}

/// One layer, before and after.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ConvertedLayer {
    /// Digest of the source blob.
    pub source: Digest,
    /// Size of the source blob, in bytes.
    pub source_size: u64,
    /// Digest of the new blob.
    pub digest: Digest,
    /// Size of the new blob, in bytes.
    pub size: u64,
    /// Digest of the new uncompressed blob.
    pub diff_id: Digest,
    /// Size of the new uncompressed blob, in bytes.
    pub uncompressed_size: u64,
    /// Digest of its TOC; none when it is not lazy.
    pub toc_digest: Option<Digest>,
    /// What its descriptor is annotated with.
    #[serde(skip)]
    pub annotations: BTreeMap<String, String>,
}

/// Converts every layer of the image at `src` to eStargz and writes the image to `dst`.
///
/// The source's blobs are verified as they are read, and `dst` gets its name when everything else
/// is stored. A blob that is several layers is converted once, and reported as the first of them.
///
/// `Corrupt` when a blob does not match its digest, `Unsupported` when the image holds a layer that
/// is no tar, is encrypted or must not be distributed, and whatever reading and writing fail with.
pub async fn convert_image(
    access: &Access,
    src: &Location,
    dst: &Location,
    options: &ConvertOptions,
    progress: impl Fn(Progress) + Sync,
) -> Result<ConvertReport> {
    let image = ImageSource::open(access, src, &options.platform).await?;
    let media_type = layer_media_type(&image, options.oci);
    for layer in &image.manifest().layers {
        check_layer(layer)?;
    }
    let sink = ImageSink::open(access, dst).await?;
    let convert = Conversion { image: &image, sink: &sink, options, progress: &progress };
    let (blobs, of_layers) = distinct(&image.manifest().layers);
    let converted: Vec<ConvertedLayer> = futures::stream::iter(blobs)
        .map(|number| convert.layer(number))
        .buffered(CONCURRENT_LAYERS)
        .try_collect()
        .await?;
    let layers: Vec<_> = of_layers.into_iter().map(|at| converted[at].clone()).collect();
    let digest = convert.publish(&layers, media_type).await?;
    Ok(ConvertReport { digest, layers })
}

/// The number of the first layer of each blob, and for each layer which of these blobs it is.
fn distinct(layers: &[Descriptor]) -> (Vec<usize>, Vec<usize>) {
    let mut blobs = Vec::new();
    let mut known = HashMap::new();
    let of_layers = layers.iter().enumerate().map(|(number, layer)| {
        *known.entry((layer.digest, layer.size)).or_insert_with(|| {
            blobs.push(number);
            blobs.len() - 1
        })
    });
    let of_layers = of_layers.collect();
    (blobs, of_layers)
}

struct Conversion<'a, P> {
    image: &'a ImageSource,
    sink: &'a ImageSink,
    options: &'a ConvertOptions,
    progress: &'a P,
}

impl<P: Fn(Progress) + Sync> Conversion<'_, P> {
    async fn layer(&self, number: usize) -> Result<ConvertedLayer> {
        let source = &self.image.manifest().layers[number];
        (self.progress)(Progress::Started { layer: number, size: source.size });
        let stream = self.image.blob(source).await?;
        let (sender, reader) = BlobReader::new(source.digest, source.size);
        let (work_dir, options) = (self.sink.work_dir().to_owned(), self.options.layer.clone());
        let work = blocking(move || build_layer(reader, &work_dir, &options));
        let fed = feed(stream, sender, |bytes| {
            (self.progress)(Progress::Read { layer: number, bytes });
        });
        // Dropping this future drops the sender, whereupon the thread sees a short blob and ends.
        let (built, ()) = futures::join!(work, fed);
        let (file, report) = built.map_err(|error| error.with_context("layer", source.digest))?;
        self.sink.put_blob(file, report.blob_digest).await?;
        (self.progress)(Progress::Stored { layer: number, size: report.blob_size });
        Ok(ConvertedLayer {
            source: source.digest,
            source_size: source.size,
            digest: report.blob_digest,
            size: report.blob_size,
            diff_id: report.diff_id,
            uncompressed_size: report.uncompressed_size,
            toc_digest: report.toc_digest,
            annotations: report.annotations,
        })
    }

    /// Writes configuration and manifest, and then the name.
    async fn publish(&self, layers: &[ConvertedLayer], layer_type: &str) -> Result<Digest> {
        let oci = self.options.oci;
        let mut config = self.image.config().clone();
        config.rootfs.diff_ids = layers.iter().map(|layer| layer.diff_id).collect();
        let config = manifest::to_bytes(&config)?;

        let mut manifest = self.image.manifest().clone();
        manifest.config.digest = Digest::of(&config);
        manifest.config.size = config.len() as u64;
        for (name, layer) in manifest.layers.iter_mut().zip(layers) {
            rewrite(name, layer, layer_type);
        }
        let was = self.image.target().media_type.as_str();
        let mut media_type = manifest.media_type.clone().unwrap_or_else(|| was.to_owned());
        if oci {
            media_type::OCI_CONFIG.clone_into(&mut manifest.config.media_type);
            media_type::OCI_MANIFEST.clone_into(&mut media_type);
        }
        manifest.media_type = Some(media_type.clone());
        let document = manifest::to_bytes(&manifest)?;
        let name = Descriptor::of(&media_type, &document);
        let digest = name.digest;
        self.sink.put_document(config).await?;
        self.sink.publish(name, document).await?;
        Ok(digest)
    }
}

/// Runs on a blocking thread.
fn build_layer(
    mut reader: BlobReader,
    work_dir: &Path,
    options: &BuildOptions,
) -> Result<(NamedTempFile, BuildReport)> {
    let built = write_layer(&mut reader, work_dir, options);
    // A broken source explains whatever the build complains of.
    reader.finish()?;
    built
}

fn write_layer(
    reader: &mut BlobReader,
    work_dir: &Path,
    options: &BuildOptions,
) -> Result<(NamedTempFile, BuildReport)> {
    let failed = |error| Error::io("convert::write", error);
    let file = NamedTempFile::new_in(work_dir).map_err(failed)?;
    let mut spool = if options.prioritized.is_empty() {
        None
    } else {
        Some(tempfile::tempfile_in(work_dir).map_err(failed)?)
    };
    let spool = spool.as_mut().map(|file| file as &mut dyn Spool);
    let mut output = BufWriter::with_capacity(256 * 1024, file.as_file());
    let report = convert_layer(reader, &mut output, options, spool)?;
    output.flush().map_err(failed)?;
    drop(output);
    Ok((file, report))
}

fn layer_media_type(image: &ImageSource, oci: bool) -> &'static str {
    if !oci && image.manifest().config.media_type == media_type::DOCKER_CONFIG {
        media_type::DOCKER_LAYER_GZIP
    } else {
        media_type::OCI_LAYER_GZIP
    }
}

fn check_layer(layer: &Descriptor) -> Result<()> {
    let media_type = layer.media_type.as_str();
    let rule = if media_type.contains("nondistributable") || media_type.contains(".foreign.") {
        "a layer that must not be distributed cannot be converted"
    } else if media_type.ends_with("+encrypted") {
        "a layer that is encrypted cannot be converted; decrypt the image first"
    } else if media_type.contains(".tar") {
        return Ok(());
    } else {
        "only layers that are tars can be converted"
    };
    Err(Error::new(ErrorKind::Unsupported, "convert::layer", rule)
        .with_context("layer", layer.digest)
        .with_context("media_type", media_type))
}

/// Makes the source's descriptor describe the new blob.
fn rewrite(name: &mut Descriptor, layer: &ConvertedLayer, media_type: &str) {
    media_type.clone_into(&mut name.media_type);
    name.digest = layer.digest;
    name.size = layer.size;
    // Both speak of the bytes of the source: where to get them, and where its table lies.
    name.other.remove("urls");
    name.annotations.retain(|key, _| !key.contains(".zstd-chunked."));
    name.annotations.extend(layer.annotations.clone());
}
