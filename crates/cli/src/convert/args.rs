//! How layers are written, as the command line says it.
use std::{num::NonZeroUsize, thread};

use bolide_estargz::{BlobFormat, BuildOptions};
use bolide_image::{ConvertOptions, Platform, Platforms};

use crate::size;

/// The last second that can be written in a configuration: the end of the year 9999.
const LAST_SECOND: i64 = 253_402_300_799;

/// How layers are written.
#[derive(Debug, clap::Args)]
pub(crate) struct LayerArgs {
    /// Format of the new layers: estargz, estargz-external-toc, zstd-chunked, zstd-chunked-podman,
    /// tar-gzip or tar-zstd
    #[arg(long, default_value_t = BlobFormat::Estargz)]
    format: BlobFormat,
    /// Largest chunk: what the first read of a file fetches at least
    #[arg(long, value_name = "SIZE", default_value = "4MiB", value_parser = size::parse)]
    chunk_size: u64,
    /// Pack small files together until they have so many compressed bytes
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    min_chunk_size: Option<u64>,
    /// Compression level: of gzip 0 to 9, of zstd 1 to 22 [default: the format's]
    #[arg(long)]
    level: Option<u32>,
    /// Keep the tars of the layers to the byte, and so their diffIDs
    #[arg(long)]
    keep_diff_id: bool,
    /// Threads that compress; the result does not depend on it [default: all cores]
    #[arg(long, value_name = "N")]
    parallelism: Option<NonZeroUsize>,
    /// Latest time, in seconds since 1970, that files and image may bear
    #[arg(long, value_name = "SECONDS", env = "SOURCE_DATE_EPOCH",
        value_parser = clap::value_parser!(i64).range(0..=LAST_SECOND))]
    source_date_epoch: Option<i64>,
    /// Take over layers that have the wanted lazy format already
    #[arg(long)]
    reuse: bool,
    /// Send blobs to a registry in pieces of this size; what breaks goes on from there
    #[arg(long, value_name = "SIZE", default_value = "32MiB", value_parser = size::parse)]
    upload_chunk: u64,
    #[command(flatten)]
    image: ImageArgs,
}

/// Which images are written, and in whose media types.
#[derive(Debug, clap::Args)]
struct ImageArgs {
    /// Image of a multi-platform one, for example linux/arm64; of several an index is written
    /// [default: this machine's]
    #[arg(long)]
    platform: Vec<Platform>,
    /// Convert the images of all platforms
    #[arg(long, conflicts_with = "platform")]
    all_platforms: bool,
    /// Keep Docker's media types where the source has them; some registries drop annotations then
    #[arg(long)]
    docker: bool,
    /// Write OCI media types, which is the default
    #[arg(long, conflicts_with = "docker")]
    oci: bool,
}

impl LayerArgs {
    /// How many bytes of a blob are sent to a registry in one request.
    pub(crate) fn upload_chunk(&self) -> u64 {
        self.upload_chunk
    }

    /// The options of a conversion that prioritizes nothing.
    pub(crate) fn options(&self) -> ConvertOptions {
        let cores = || thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        let layer = BuildOptions {
            format: self.format,
            chunk_size: self.chunk_size,
            min_chunk_size: self.min_chunk_size.unwrap_or(0),
            level: self.level,
            keep_diff_id: self.keep_diff_id,
            latest_mtime: self.source_date_epoch,
            parallelism: self.parallelism.unwrap_or_else(cores),
            ..BuildOptions::default()
        };
        ConvertOptions {
            layer,
            platforms: self.image.platforms(),
            docker: self.image.docker,
            reuse: self.reuse,
            ..ConvertOptions::default()
        }
    }
}

impl ImageArgs {
    fn platforms(&self) -> Platforms {
        match &self.platform[..] {
            _ if self.all_platforms => Platforms::All,
            [] => Platforms::default(),
            [one] => Platforms::One(one.clone()),
            several => Platforms::Several(several.to_vec()),
        }
    }
}
