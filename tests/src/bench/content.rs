//! The large layer: 20,000 small files and a large one, the same on every machine.
use std::{
    fs::{self, File},
    io::{BufWriter, Read, Write as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use bolide_e2e::{sha256, sha256_of};
use serde_json::json;

use crate::images;

const DIRECTORIES: u64 = 200;
const FILES: u64 = 100;
/// Size of the large file, in bytes.
pub(crate) const LARGE: u64 = 256 << 20;
/// Small files in all.
pub(crate) const SMALL_FILES: u64 = DIRECTORIES * FILES;
/// What makes a layer with other content: change it with anything here.
pub(crate) const RECIPE: &str = "200 x 100 files of 1 to 16 KiB, and 256 MiB, 1";

/// Path of the large file.
pub(crate) fn large() -> PathBuf {
    PathBuf::from("large")
}

/// Path of a small file.
pub(crate) fn small(number: u64) -> PathBuf {
    PathBuf::from(format!("d{:03}/f{:02}", number / FILES, number % FILES))
}

/// Writes the tree as plain files.
pub(crate) fn write_tree(root: &Path) -> Result<()> {
    for directory in 0..DIRECTORIES {
        fs::create_dir(root.join(format!("d{directory:03}")))?;
    }
    for number in 0..SMALL_FILES {
        fs::write(root.join(small(number)), small_content(number))?;
    }
    let mut file = File::create(root.join(large()))?;
    std::io::copy(&mut Noise::new(LARGE), &mut file).context("large file")?;
    Ok(())
}

/// Writes an OCI layout whose one image has the tree as its one, converted layer.
pub(crate) fn write_layout(dir: &Path) -> Result<()> {
    let plain = tempfile::tempdir_in(dir.parent().context("a layout lies in a directory")?)?;
    write_plain_layout(plain.path(), write_tar)?;
    images::convert(&format!("oci:{}", plain.path().display()), dir, None)
}

/// Writes an OCI layout whose one image has what `write_tar` writes as its one layer.
pub(crate) fn write_plain_layout(
    dir: &Path,
    write_tar: impl FnOnce(&Path) -> Result<()>,
) -> Result<()> {
    let blobs = dir.join("blobs/sha256");
    fs::create_dir_all(&blobs)?;
    let put = |bytes: &[u8]| -> Result<serde_json::Value> {
        let digest = sha256(bytes);
        fs::write(blobs.join(digest.trim_start_matches("sha256:")), bytes)?;
        Ok(json!({"digest": digest, "size": bytes.len()}))
    };
    let tar = blobs.join("layer");
    write_tar(&tar)?;
    let (digest, size) = (sha256_of(&tar)?, tar.metadata()?.len());
    fs::rename(&tar, blobs.join(digest.trim_start_matches("sha256:")))?;
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": [digest]},
    });
    let mut config = put(&serde_json::to_vec(&config)?)?;
    config["mediaType"] = "application/vnd.oci.image.config.v1+json".into();
    let layer = "application/vnd.oci.image.layer.v1.tar";
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config,
        "layers": [{"mediaType": layer, "digest": digest, "size": size}],
    });
    let mut manifest = put(&serde_json::to_vec(&manifest)?)?;
    manifest["mediaType"] = "application/vnd.oci.image.manifest.v1+json".into();
    let index = json!({"schemaVersion": 2, "manifests": [manifest]});
    fs::write(dir.join("index.json"), serde_json::to_vec(&index)?)?;
    fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    Ok(())
}

fn write_tar(path: &Path) -> Result<()> {
    let mut tar = tar::Builder::new(BufWriter::new(File::create(path)?));
    let header = |size, mode| {
        let mut header = tar::Header::new_ustar();
        header.set_size(size);
        header.set_mode(mode);
        header.set_mtime(1_700_000_000);
        header.set_entry_type(if mode == 0o755 {
            tar::EntryType::Directory
        } else {
            tar::EntryType::Regular
        });
        header
    };
    for directory in 0..DIRECTORIES {
        tar.append_data(&mut header(0, 0o755), format!("d{directory:03}/"), std::io::empty())?;
        for number in directory * FILES..(directory + 1) * FILES {
            let content = small_content(number);
            let mut header = header(content.len() as u64, 0o644);
            tar.append_data(&mut header, small(number), &*content)?;
        }
    }
    tar.append_data(&mut header(LARGE, 0o644), large(), Noise::new(LARGE))?;
    tar.into_inner()?.flush()?;
    Ok(())
}

/// 1 to 16 KiB, half of which compresses.
fn small_content(number: u64) -> Vec<u8> {
    let size = 1024 + mixed(number) % (15 * 1024);
    let words = (0..size.div_ceil(16)).flat_map(|at| {
        let word = mixed((number << 20) | at).to_le_bytes();
        word.into_iter().chain(*b" as ever")
    });
    let mut content: Vec<u8> = words.collect();
    content.truncate(usize::try_from(size).unwrap_or(usize::MAX));
    content
}

/// Bytes that do not compress, the same every time.
#[derive(Debug)]
struct Noise {
    at: u64,
    end: u64,
}

impl Noise {
    /// `bytes` is a multiple of 8.
    fn new(bytes: u64) -> Self {
        Self { at: 0, end: bytes / 8 }
    }
}

impl Read for Noise {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let mut written = 0;
        for word in buffer.chunks_exact_mut(8) {
            if self.at == self.end {
                break;
            }
            word.copy_from_slice(&mixed(self.at).to_le_bytes());
            self.at += 1;
            written += 8;
        }
        Ok(written)
    }
}

/// The finalizer of splitmix64: every bit of the answer depends on every bit of `value`.
pub(crate) fn mixed(value: u64) -> u64 {
    let value = value.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_the_same_every_time_and_has_its_size() {
        let mut bytes = Vec::new();
        Noise::new(4096).read_to_end(&mut bytes).expect("reads");
        assert_eq!(bytes.len(), 4096);
        // Made anew, it must still be what an image that was kept holds.
        assert_eq!(mixed(0), 0xe220_a839_7b1d_cdaf, "the first of splitmix64 with seed 0");
        assert_eq!(bytes[..8], mixed(0).to_le_bytes());
        let sizes = (0..SMALL_FILES).map(|number| small_content(number).len());
        assert!(sizes.clone().all(|size| (1024..16 * 1024).contains(&size)));
        assert!(sizes.max() > Some(15 * 1024));
    }
}
