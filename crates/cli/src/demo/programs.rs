//! The programs that a demonstration with containerd takes from this machine.
use std::{env, ffi::OsStr, path::Path};

use anyhow::{Result, ensure};

use crate::sandbox::Finished;

/// Programs and the packages of Debian and Ubuntu they are in.
const PROGRAMS: [(&str, &str); 4] = [
    ("containerd", "containerd"),
    ("containerd-shim-runc-v2", "containerd"),
    ("ctr", "containerd"),
    ("runc", "runc"),
];

/// Fails, and says what to install, unless everything is there.
pub(super) fn check() -> Result<()> {
    check_in(&env::var_os("PATH").unwrap_or_default())
}

fn check_in(path: &OsStr) -> Result<()> {
    let there = |dir: &Path, name: &str| dir.join(name).is_file();
    let missing: Vec<_> = PROGRAMS
        .into_iter()
        .filter(|(name, _)| !env::split_paths(path).any(|dir| there(&dir, name)))
        .collect();
    let names: Vec<_> = missing.iter().map(|(name, _)| *name).collect();
    let mut packages: Vec<_> = missing.iter().map(|(_, package)| *package).collect();
    packages.dedup();
    ensure!(
        missing.is_empty(),
        "--containerd needs {}, not found in PATH; on Debian and Ubuntu: apt-get install {}",
        names.join(", "),
        packages.join(" ")
    );
    Ok(())
}

/// Fails with the words of a program that did.
pub(super) fn succeeded(what: &str, program: &Finished) -> Result<()> {
    let said = String::from_utf8_lossy(&program.stderr.start);
    ensure!(program.status.success(), "{what}, {}:\n{}", program.status, said.trim_end());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_its_package() {
        let dir = tempfile::tempdir().expect("dir");
        for name in ["containerd", "containerd-shim-runc-v2", "ctr"] {
            std::fs::write(dir.path().join(name), "").expect("file");
        }
        let error = check_in(dir.path().as_os_str()).expect_err("no runc").to_string();
        assert!(error.contains("needs runc, not") && error.ends_with("install runc"), "{error}");
        let error = check_in(OsStr::new("")).expect_err("nothing").to_string();
        assert!(error.ends_with("apt-get install containerd runc"), "{error}");
        std::fs::write(dir.path().join("runc"), "").expect("file");
        check_in(dir.path().as_os_str()).expect("everything");
    }
}
