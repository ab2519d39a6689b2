//! The record of what was used of an image: a JSON document a line, in the order of first use.
//!
//! `path`, `manifestDigest` and `layerIndex` are what stargz-snapshotter's recorder writes and its
//! converter reads. `uses` and `ranges` are bolide's own, which others pass over: how the path was
//! used, and which bytes of a file were read, as pairs of a start and the end behind it.
use std::{
    fs,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use bolide_core::Digest;
use bolide_fs::{AccessRecorder, Use, Uses};
use serde::Serialize;
use tempfile::NamedTempFile;

/// One line of a record.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct UsedPath {
    /// Relative to the root of the image.
    path: String,
    /// The image.
    manifest_digest: Digest,
    /// Number of the layer that served it, the lowest being 0.
    layer_index: usize,
    uses: Vec<&'static str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ranges: Vec<[u64; 2]>,
}

impl UsedPath {
    /// `None` for what no record can name: the root, and names that are not UTF-8.
    fn of(used: &Use, manifest_digest: Digest) -> Result<Option<Self>> {
        let layer_index = used.mount.parse().context("layers are mounted by their number")?;
        let path = match used.path.to_str() {
            Some("") => return Ok(None),
            Some(path) => path.to_owned(),
            None => {
                tracing::warn!(path = ?used.path, "not recorded: the name is not UTF-8");
                return Ok(None);
            }
        };
        let ranges = used.ranges.iter().map(|range| [range.start, range.end]).collect();
        Ok(Some(Self { path, manifest_digest, layer_index, uses: words(used), ranges }))
    }

    /// Path, image and layer, as a conversion wants them.
    pub(crate) fn place(&self) -> (String, Digest, usize) {
        (self.path.clone(), self.manifest_digest, self.layer_index)
    }
}

fn words(used: &Use) -> Vec<&'static str> {
    let (read, Uses { opened, listed, link_read }) = (!used.ranges.is_empty(), used.uses);
    let all = [(opened, "open"), (read, "read"), (listed, "list"), (link_read, "link")];
    all.into_iter().filter_map(|(used, word)| used.then_some(word)).collect()
}

/// Ends a recording of the layers of an image, each mounted under its number.
pub(crate) fn finish(recorder: &AccessRecorder, manifest: Digest) -> Result<Vec<UsedPath>> {
    let used = recorder.finish().context("cannot end the recording")?;
    used.iter().filter_map(|used| UsedPath::of(used, manifest).transpose()).collect()
}

/// The file that a record goes to. It appears when the record is complete, and was known to be
/// possible before.
#[derive(Debug)]
pub(crate) struct UsageFile {
    file: NamedTempFile,
    path: PathBuf,
}

impl UsageFile {
    /// Makes sure that the file can be made.
    pub(crate) fn create(path: &Path) -> Result<Self> {
        let failed = || format!("cannot write a record to {}", path.display());
        // Wherever this process goes meanwhile.
        let path = std::path::absolute(path).with_context(failed)?;
        let dir = path.parent().with_context(failed)?;
        let open = fs::Permissions::from_mode(0o666);
        let file = tempfile::Builder::new().permissions(open).tempfile_in(dir);
        Ok(Self { file: file.with_context(failed)?, path })
    }

    /// Writes the record.
    pub(crate) fn write(self, record: &[UsedPath]) -> Result<()> {
        let Self { mut file, path } = self;
        let failed = || format!("cannot write a record to {}", path.display());
        let mut text = Vec::new();
        for used in record {
            serde_json::to_writer(&mut text, used).with_context(failed)?;
            text.push(b'\n');
        }
        file.write_all(&text).with_context(failed)?;
        file.persist(&path).with_context(failed)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_what_the_reference_reads_and_more() {
        let used = |path: &str, uses, ranges| Use {
            mount: "2".to_owned(),
            path: path.into(),
            uses,
            ranges,
        };
        let line = |used: Use| {
            let manifest = Digest::of(b"image");
            UsedPath::of(&used, manifest).expect("a number").map(|used| {
                serde_json::to_string(&used).expect("JSON").replace(&manifest.to_string(), "D")
            })
        };
        let opened = Uses { opened: true, ..Uses::default() };
        assert_eq!(
            line(used("usr/bin/bash", opened, vec![0..4096, 8192..9000])).as_deref(),
            Some(
                r#"{"path":"usr/bin/bash","manifestDigest":"D","layerIndex":2,"uses":["open","read"],"ranges":[[0,4096],[8192,9000]]}"#
            ),
        );
        let listed = Uses { listed: true, ..Uses::default() };
        assert_eq!(
            line(used("etc", listed, Vec::new())).as_deref(),
            Some(r#"{"path":"etc","manifestDigest":"D","layerIndex":2,"uses":["list"]}"#),
        );
        assert_eq!(line(used("", listed, Vec::new())), None, "the root is everywhere");
    }
}
