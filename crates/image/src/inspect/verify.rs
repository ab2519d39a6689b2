//! Reads a layer as a whole and compares all that is said of it with what it is.
use std::{
    fs::File,
    io::{self, BufReader, Seek as _},
    path::Path,
    sync::Arc,
};

use bolide_core::{Digest, Error, ErrorKind, Result};
use bolide_estargz::{EstargzIndex, check_blob, check_chunks, diff_id};

use crate::{
    ImageSource,
    blob_reader::{BlobReader, blocking, feed},
    manifest::Descriptor,
};

/// Everything that is said of a layer.
#[derive(Clone, Debug)]
pub(super) struct Said {
    /// By the manifest.
    pub(super) layer: Descriptor,
    /// By the configuration: the digest of the uncompressed layer.
    pub(super) diff_id: Digest,
    /// By its TOC, if it has one.
    pub(super) index: Option<Arc<EstargzIndex>>,
}

/// Reads the blob once into a temporary file of `work_dir`, and compares; returns what is wrong.
///
/// Fails when the blob cannot be read, or written to the file.
pub(super) async fn verify(
    image: &ImageSource,
    work_dir: &Path,
    said: Said,
) -> Result<Vec<String>> {
    let stream = image.blob(&said.layer).await?;
    let (sender, reader) = BlobReader::new(said.layer.digest, said.layer.size);
    let file = tempfile::tempfile_in(work_dir).map_err(failed)?;
    let work = blocking(move || compare(reader, file, &said));
    let (faults, ()) = futures::join!(work, feed(stream, sender, |_| ()));
    faults
}

fn compare(mut blob: BlobReader, mut file: File, said: &Said) -> Result<Vec<String>> {
    let copied = io::copy(&mut blob, &mut file);
    match blob.finish() {
        Err(error) if error.kind() == ErrorKind::Corrupt => return Ok(vec![error.to_string()]),
        other => other?,
    }
    copied.map_err(failed)?;
    file.rewind().map_err(failed)?;
    let Some(index) = &said.index else {
        let unpacked = diff_id(&mut BufReader::new(&file));
        return Ok(
            unpacked.map_or_else(|error| vec![error.to_string()], |found| differs(said, found))
        );
    };
    let mut faults = match check_blob(&mut BufReader::new(&file), said.layer.digest, &**index) {
        Ok(verdict) => {
            let mut faults = differs(said, verdict.diff_id);
            faults.extend(verdict.disagreements);
            faults
        }
        Err(error) if error.kind() == ErrorKind::Malformed => vec![error.to_string()],
        Err(error) => return Err(error),
    };
    faults.extend(check_chunks(&mut file, &**index)?);
    Ok(faults)
}

fn differs(said: &Said, found: Digest) -> Vec<String> {
    let wanted = said.diff_id;
    let text = || format!("the diffID is {found} and not {wanted}, as the configuration says");
    (found != wanted).then(text).into_iter().collect()
}

fn failed(error: io::Error) -> Error {
    Error::io("inspect::verify", error)
}
