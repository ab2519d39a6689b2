//! What a layer holds, entry by entry, in the words of its TOC.
use std::collections::BTreeMap;

use bolide_core::{Digest, NodeKind, Result};
use serde::Serialize;

use crate::{
    OpenedLayer, TocEntry, format,
    index::{clean, kind_of, link_of, mtime, name_of, owner, refuse, unsigned},
    toc,
};

/// One entry of a layer: a file, a directory, a link, a device or a pipe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ListedFile {
    /// Path from the root, without a slash at either end; the root itself is `.`.
    pub name: String,
    /// `dir`, `reg`, `symlink`, `hardlink`, `char`, `block` or `fifo`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Permission bits with set-id and sticky bits, at most 0o7777.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time, in seconds since 1970.
    pub mtime: i64,
    /// Size of a regular file, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// SHA-256 of a regular file in hex digits; none where an old TOC does not tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Target of a link.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
    /// Major number of a device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub major: Option<u32>,
    /// Minor number of a device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub minor: Option<u32>,
    /// Extended attributes, base64.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub xattrs: BTreeMap<String, String>,
}

impl OpenedLayer {
    /// Lists the layer in the order of its tar. Names that belong to the format are left out.
    ///
    /// The TOC is parsed once more, so a caller on a runtime runs this where it may block.
    /// `Malformed`, naming the rule, when a field that the index does not need breaks it.
    pub fn list(&self) -> Result<Vec<ListedFile>> {
        let mut listed = Vec::new();
        let read = toc::for_each_entry(&self.toc, &mut |entry| {
            listed.extend(list_entry(entry)?);
            Ok(())
        });
        match read {
            Ok(()) => Ok(listed),
            Err(error) => Err(error.into_error().with_context("blob", self.facts.blob)),
        }
    }
}

fn list_entry(entry: TocEntry) -> Result<Option<ListedFile>> {
    if entry.kind == "chunk" {
        return Ok(None);
    }
    let name = join(&name_of(&entry)?)?;
    if format::is_reserved(&name) {
        return Ok(None);
    }
    let is_file = entry.kind == "reg";
    let device = match kind_of(&entry)? {
        NodeKind::CharDevice(device) | NodeKind::BlockDevice(device) => Some(device),
        _ => None,
    };
    let link = match &*entry.kind {
        "hardlink" => Some(join(&link_of(&entry)?)?),
        "symlink" => Some(String::from_utf8_lossy(&link_of(&entry)?).into_owned()),
        _ => None,
    };
    Ok(Some(ListedFile {
        name: if name.is_empty() { ".".to_owned() } else { name },
        mode: u16::try_from(entry.mode & 0o7777).unwrap_or_default(),
        uid: owner(entry.uid, "uid")?,
        gid: owner(entry.gid, "gid")?,
        mtime: mtime(&entry.mod_time)?.seconds,
        size: if is_file { Some(unsigned(entry.size, "size")?) } else { None },
        sha256: if is_file { content_digest(&entry)?.map(|digest| digest.hex()) } else { None },
        link,
        major: device.map(|device| device.major),
        minor: device.map(|device| device.minor),
        xattrs: entry.xattrs,
        kind: entry.kind,
    }))
}

fn join(path: &[u8]) -> Result<String> {
    let parts: Vec<_> = clean(path)?;
    // What is not text is shown as far as it can be.
    Ok(String::from_utf8_lossy(&parts.join(&b'/')).into_owned())
}

fn content_digest(entry: &TocEntry) -> Result<Option<Digest>> {
    if entry.digest.is_empty() {
        return Ok((entry.size == 0).then(|| Digest::of(b"")));
    }
    let parsed = entry.digest.parse();
    parsed.map(Some).map_err(|_| refuse("the digest of a file must be of sha256"))
}
