//! System packages that the end-to-end tests need, from the distribution.
use std::process::Command;

use anyhow::{Result, bail};

use crate::shell;

/// Names are the same in Debian and Ubuntu.
const PACKAGES: &[&str] = &[
    "attr",
    "buildah",
    "containerd",
    "containernetworking-plugins",
    "debian-archive-keyring",
    "debootstrap",
    "docker-registry",
    "fuse3",
    "iproute2",
    "jq",
    "libcap2-bin",
    "runc",
    "skopeo",
    "strace",
    "uidmap",
    "umoci",
];

/// Installs what is missing when it may, else fails with the one line that does.
pub(crate) fn ensure() -> Result<()> {
    let missing: Vec<_> = PACKAGES.iter().copied().filter(|package| !installed(package)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !is_root() {
        bail!(
            "system packages are missing; install them with\n    sudo apt-get update && \
             sudo apt-get install --yes {}",
            missing.join(" ")
        );
    }
    let apt = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive").stdout(std::io::stderr());
        command
    };
    shell::run(&mut apt(&["--quiet", "update"]))?;
    shell::run(apt(&["--quiet", "install", "--yes", "--no-install-recommends"]).args(&missing))
}

/// Whether this process may mount, and run containerd.
pub(crate) fn is_root() -> bool {
    std::fs::read_to_string("/proc/self/status")
        .is_ok_and(|status| effective_uid(&status) == Some(0))
}

/// `Uid:` names the real, effective, saved and file system ids, in this order.
fn effective_uid(status: &str) -> Option<u32> {
    let ids = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    ids.split_ascii_whitespace().nth(1)?.parse().ok()
}

fn installed(package: &str) -> bool {
    let query = Command::new("dpkg-query")
        .args(["--show", "--showformat", "${db:Status-Status}", package])
        .output();
    query.is_ok_and(|output| output.stdout == b"installed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_effective_id_counts() {
        assert_eq!(effective_uid("Name:\tx\nUid:\t1000\t0\t0\t0\n"), Some(0));
        assert_eq!(effective_uid("Name:\tx\nUid:\t0\t1000\t0\t0\n"), Some(1000));
        assert_eq!(effective_uid("Name:\tx\n"), None);
    }
}
