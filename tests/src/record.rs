//! Which files a program uses, in the order of first use, found by running it.
use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::{Image, run};

const PATIENCE: Duration = Duration::from_mins(2);
/// Read by containerd itself when it makes a container of an image.
const READ_BEFORE: [&str; 2] = ["etc/passwd", "etc/group"];
/// Shows what the kernel mapped of a program before any of its own instructions ran.
const SHOW_MAPS: &str = "print(open('/proc/self/maps').read())";

/// The command that an image runs.
pub fn entrypoint(image: &Image) -> Result<Vec<String>> {
    let (_, config) = image.blobs()?.into_iter().next().context("an image has a configuration")?;
    let config: Value = serde_json::from_slice(&fs::read(config)?)?;
    serde_json::from_value(config["config"]["Entrypoint"].clone()).context("Entrypoint")
}

/// Runs a program of the tree below `root`; returns the regular files that it and the kernel opened,
/// relative to the root, in the order of first use.
pub fn opened_files(root: &Path, program: &[String]) -> Result<Vec<String>> {
    let trace = tempfile::NamedTempFile::new()?;
    let mut strace = Command::new("strace");
    // Descriptors are shown with the path they lead to, symbolic links resolved.
    strace.args(["-f", "-y", "-qq", "-s", "0", "-e", "trace=open,openat", "-o"]).arg(trace.path());
    strace.arg("chroot").arg(root).args(program);
    run(&mut strace, PATIENCE)?.success("strace")?;
    let traced = fs::read_to_string(trace.path())?;
    let opened: Vec<_> = traced.lines().filter_map(|line| opened(line, root)).collect();

    let mut maps = Command::new("unshare");
    maps.args(["--mount", "sh", "-c"]);
    maps.arg("mount -t proc proc \"$1/proc\" && exec chroot \"$1\" \"$2\" -c \"$3\"").arg("sh");
    maps.arg(root).arg(program.first().context("an empty entrypoint")?).arg(SHOW_MAPS);
    let maps = run(&mut maps, PATIENCE)?.success("maps of the program")?;
    let traced: HashSet<_> = opened.iter().collect();
    let by_kernel = maps.lines().filter_map(|line| line.split_once('/'));
    let by_kernel = by_kernel.map(|(_, path)| PathBuf::from(path));
    let by_kernel: Vec<_> = by_kernel.filter(|path| !traced.contains(path)).collect();

    let before = READ_BEFORE.iter().map(PathBuf::from).chain(by_kernel);
    let mut seen = HashSet::new();
    let files = before.chain(opened).filter(|path| root.join(path).is_file());
    let files: Vec<_> = files.filter(|path| seen.insert(path.clone())).collect();
    ensure!(files.len() > READ_BEFORE.len() + 10, "strace saw next to nothing: {files:?}");
    files
        .into_iter()
        .map(|path| Ok(path.to_str().context("names of the workload are UTF-8")?.to_owned()))
        .collect()
}

/// The file below `root` that a successful call opened: `… = 3</root/of/it/etc/ld.so.cache>`.
fn opened(line: &str, root: &Path) -> Option<PathBuf> {
    let (_, result) = line.rsplit_once(" = ")?;
    let (_, path) = result.split_once('<')?;
    let path = Path::new(path.strip_suffix('>')?);
    Some(path.strip_prefix(root).ok()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_opened_below_the_root_counts() {
        let root = Path::new("/tmp/x");
        let line = r#"7 openat(AT_FDCWD</>, ""..., O_RDONLY) = 3</tmp/x/etc/ld.so.cache>"#;
        assert_eq!(opened(line, root), Some("etc/ld.so.cache".into()));
        assert_eq!(opened("7 open(\"\"...) = -1 ENOENT (No such file)", root), None);
        assert_eq!(opened("7 open(\"\"...) = 3</etc/passwd>", root), None);
    }
}
