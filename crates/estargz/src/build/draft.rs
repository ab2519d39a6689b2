//! TOC entries before they are complete.
use bolide_core::Timestamp;

use super::{BlobFormat, entry, tar_reader::TarEntry};
use crate::toc::TocEntry;

/// A TOC entry; offsets and digests come when its bytes are compressed.
#[derive(Clone, Debug, Default)]
pub(super) struct Draft {
    pub(super) toc: TocEntry,
    /// What only containers/storage says.
    pub(super) podman: Option<Box<PodmanFields>>,
}

/// What a TOC of containers/storage says beyond one of the reference.
#[derive(Clone, Debug, Default)]
pub(super) struct PodmanFields {
    pub(super) mod_time: Timestamp,
    pub(super) access_time: Option<Timestamp>,
    pub(super) change_time: Option<Timestamp>,
    /// Where in the blob the frames of the file's content end, in bytes.
    pub(super) end_offset: i64,
    /// Whether the chunk is a hole.
    pub(super) zeros: bool,
}

impl Draft {
    /// Of an entry that is not a chunk.
    pub(super) fn of(entry: &TarEntry, format: BlobFormat) -> bolide_core::Result<Self> {
        let mut toc = entry::describe(entry)?;
        if format != BlobFormat::ZstdChunkedPodman {
            return Ok(Self { toc, podman: None });
        }
        // Their TOC must say what their reader of tars finds in the header, bit by bit.
        toc.mode = i64::from(entry.mode);
        toc.dev_major = i64::from(entry.dev_major);
        toc.dev_minor = i64::from(entry.dev_minor);
        let podman = PodmanFields {
            mod_time: entry.exact_mtime,
            access_time: entry.atime,
            change_time: entry.ctime,
            ..PodmanFields::default()
        };
        Ok(Self { toc, podman: Some(Box::new(podman)) })
    }

    /// Of a further chunk of a file.
    pub(super) fn chunk(of: &Self) -> Self {
        let toc =
            TocEntry { name: of.toc.name.clone(), kind: "chunk".to_owned(), ..TocEntry::default() };
        Self { toc, podman: of.podman.is_some().then(Box::default) }
    }
}
