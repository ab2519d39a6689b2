//! How the allocator keeps memory: a daemon that opened a layer gives back what the opening took.
#![allow(unsafe_code, reason = "mallopt(3) has no safe form")]

/// Largest allocation kept on the heap, and memory at its end that is given back, in bytes.
#[cfg(target_env = "gnu")]
const THRESHOLD: libc::c_int = 128 << 10;

/// Keeps one heap instead of one for each thread, and its end short. glibc raises both thresholds
/// by itself when large buffers come and go, and then holds for good what a TOC or a member took:
/// four times as much as is in use. Call it before there are threads.
pub(crate) fn give_back() {
    #[cfg(target_env = "gnu")]
    {
        let options = [
            (libc::M_ARENA_MAX, 1),
            (libc::M_TRIM_THRESHOLD, THRESHOLD),
            (libc::M_MMAP_THRESHOLD, THRESHOLD),
        ];
        for (option, value) in options {
            // SAFETY: it takes two integers, changes nothing but the allocator's own settings, and
            // no other thread exists yet. A setting it does not know it refuses, which costs memory.
            unsafe { libc::mallopt(option, value) };
        }
    }
}
