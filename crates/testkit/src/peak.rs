//! How much memory a piece of work took at its worst.
use std::fs;

/// Watches the resident memory of this process. For test binaries with one test: whatever else
/// runs meanwhile counts too.
#[derive(Debug)]
pub struct PeakMemory {
    before: u64,
}

impl PeakMemory {
    /// Forgets earlier peaks and starts to watch. `None` where the kernel does not tell.
    #[must_use]
    pub fn start() -> Option<Self> {
        // 5 resets the peak (proc_pid_clear_refs(5)).
        fs::write("/proc/self/clear_refs", "5").ok()?;
        Some(Self { before: peak()? })
    }

    /// By how many bytes the peak has grown since.
    #[must_use]
    pub fn grown(&self) -> Option<u64> {
        Some(peak()?.saturating_sub(self.before))
    }
}

fn peak() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}
