//! Puts layers over each other.
use std::{ffi::CString, path::Path};

use anyhow::{Context as _, Result};
use bolide_snapshotter::user_namespace;
use rustix::{
    fs::{Mode, OFlags, open},
    mount::{MountFlags, mount, mount_bind, mount_remount},
    process::fchdir,
};

use super::program::Stack;

/// Shows the layers on `target`. When they may be written to, what is written lies in the directory
/// of the layers.
pub(crate) fn mount_stack(stack: &Stack, writable: bool, target: &Path) -> Result<()> {
    if writable {
        for name in ["upper", "work"] {
            std::fs::create_dir(stack.dir.join(name)).context("cannot make a directory")?;
        }
        return mount_writable(stack, &stack.dir, target);
    }
    match stack.layers.as_slice() {
        // Overlayfs wants two. Directories of layers are mounts, which are read-only, or unpacked.
        [only] => {
            mount_bind(stack.dir.join(only), target).context("cannot mount the layer")?;
            let flags = MountFlags::BIND | MountFlags::RDONLY;
            mount_remount(target, flags, c"").context("cannot make the layer read-only")
        }
        _ => mount_with(stack, None, target),
    }
}

/// Shows the layers on `target`, an absolute path, with `upper` and `work` of `scratch` to write to.
pub(super) fn mount_writable(stack: &Stack, scratch: &Path, target: &Path) -> Result<()> {
    mount_with(stack, Some(scratch), target)
}

/// Changes this process's directory for the moment. Names are given relative to it: overlayfs takes
/// one page of them, and commas and colons in a path would need care.
fn mount_with(stack: &Stack, scratch: Option<&Path>, target: &Path) -> Result<()> {
    let here = open(".", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let here = here.context("cannot hold the directory")?;
    std::env::set_current_dir(&stack.dir).context("cannot enter the directory of layers")?;
    let mounted = mount_here(stack, scratch, target);
    fchdir(here).context("cannot return to the directory")?;
    mounted
}

fn mount_here(stack: &Stack, scratch: Option<&Path>, target: &Path) -> Result<()> {
    let scratch = scratch.map(|dir| dir.strip_prefix(&stack.dir).unwrap_or(dir).to_owned());
    let options = options(stack, scratch.as_deref(), user_namespace::inside());
    let flags = if scratch.is_some() { MountFlags::empty() } else { MountFlags::RDONLY };
    let options = CString::new(options).context("a path holds a zero byte")?;
    mount("bolide", target, "overlay", flags, options.as_c_str()).with_context(|| {
        format!("cannot mount an overlay of {} layers on {}", stack.layers.len(), target.display())
    })
}

fn options(stack: &Stack, scratch: Option<&Path>, userxattr: bool) -> String {
    let lower: Vec<_> = stack.layers.iter().rev().map(String::as_str).collect();
    let mut options = vec![format!("lowerdir={}", lower.join(":"))];
    if let Some(scratch) = scratch {
        options.push(format!("upperdir={}", scratch.join("upper").display()));
        options.push(format!("workdir={}", scratch.join("work").display()));
    }
    if userxattr {
        options.push("userxattr".to_owned());
    }
    options.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_layer_comes_first() {
        let stack = Stack { dir: "/d".into(), layers: vec!["0".into(), "1".into()] };
        assert_eq!(options(&stack, None, false), "lowerdir=1:0");
        let all = "lowerdir=1:0,upperdir=s/upper,workdir=s/work,userxattr";
        assert_eq!(options(&stack, Some(Path::new("s")), true), all);
    }
}
