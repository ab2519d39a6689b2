//! Makes this process able to mount, with mounts of its own.
use std::{
    fs,
    io::{self, Read as _, Write as _},
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::{
    mount::{MountPropagationFlags, mount_change},
    process::{getgid, getuid},
    thread::CapabilitySet,
};

use super::{
    idmap::{self, Ranges},
    unshare::{Namespaces, unshare},
};

const REMEDY: &str = "this user may not mount: run as root, or allow user namespaces (sysctl \
    kernel.unprivileged_userns_clone=1 on Debian, \
    kernel.apparmor_restrict_unprivileged_userns=0 on Ubuntu, user.max_user_namespaces above 0)";

/// Whether this process may mount where everybody sees it.
pub(crate) fn is_privileged() -> bool {
    let held = rustix::thread::capabilities(None);
    held.is_ok_and(|held| held.effective.contains(CapabilitySet::SYS_ADMIN))
}

/// Enters a mount namespace that ends with this process and its children, and a user namespace
/// where that needs one. Must be called while there is a single thread.
pub(crate) fn enter() -> Result<()> {
    if is_privileged() {
        unshare(Namespaces::Mounts).context("cannot enter a mount namespace")?;
    } else {
        enter_user_namespace()?;
    }
    // What is mounted from here on is nobody else's, and what others mount is not ours.
    mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)
        .context("cannot make mounts private")
}

fn enter_user_namespace() -> Result<()> {
    let (uid, gid) = (getuid().as_raw(), getgid().as_raw());
    // Started before: only a process outside may write more than one id.
    let helper = idmap::ranges(uid).map(Helper::start).transpose()?;
    unshare(Namespaces::UserAndMounts).context(REMEDY)?;
    match helper {
        Some(helper) => helper.finish(),
        None => map_single(uid, gid),
    }
}

/// This user becomes root, and nobody else is known.
fn map_single(uid: u32, gid: u32) -> Result<()> {
    let write = |name: &str, text: String| {
        fs::write(format!("/proc/self/{name}"), text)
            .with_context(|| format!("cannot write {name}"))
    };
    write("setgroups", "deny".to_owned())?;
    write("uid_map", format!("0 {uid} 1\n"))?;
    write("gid_map", format!("0 {gid} 1\n"))
}

/// A process that stays outside and writes the maps once it is told to.
struct Helper(Child);

impl Helper {
    fn start(ranges: Ranges) -> Result<Self> {
        let child = Command::new("/proc/self/exe")
            .args(["internal", "idmap", &std::process::id().to_string()])
            .args(ranges.arguments())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start the process that writes id maps")?;
        Ok(Self(child))
    }

    fn finish(mut self) -> Result<()> {
        let told = self.0.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(b"\n"));
        let mut complaint = String::new();
        let read =
            self.0.stderr.take().map_or(Ok(0), |out| out.take(4096).read_to_string(&mut complaint));
        let status = self.0.wait().context("cannot wait for the process that writes id maps")?;
        told.and(read).context("the process that writes id maps went away")?;
        ensure!(status.success(), "id maps were not written: {}", complaint.trim_end());
        Ok(())
    }
}

/// Waits until standard input says that the namespace was entered.
pub(super) fn wait_for_parent() -> Result<()> {
    let mut told = [0];
    match io::stdin().read(&mut told) {
        Ok(1) => Ok(()),
        Ok(_) => bail!("the process whose ids were to be mapped is gone"),
        Err(error) => Err(error).context("cannot read standard input"),
    }
}
