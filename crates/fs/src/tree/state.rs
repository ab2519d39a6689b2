//! The hidden state directory: what stargz-snapshotter's users ask a layer's state by.
use std::{
    ffi::{OsStr, OsString},
    sync::Arc,
};

use bolide_core::{LayerStatus, NodeAttr, NodeKind, StatusSource, Timestamp};

/// Name of the directory in the root of a layer; lookup finds it, listings leave it out.
pub(crate) const STATE_DIR: &str = ".stargz-snapshotter";

/// The one file in it, `<blob digest>.json`.
#[derive(Debug)]
pub(crate) struct StateFile {
    name: OsString,
    status: Arc<dyn StatusSource>,
}

impl StateFile {
    pub(crate) fn new(status: Arc<dyn StatusSource>) -> Self {
        let name = format!("{}.json", status.status().blob).into();
        Self { name, status }
    }

    pub(crate) fn name(&self) -> &OsStr {
        &self.name
    }

    pub(crate) fn content(&self) -> Vec<u8> {
        render(&self.status.status()).into_bytes()
    }

    pub(crate) fn attr(&self) -> NodeAttr {
        let size = self.content().len() as u64;
        NodeAttr {
            kind: NodeKind::File,
            size,
            perm: 0o400,
            uid: 0,
            gid: 0,
            mtime: Timestamp::default(),
            nlink: 1,
        }
    }
}

/// Attributes of the directory.
pub(crate) fn dir_attr() -> NodeAttr {
    NodeAttr {
        kind: NodeKind::Directory,
        size: 0,
        perm: 0o500,
        uid: 0,
        gid: 0,
        mtime: Timestamp::default(),
        nlink: 2,
    }
}

/// The document, with the reference's fields in its order.
fn render(status: &LayerStatus) -> String {
    let error = status
        .error
        .as_ref()
        .map(|error| format!("\"error\":{},", quote(error)))
        .unwrap_or_default();
    #[allow(clippy::cast_precision_loss, reason = "a percentage needs no more")]
    let percent = if status.blob_size == 0 {
        100.0
    } else {
        // A chunk that had to be fetched twice does not make more than the whole.
        status.fetched_bytes.min(status.blob_size) as f64 * 100.0 / status.blob_size as f64
    };
    format!(
        "{{{error}\"digest\":\"{}\",\"size\":{},\"fetchedSize\":{},\"fetchedPercent\":{percent}}}\n",
        status.blob, status.blob_size, status.fetched_bytes,
    )
}

fn quote(text: &str) -> String {
    let mut out = String::from('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => out.extend(['\\', character]),
            control if control.is_control() => out.push(' '),
            plain => out.push(plain),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use bolide_core::{Digest, Presence};

    #[test]
    fn the_document_has_the_fields_of_the_reference() {
        let mut status = LayerStatus {
            blob: Digest::of(b""),
            toc: Digest::of(b"toc"),
            blob_size: 400,
            fetched_bytes: 100,
            presence: Presence::default(),
            error: None,
        };
        let digest = status.blob;
        let expected = format!(
            "{{\"digest\":\"{digest}\",\"size\":400,\"fetchedSize\":100,\"fetchedPercent\":25}}\n"
        );
        assert_eq!(render(&status), expected);
        status.error = Some("a \"b\"\n".to_owned());
        assert!(render(&status).starts_with("{\"error\":\"a \\\"b\\\" \",\"digest\""));
    }
}
