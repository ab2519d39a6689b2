//! The TOC document, as it is on the wire.
use std::{borrow::Cow, collections::BTreeMap, fmt};

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

use crate::index::refuse;

/// One entry of a TOC. Fields that are zero are left out of the document.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TocEntry {
    /// Path, as the tar has it.
    pub name: String,
    /// `dir`, `reg`, `symlink`, `hardlink`, `char`, `block`, `fifo` or `chunk`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Size of a regular file, in bytes.
    #[serde(skip_serializing_if = "is_zero")]
    pub size: i64,
    /// RFC 3339 time; empty for 1970.
    #[serde(rename = "modtime", skip_serializing_if = "String::is_empty")]
    pub mod_time: String,
    /// Target of a link.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub link_name: String,
    /// Permission bits; the type is in `kind`.
    #[serde(skip_serializing_if = "is_zero")]
    pub mode: i64,
    /// Owner.
    #[serde(skip_serializing_if = "is_zero")]
    pub uid: i64,
    /// Group.
    #[serde(skip_serializing_if = "is_zero")]
    pub gid: i64,
    /// Name of the owner.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub user_name: String,
    /// Name of the group.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub group_name: String,
    /// Offset in the blob of the member that holds the payload, in bytes.
    #[serde(skip_serializing_if = "is_zero")]
    pub offset: i64,
    /// Offset inside that member once it is decompressed, in bytes.
    #[serde(skip_serializing_if = "is_zero")]
    pub inner_offset: i64,
    /// Major device number.
    #[serde(skip_serializing_if = "is_zero")]
    pub dev_major: i64,
    /// Minor device number.
    #[serde(skip_serializing_if = "is_zero")]
    pub dev_minor: i64,
    /// Extended attributes, base64.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_is_empty")]
    pub xattrs: BTreeMap<String, String>,
    /// Digest of the whole file.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub digest: String,
    /// Offset of this chunk in the file, in bytes.
    #[serde(skip_serializing_if = "is_zero")]
    pub chunk_offset: i64,
    /// Size of this chunk, in bytes; 0 means to the end of the file.
    #[serde(skip_serializing_if = "is_zero")]
    pub chunk_size: i64,
    /// Digest of this chunk.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub chunk_digest: String,
    /// What a chunk is in TOCs of containers/storage: nothing for content, `zeros` for a hole.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub chunk_type: String,
    /// Where the last frame of a file ends in the blob, in bytes; in TOCs of containers/storage. What
    /// lies between it and the next member are headers of the tar, as behind members of eStargz.
    #[serde(skip_serializing_if = "is_zero")]
    pub end_offset: i64,
    /// The bytes of the path in base64, when they are not UTF-8: `name` then shows U+FFFD for what
    /// is not. A field of ours, which other readers pass over.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name_bytes: String,
    /// The bytes of a link's target in base64, when they are not UTF-8.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub link_name_bytes: String,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_zero(number: &i64) -> bool {
    *number == 0
}

fn null_is_empty<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, String>, D::Error> {
    // Go writes a nil map as null.
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// A whole document, to be written.
#[derive(Debug, Serialize)]
pub(crate) struct TocDocument<'a> {
    pub(crate) version: i64,
    pub(crate) entries: &'a [TocEntry],
}

/// Reads a document entry by entry, so that it is never held as a whole beside the index.
pub(crate) fn for_each_entry(
    json: &[u8],
    visit: &mut dyn FnMut(TocEntry) -> bolide_core::Result<()>,
) -> Result<(), ReadError> {
    let mut failure = None;
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let mut sink = |entry| visit(entry).map_err(|error| failure = Some(error)).is_ok();
    let read = Document(&mut sink).deserialize(&mut deserializer).and_then(|()| deserializer.end());
    match (failure, read) {
        (Some(error), _) => Err(ReadError::Entry(error)),
        (None, Err(error)) => Err(ReadError::Json(error)),
        (None, Ok(())) => Ok(()),
    }
}

/// Why a document was not read.
#[derive(Debug)]
pub(crate) enum ReadError {
    Json(serde_json::Error),
    Entry(bolide_core::Error),
}

impl ReadError {
    /// The error as callers are told it.
    pub(crate) fn into_error(self) -> bolide_core::Error {
        match self {
            Self::Entry(error) => error,
            Self::Json(error) => {
                refuse("the TOC must be a JSON document as eStargz defines it").with_source(error)
            }
        }
    }
}

type Sink<'a> = &'a mut dyn FnMut(TocEntry) -> bool;

struct Document<'a>(Sink<'a>);

impl<'de> DeserializeSeed<'de> for Document<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Document<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a TOC: an object with \"version\" and \"entries\"")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut version = None;
        let mut listed = false;
        while let Some(key) = map.next_key::<Cow<'_, str>>()? {
            match &*key {
                "version" => version = Some(map.next_value::<i64>()?),
                "entries" if listed => return Err(serde::de::Error::duplicate_field("entries")),
                "entries" => {
                    listed = true;
                    map.next_value_seed(Entries(&mut *self.0))?;
                }
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        match version {
            Some(1) => Ok(()),
            other => Err(serde::de::Error::custom(format!("TOC version must be 1, not {other:?}"))),
        }
    }
}

struct Entries<'a>(Sink<'a>);

impl<'de> DeserializeSeed<'de> for Entries<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_option(self)
    }
}

impl<'de> Visitor<'de> for Entries<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of TOC entries")
    }

    fn visit_none<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while let Some(entry) = list.next_element()? {
            if !(self.0)(entry) {
                return Err(serde::de::Error::custom("entry refused"));
            }
        }
        Ok(())
    }
}
