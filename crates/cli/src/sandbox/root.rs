//! The root of a program: the layers of its image under something to write to.
use std::{fs, io, os::unix::fs::symlink, path::Path};

use anyhow::{Context as _, Result};
use rustix::{
    io::Errno,
    mount::{MountFlags, UnmountFlags, mount, mount_bind, mount_remount, unmount},
    process::pivot_root,
};

use super::{overlay, program::Stack};

/// Devices that a program may expect, none of which stores or tells anything.
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];
/// Settings of the kernel, which are no namespace's own.
const READ_ONLY: [&str; 5] = ["proc/sys", "proc/sysrq-trigger", "proc/bus", "proc/fs", "proc/irq"];
const NOTHING_SPECIAL: MountFlags =
    MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);

/// Makes the layers this process's root, in whose mount and process namespaces nobody else lives.
pub(super) fn enter(stack: &Stack) -> Result<()> {
    let scratch = stack.dir.join("scratch");
    fs::create_dir_all(&scratch).context("cannot make a directory")?;
    // What the program writes is in memory and goes with its namespace.
    mount("tmpfs", &scratch, "tmpfs", MountFlags::empty(), c"mode=0755")
        .context("cannot mount a tmpfs")?;
    for name in ["upper", "work", "root"] {
        fs::create_dir(scratch.join(name)).context("cannot make a directory")?;
    }
    let root = scratch.join("root");
    overlay::mount_writable(stack, &scratch, &root)?;
    std::env::set_current_dir(&root).context("cannot enter the root")?;
    for name in ["proc", "dev", "sys", "tmp"] {
        make_dir(Path::new(name))?;
    }
    mount_proc()?;
    mount_dev()?;
    // The old root comes to lie on the new one, and goes.
    pivot_root(".", ".").context("cannot change the root")?;
    unmount(".", UnmountFlags::DETACH).context("cannot leave the old root")?;
    std::env::set_current_dir("/").context("cannot enter the root")
}

/// A directory of the image, or one of ours where it has none.
fn make_dir(path: &Path) -> Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(error).with_context(|| format!("cannot make /{}", path.display()))
        }
        _ => Ok(()),
    }
}

fn mount_proc() -> Result<()> {
    match mount("proc", "proc", "proc", NOTHING_SPECIAL, None) {
        // Inside of a container whose own /proc is masked the kernel shows no other. Most programs
        // do without.
        Err(Errno::PERM) => return Ok(()),
        mounted => mounted.context("cannot mount /proc")?,
    }
    for path in READ_ONLY {
        let bound = mount_bind(path, path).and_then(|()| {
            mount_remount(path, MountFlags::BIND | MountFlags::RDONLY | NOTHING_SPECIAL, c"")
        });
        match bound {
            // A kernel without it.
            Err(Errno::NOENT) => {}
            bound => bound.with_context(|| format!("cannot protect /{path}"))?,
        }
    }
    Ok(())
}

fn mount_dev() -> Result<()> {
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
    mount("tmpfs", "dev", "tmpfs", flags, c"mode=0755,size=64k").context("cannot mount /dev")?;
    for name in DEVICES {
        let (outside, inside) = (Path::new("/dev").join(name), Path::new("dev").join(name));
        fs::File::create(&inside)
            .and_then(|_| Ok(mount_bind(&outside, &inside)?))
            .with_context(|| format!("cannot show {}", outside.display()))?;
    }
    for (name, target) in
        [("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")]
    {
        symlink(target, Path::new("dev").join(name)).context("cannot make a link in /dev")?;
    }
    make_dir(Path::new("dev/shm"))?;
    mount("tmpfs", "dev/shm", "tmpfs", NOTHING_SPECIAL, c"mode=1777")
        .context("cannot mount /dev/shm")
}
