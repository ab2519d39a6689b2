//! The reads of the benchmark: plain system calls, each timed by a monotonic clock.
use std::{
    fs::{self, File},
    ops::Range,
    os::unix::fs::FileExt as _,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use crate::{
    content::{self, mixed},
    host::as_f64,
    spread::percentile,
};

const SEQUENTIAL: usize = 128 << 10;
const RANDOM: usize = 4096;
/// Random reads of one measurement.
const RANDOM_READS: u64 = 10_000;
/// Small files of one measurement.
const SMALL_FILES: u64 = 1500;

/// What many short operations took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate {
    pub(crate) per_second: f64,
    /// Microseconds that half of them needed at most.
    pub(crate) p50: f64,
    pub(crate) p99: f64,
}

/// Reads a range of a file from its start to its end; MB a second.
pub(crate) fn sequential(file: &Path, range: Range<u64>) -> Result<f64> {
    let opened = File::open(file).with_context(|| file.display().to_string())?;
    let mut buffer = vec![0; SEQUENTIAL];
    let begin = Instant::now();
    let mut at = range.start;
    while at < range.end {
        opened.read_exact_at(&mut buffer, at).with_context(|| format!("at {at}"))?;
        at += SEQUENTIAL as u64;
    }
    Ok(as_f64(range.end - range.start) / 1e6 / begin.elapsed().as_secs_f64())
}

/// Reads pages of a range in an order that is the same every time.
pub(crate) fn random(file: &Path, range: &Range<u64>) -> Result<Rate> {
    let opened = File::open(file).with_context(|| file.display().to_string())?;
    let pages = (range.end - range.start) / RANDOM as u64;
    let mut buffer = [0; RANDOM];
    rate(RANDOM_READS, |number| {
        let at = range.start + mixed(number) % pages * RANDOM as u64;
        opened.read_exact_at(&mut buffer, at).with_context(|| format!("at {at}"))
    })
}

/// Opens and reads small files of the large layer, spread over all its directories.
pub(crate) fn small_files(root: &Path) -> Result<Rate> {
    let step = content::SMALL_FILES / SMALL_FILES;
    rate(SMALL_FILES, |number| {
        let path = root.join(content::small(number * step));
        fs::read(&path).map(drop).with_context(|| path.display().to_string())
    })
}

/// Lists a tree as `find -type f` does; returns the number of files and the seconds it took.
pub(crate) fn list(root: &Path) -> Result<(u64, f64)> {
    walk(root, |entry| Ok(entry.file_type()?.is_file()))
}

/// Lists a tree and asks for the attributes of every name in it.
pub(crate) fn stat(root: &Path) -> Result<(u64, f64)> {
    walk(root, |entry| Ok(entry.metadata()?.is_file()))
}

fn walk(root: &Path, is_file: impl Fn(&fs::DirEntry) -> Result<bool>) -> Result<(u64, f64)> {
    let begin = Instant::now();
    let (mut files, mut directories) = (0, vec![root.to_owned()]);
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).with_context(|| directory.display().to_string())? {
            let entry = entry?;
            if is_file(&entry)? {
                files += 1;
            } else if entry.file_type()?.is_dir() {
                directories.push(entry.path());
            }
        }
    }
    Ok((files, begin.elapsed().as_secs_f64()))
}

fn rate(count: u64, mut operation: impl FnMut(u64) -> Result<()>) -> Result<Rate> {
    let mut taken = Vec::new();
    for number in 0..count {
        let begin = Instant::now();
        operation(number)?;
        taken.push(begin.elapsed());
    }
    let whole: Duration = taken.iter().sum();
    let mut sorted: Vec<_> = taken.iter().map(|one| one.as_secs_f64() * 1e6).collect();
    sorted.sort_by(f64::total_cmp);
    Ok(Rate {
        per_second: as_f64(count) / whole.as_secs_f64(),
        p50: percentile(&sorted, 0.5),
        p99: percentile(&sorted, 0.99),
    })
}
