//! The machine: what it is, its page cache, and the memory of a process.
use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use serde::Serialize;

/// What a figure depends on beside the program.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Host {
    pub(crate) kernel: String,
    pub(crate) cpus: usize,
    pub(crate) memory_mib: u64,
}

impl Host {
    pub(crate) fn look() -> Result<Self> {
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned();
        let cpus = cpus()?;
        let memory = fs::read_to_string("/proc/meminfo")?;
        let memory_mib = field(&memory, "MemTotal:").context("MemTotal")? / 1024;
        Ok(Self { kernel, cpus, memory_mib })
    }
}

/// Processors that this process may use.
pub(crate) fn cpus() -> Result<usize> {
    Ok(std::thread::available_parallelism()?.get())
}

/// What kind of file system a directory lies on.
pub(crate) fn file_system(dir: &Path) -> Result<String> {
    Ok(match rustix::fs::statfs(dir)?.f_type {
        0xef53 => "ext4".to_owned(),
        0x5846_5342 => "xfs".to_owned(),
        0x9123_683e => "btrfs".to_owned(),
        0x0102_1994 => "tmpfs".to_owned(),
        other => format!("file system {other:#x}"),
    })
}

/// Forgets every page, name and inode that the disk has.
pub(crate) fn drop_caches() -> Result<()> {
    // Dirty pages cannot be dropped.
    rustix::fs::sync();
    fs::write("/proc/sys/vm/drop_caches", "3").context("dropping caches needs root")
}

/// Bytes of files that the kernel holds in memory.
pub(crate) fn page_cache() -> Result<u64> {
    let memory = fs::read_to_string("/proc/meminfo")?;
    Ok(field(&memory, "Cached:").context("Cached")? * 1024)
}

/// Memory of a process, in MB.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    /// What it holds now.
    pub(crate) rss: f64,
    /// The most it ever held.
    pub(crate) peak: f64,
}

pub(crate) fn memory(process: u32) -> Result<Memory> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let megabytes =
        |name| -> Result<f64> { Ok(as_f64(field(&status, name).context(name)? * 1024) / 1e6) };
    Ok(Memory { rss: megabytes("VmRSS:")?, peak: megabytes("VmHWM:")? })
}

/// Figures are printed with four digits.
#[allow(clippy::cast_precision_loss, reason = "counts and sizes here are far below 2^53")]
pub(crate) fn as_f64(value: u64) -> f64 {
    value as f64
}

/// The number after `name` at the start of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        let text = "SwapCached: 1 kB\nCached:   20 kB\n";
        assert_eq!(field(text, "Cached:"), Some(20));
        assert_eq!(field(text, "Dirty:"), None);
    }
}
