//! Archives of images: tars that are read where they lie, and written beside their place.
mod index;
mod writer;

pub(crate) use index::{ArchiveIndex, Member};
pub(crate) use writer::{ArchiveFiles, ArchiveWriter, directory};
