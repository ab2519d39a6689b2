//! Leaves namespaces: the one call here that the compiler cannot vouch for.
#![allow(unsafe_code, reason = "unshare(2) is unsafe for the sake of a flag that is not used here")]
use std::io;

use rustix::thread::UnshareFlags;

/// Enters new namespaces. `InvalidInput` for a user namespace when the process has threads.
pub(crate) fn unshare(namespaces: Namespaces) -> io::Result<()> {
    let flags = match namespaces {
        Namespaces::Mounts => UnshareFlags::NEWNS,
        Namespaces::UserAndMounts => UnshareFlags::NEWUSER | UnshareFlags::NEWNS,
        Namespaces::Network => UnshareFlags::NEWNET,
        Namespaces::Program => {
            UnshareFlags::NEWNS
                | UnshareFlags::NEWPID
                | UnshareFlags::NEWNET
                | UnshareFlags::NEWUTS
                | UnshareFlags::NEWIPC
        }
    };
    // SAFETY: only CLONE_FILES, which is in none of these sets, can break another thread's hold on
    // a file descriptor.
    Ok(unsafe { rustix::thread::unshare_unsafe(flags) }?)
}

/// Which namespaces are entered together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Namespaces {
    /// Mounts of our own.
    Mounts,
    /// Mounts of our own, and power over them without being root.
    UserAndMounts,
    /// A network of its own.
    Network,
    /// Everything a program is to be alone in; the process namespace counts for children.
    Program,
}
