//! `bolide mount` and `bolide umount`: an image on a directory, without containerd.
mod full;
mod mountinfo;
mod source;
mod stack;

pub(crate) use mountinfo::detach_below;
pub(crate) use source::SourceImage;
pub(crate) use stack::{LazyStack, unpack_all};
