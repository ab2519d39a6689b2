//! The TOC as containers/storage writes it (`pkg/chunked/internal/minimal`), which leaves out what
//! the reference says and says more of times and holes.
use std::collections::BTreeMap;

use bolide_core::{Digest, Timestamp};
use serde::Serialize;

use super::draft::{Draft, PodmanFields};
use crate::time;

/// A whole document.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Document<'a> {
    version: u8,
    entries: Vec<Entry<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tar_split_digest: Option<Digest>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Entry<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    link_name: &'a str,
    #[serde(skip_serializing_if = "is_zero")]
    mode: i64,
    #[serde(skip_serializing_if = "is_zero")]
    size: i64,
    #[serde(skip_serializing_if = "is_zero")]
    uid: i64,
    #[serde(skip_serializing_if = "is_zero")]
    gid: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    modtime: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    accesstime: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    changetime: Option<String>,
    #[serde(skip_serializing_if = "is_zero")]
    dev_major: i64,
    #[serde(skip_serializing_if = "is_zero")]
    dev_minor: i64,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    xattrs: &'a BTreeMap<String, String>,
    #[serde(skip_serializing_if = "str::is_empty")]
    digest: &'a str,
    #[serde(skip_serializing_if = "is_zero")]
    offset: i64,
    #[serde(skip_serializing_if = "is_zero")]
    end_offset: i64,
    #[serde(skip_serializing_if = "is_zero")]
    chunk_size: i64,
    #[serde(skip_serializing_if = "is_zero")]
    chunk_offset: i64,
    #[serde(skip_serializing_if = "str::is_empty")]
    chunk_digest: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    chunk_type: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    name_bytes: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    link_name_bytes: &'a str,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_zero(number: &i64) -> bool {
    *number == 0
}

/// The TOC of `drafts`, all of which have the fields of containers/storage.
pub(super) fn document(drafts: &[Draft], tar_split_digest: Option<Digest>) -> Document<'_> {
    let entries = drafts.iter().map(|draft| {
        let none = PodmanFields::default();
        let podman = draft.podman.as_deref().unwrap_or(&none);
        entry(draft, podman)
    });
    Document { version: 1, entries: entries.collect(), tar_split_digest }
}

fn entry<'a>(draft: &'a Draft, podman: &PodmanFields) -> Entry<'a> {
    let toc = &draft.toc;
    let is_chunk = toc.kind == "chunk";
    Entry {
        kind: &toc.kind,
        name: &toc.name,
        link_name: &toc.link_name,
        mode: toc.mode,
        size: toc.size,
        uid: toc.uid,
        gid: toc.gid,
        modtime: if is_chunk { None } else { instant(podman.mod_time) },
        accesstime: podman.access_time.and_then(instant),
        changetime: podman.change_time.and_then(instant),
        dev_major: toc.dev_major,
        dev_minor: toc.dev_minor,
        xattrs: &toc.xattrs,
        digest: &toc.digest,
        offset: toc.offset,
        end_offset: podman.end_offset,
        chunk_size: toc.chunk_size,
        chunk_offset: toc.chunk_offset,
        // A file of one chunk has but the digest of the file.
        chunk_digest: if toc.chunk_size > 0 { &toc.chunk_digest } else { "" },
        chunk_type: if podman.zeros { "zeros" } else { "" },
        name_bytes: &toc.name_bytes,
        link_name_bytes: &toc.link_name_bytes,
    }
}

/// RFC 3339 with as many digits of a second as are needed, as Go writes it.
fn instant(time: Timestamp) -> Option<String> {
    let whole = match time.seconds {
        0 => "1970-01-01T00:00:00Z".to_owned(),
        seconds => time::format(seconds)?,
    };
    if time.nanos == 0 {
        return Some(whole);
    }
    let fraction = format!("{:09}", time.nanos);
    Some(format!("{}.{}Z", whole.trim_end_matches('Z'), fraction.trim_end_matches('0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_are_written_as_go_does() {
        for (seconds, nanos, text) in [
            (0, 0, "1970-01-01T00:00:00Z"),
            (0, 5, "1970-01-01T00:00:00.000000005Z"),
            (1, 500_000_000, "1970-01-01T00:00:01.5Z"),
            (-1, 999_000_000, "1969-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(instant(Timestamp { seconds, nanos }).as_deref(), Some(text));
        }
    }
}
