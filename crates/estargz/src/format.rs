//! Names, sizes and limits of the format.

/// Name of the TOC inside the tar.
pub const TOC_NAME: &str = "stargz.index.json";
/// File that ends the prioritized area.
pub const PREFETCH_LANDMARK: &str = ".prefetch.landmark";
/// File that says that nothing is prioritized.
pub const NO_PREFETCH_LANDMARK: &str = ".no.prefetch.landmark";
/// The one byte a landmark holds.
pub const LANDMARK_BYTE: u8 = 0x0f;
/// Layer annotation: digest of the TOC document.
pub const ANNOTATION_TOC_DIGEST: &str = "containerd.io/snapshot/stargz/toc.digest";
/// Layer annotation: size of the uncompressed layer, decimal.
pub const ANNOTATION_UNCOMPRESSED_SIZE: &str = "io.containers.estargz.uncompressed-size";
/// Layer annotation of zstd:chunked as the reference writes it: digest of the compressed TOC.
pub const ANNOTATION_ZSTD_CHECKSUM: &str = "io.containers.zstd-chunked.manifest-checksum";
/// The same: where the TOC lies, `offset:size:uncompressed size:1`.
pub const ANNOTATION_ZSTD_POSITION: &str = "io.containers.zstd-chunked.manifest-position";
/// Layer annotation of zstd:chunked as containers/storage writes it: digest of the compressed TOC.
pub const ANNOTATION_PODMAN_CHECKSUM: &str = "io.github.containers.zstd-chunked.manifest-checksum";
/// The same: where the TOC lies, `offset:size:uncompressed size:1`.
pub const ANNOTATION_PODMAN_POSITION: &str = "io.github.containers.zstd-chunked.manifest-position";
/// The same: where tar-split lies, `offset:size:uncompressed size`.
pub const ANNOTATION_PODMAN_TAR_SPLIT: &str = "io.github.containers.zstd-chunked.tarsplit-position";
/// Layer annotation of ours: digest of the TOC document, where the reference's key cannot stand.
/// containers/storage refuses a layer that has that key beside those of zstd:chunked.
pub const ANNOTATION_OWN_TOC_DIGEST: &str = "containerd.io/snapshot/bolide/toc.digest";
/// Annotation in an image of TOCs: digest of the layer that one of them describes.
pub const ANNOTATION_LAYER_DIGEST: &str = "containerd.io/snapshot/stargz/layer.digest";
/// What is appended to an image's tag to name the image of its TOCs.
pub const TOC_IMAGE_SUFFIX: &str = "-esgztoc";
/// `chunkType` of a hole.
pub const CHUNK_TYPE_ZEROS: &str = "zeros";
/// Size of a chunk unless asked otherwise, in bytes.
pub const DEFAULT_CHUNK_SIZE: u64 = 4 << 20;

/// Longest TOC document read, in bytes: two million entries of an ordinary image.
pub const MAX_TOC_BYTES: u64 = 512 << 20;
/// Most entries in a TOC, and most nodes they may make, implied directories included.
pub const MAX_ENTRIES: u32 = 2_000_000;
/// Longest path, in bytes (`PATH_MAX` of Linux).
pub const MAX_PATH: usize = 4096;
/// Longest name in a directory, in bytes (`NAME_MAX` of Linux).
pub const MAX_NAME: usize = 255;
/// Longest extended attribute, in bytes (`XATTR_SIZE_MAX` of Linux).
pub const MAX_XATTR_VALUE: usize = 65_536;
/// Largest file, in bytes: what a signed 64-bit file offset can say, less room to align.
pub const MAX_FILE_SIZE: u64 = 1 << 62;

/// Whether a path from the root belongs to the format and not to the layer's tree.
pub(crate) fn is_reserved(path: &str) -> bool {
    [TOC_NAME, PREFETCH_LANDMARK, NO_PREFETCH_LANDMARK].contains(&path)
}
