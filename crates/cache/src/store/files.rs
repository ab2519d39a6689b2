//! The files of one layer image.
use std::{io, path::Path, sync::Arc};

use bolide_core::{ChunkIndex, ImageSpec, Presence};

use super::{
    disk::{Disk, StoreFile},
    names::{absent_is_fine, create_dirs, replace, sync_layer},
    presence::{self, Record},
    shape::Shape,
    shape_file::{self, Head},
};

pub(super) const DATA: &str = "data";
pub(super) const PRESENCE: &str = "presence";
const SHAPE: &str = "shape";

/// An image that is open.
#[derive(Debug)]
pub(super) struct Files {
    pub(super) data: Arc<dyn StoreFile>,
    pub(super) record: Record,
    pub(super) head: Head,
}

fn if_there<T>(opened: io::Result<T>) -> io::Result<Option<T>> {
    match opened {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

impl Files {
    /// Opens what is there, or makes it anew when it is not of this shape.
    ///
    /// All names are durable afterwards, whatever an earlier process left undone.
    pub(super) fn open(
        disk: &dyn Disk,
        dir: &Path,
        spec: &ImageSpec,
        shape: &Shape,
    ) -> io::Result<Self> {
        create_dirs(disk, dir)?;
        let files = match Self::find(disk, dir, spec, shape)? {
            Some(found) => found,
            None => Self::make(disk, dir, spec, shape)?,
        };
        sync_layer(disk, dir)?;
        Ok(files)
    }

    fn find(
        disk: &dyn Disk,
        dir: &Path,
        spec: &ImageSpec,
        shape: &Shape,
    ) -> io::Result<Option<Self>> {
        let Some(record) = if_there(disk.open(&dir.join(PRESENCE)))? else { return Ok(None) };
        let Some(record) = Record::read(record, shape.digest, shape.chunks())? else {
            return Ok(None);
        };
        let Some(data) = if_there(disk.open(&dir.join(DATA)))? else { return Ok(None) };
        if data.size()? != shape.size {
            return Ok(None);
        }
        record.sync()?;
        let head = match read_head(disk, dir)?.filter(|(_, head)| head.shape == shape.digest) {
            Some((_, head)) => head,
            // Damaged, or of an earlier version.
            None => write_shape(disk, dir, spec, shape)?,
        };
        Ok(Some(Self { data: data.into(), record, head }))
    }

    fn make(disk: &dyn Disk, dir: &Path, spec: &ImageSpec, shape: &Shape) -> io::Result<Self> {
        // The old files may still be open elsewhere: names are given up, not contents overwritten.
        // The old record must be gone before there is new data it would speak of.
        absent_is_fine(disk.remove_file(&dir.join(PRESENCE)))?;
        absent_is_fine(disk.remove_file(&dir.join(DATA)))?;
        disk.sync_dir(dir)?;
        // Not synced here: the first sync of content takes the length along, and a wrong length is
        // found when the image is opened.
        let data = disk.create(&dir.join(DATA))?;
        data.set_len(shape.size)?;
        let head = write_shape(disk, dir, spec, shape)?;
        replace(disk, dir, PRESENCE, &presence::blank(shape.digest, shape.chunks()))?;
        let record = disk.open(&dir.join(PRESENCE))?;
        let record = Record::read(record, shape.digest, shape.chunks())?;
        let record = record.ok_or_else(|| io::Error::other("a new record does not read back"))?;
        Ok(Self { data: data.into(), record, head })
    }
}

fn write_shape(disk: &dyn Disk, dir: &Path, spec: &ImageSpec, shape: &Shape) -> io::Result<Head> {
    let (head, bytes) = shape_file::encode(spec, shape);
    replace(disk, dir, SHAPE, &bytes)?;
    Ok(head)
}

/// Opens the shape file of a layer.
pub(super) fn open_shape(disk: &dyn Disk, dir: &Path) -> io::Result<Option<Box<dyn StoreFile>>> {
    if_there(disk.open(&dir.join(SHAPE)))
}

/// Opens the shape file of a layer and reads its head.
pub(super) fn read_head(
    disk: &dyn Disk,
    dir: &Path,
) -> io::Result<Option<(Box<dyn StoreFile>, Head)>> {
    let Some(file) = open_shape(disk, dir)? else { return Ok(None) };
    let head = Head::read(&*file)?;
    Ok(head.map(|head| (file, head)))
}

/// The record of a layer of this shape, if there is one.
pub(super) fn read_record(disk: &dyn Disk, dir: &Path, head: &Head) -> io::Result<Option<Record>> {
    let Some(file) = if_there(disk.open(&dir.join(PRESENCE)))? else { return Ok(None) };
    Record::read(file, head.shape, usize::try_from(head.chunks).unwrap_or(usize::MAX))
}

/// What an image that is not open holds; nothing when its files do not say.
pub(super) fn presence(disk: &dyn Disk, dir: &Path) -> io::Result<Presence> {
    let Some((file, head)) = read_head(disk, dir)? else { return Ok(Presence::default()) };
    let Some(record) = read_record(disk, dir, &head)? else { return Ok(Presence::default()) };
    let chunks_total = u32::try_from(head.chunks).unwrap_or(u32::MAX);
    let chunks = (0..chunks_total).filter(|at| record.has(ChunkIndex(*at))).count();
    let bytes = match chunks {
        0 => 0,
        all if all as u64 == head.chunks => head.bytes_total,
        _ => head.bytes_of(&*file, |chunk| record.has(chunk))?,
    };
    let chunks = u32::try_from(chunks).unwrap_or(u32::MAX);
    Ok(Presence { chunks, chunks_total, bytes, bytes_total: head.bytes_total })
}
