//! The memory that converting a layer of 4 GiB takes.
use std::{
    fs::File,
    io::{BufWriter, Read, Write as _},
    path::Path,
};

use anyhow::{Context as _, Result};

use crate::{content, convert, interrupt::Interrupt, report::LargeLayer};

const FILES: u64 = 64;
/// Size of each file, in bytes.
const SIZE: u64 = 64 << 20;

/// Converts such a layer, in the order of its tar and with its last file put first.
pub(crate) fn measure(interrupt: &Interrupt) -> Result<LargeLayer> {
    let dir = tempfile::Builder::new().prefix("bolide-bench-").tempdir()?;
    eprintln!("bench: writing a layer of {} MiB", (FILES * SIZE) >> 20);
    let source = dir.path().join("plain");
    content::write_plain_layout(&source, write_tar)?;
    let source = format!("oci:{}", source.display());
    interrupt.check()?;
    eprintln!("bench: converting it");
    let in_order = convert::once(&source, &[])?;
    interrupt.check()?;
    eprintln!("bench: converting it with a file put first");
    let record = dir.path().join("record");
    std::fs::write(&record, format!("f{:02}\n", FILES - 1))?;
    let record = record.to_str().context("a path of ours is UTF-8")?;
    let put_first = convert::once(&source, &["--record-in", record])?;
    Ok(LargeLayer { in_order, put_first })
}

fn write_tar(path: &Path) -> Result<()> {
    let mut tar = tar::Builder::new(BufWriter::with_capacity(1 << 20, File::create(path)?));
    for number in 0..FILES {
        let mut header = tar::Header::new_ustar();
        header.set_size(SIZE);
        header.set_mode(0o644);
        header.set_mtime(1_700_000_000);
        let blocks = Blocks { at: number << 32, end: (number << 32) + SIZE / 16 };
        tar.append_data(&mut header, format!("f{number:02}"), blocks)?;
    }
    tar.into_inner()?.flush()?;
    Ok(())
}

/// Words of 16 bytes, half of which compress.
struct Blocks {
    at: u64,
    end: u64,
}

impl Read for Blocks {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let mut written = 0;
        for block in buffer.chunks_exact_mut(16) {
            if self.at == self.end {
                break;
            }
            block[..8].copy_from_slice(&content::mixed(self.at).to_le_bytes());
            block[8..].copy_from_slice(b" as ever");
            self.at += 1;
            written += 16;
        }
        Ok(written)
    }
}
