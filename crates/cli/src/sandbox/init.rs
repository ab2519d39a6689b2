//! The process that becomes the program of an image.
//!
//! It is started twice: the first one leaves the namespaces of this machine, and since the process
//! namespace counts for children only, its child is the one that sets up the root and becomes the
//! program. The first one waits and hands on how it ended.
use std::{
    fs,
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    path::PathBuf,
    process::{Command, ExitStatus},
};

use anyhow::{Context as _, Result, anyhow};
use rustix::{
    mount::{MountPropagationFlags, mount_change},
    process::{Signal, set_parent_process_death_signal},
    thread::{CapabilitySet, remove_capability_from_bounding_set, set_no_new_privs},
};

use super::{
    program::{ImageProgram, Plan},
    root,
    unshare::{Namespaces, unshare},
    user,
};

/// What a program keeps of root's powers: none that reaches out of its namespaces, as with other
/// container engines.
const KEPT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::SYS_CHROOT)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::SETFCAP)
    .union(CapabilitySet::AUDIT_WRITE);

/// What to run.
#[derive(Debug, clap::Args)]
pub(crate) struct InitArgs {
    /// Whether this is the second of the two.
    #[arg(long)]
    inner: bool,
    /// File with the plan.
    plan: PathBuf,
}

/// Runs the program; its exit code is the result.
pub(super) fn run(args: &InitArgs) -> Result<u8> {
    // Whoever started this waits for it, and wants nothing left when that ends.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    if args.inner {
        let plan = fs::read(&args.plan).context("cannot read the plan")?;
        return become_program(&serde_json::from_slice(&plan).context("the plan is broken")?);
    }
    unshare(Namespaces::Program).context("cannot enter the program's namespaces")?;
    mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)
        .context("cannot make mounts private")?;
    let status = Command::new("/proc/self/exe")
        .args(["internal", "init", "--inner"])
        .arg(&args.plan)
        .status()
        .context("cannot start the program's process")?;
    Ok(exit_code(status))
}

/// The exit code, with 128 added to the number of a signal, as shells have it.
pub(crate) fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(255);
    u8::try_from(code).unwrap_or(u8::MAX)
}

fn become_program(plan: &Plan) -> Result<u8> {
    root::enter(&plan.stack)?;
    let ImageProgram { command, environment, directory, user } = &plan.program;
    let [program, arguments @ ..] = command.as_slice() else {
        return Err(anyhow!("the image names no program: give one, -- COMMAND"));
    };
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let user = user::find_user(user, &read("/etc/passwd"), &read("/etc/group"))?;
    let mut exec = Command::new(program);
    exec.args(arguments).env_clear().current_dir(if directory.is_empty() {
        "/"
    } else {
        directory
    });
    for variable in environment {
        let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
        exec.env(name, value);
    }
    if !environment.iter().any(|variable| variable.starts_with("PATH=")) {
        exec.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    }
    if (user.uid, user.gid) != (0, 0) {
        exec.gid(user.gid).uid(user.uid);
    }
    drop_capabilities()?;
    Err(exec.exec()).with_context(|| format!("cannot run {program:?} of the image"))
}

/// What is out of the bounding set is gone once the program is executed.
fn drop_capabilities() -> Result<()> {
    for capability in CapabilitySet::all().difference(KEPT).iter() {
        match remove_capability_from_bounding_set(capability) {
            // The kernel is older than this list.
            Err(rustix::io::Errno::INVAL) => {}
            removed => removed.context("cannot give up capabilities")?,
        }
    }
    set_no_new_privs(true).context("cannot give up new privileges")
}
