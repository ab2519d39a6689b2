//! What strace sees of the container that runc runs, from when its root is the image's.
use std::{
    collections::{HashMap, HashSet},
    ffi::OsString,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

/// What is traced: everything that uses a file, and the change of the root.
const CALLS: &str = "pivot_root,open,openat,execve,read,pread64,getdents64,readlink,readlinkat";

/// A `runc` in front of the real one, whose containers are traced.
#[derive(Debug)]
pub struct TracedRunc {
    dir: TempDir,
}

/// How a path was used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Used {
    /// It was opened.
    Opened,
    /// It was executed.
    Executed,
    /// Bytes of it were read.
    Read,
    /// Its names were listed.
    Listed,
    /// It is a link whose target was read.
    LinkRead,
}

impl TracedRunc {
    /// Puts the program into a directory of its own.
    pub fn new() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let found = Command::new("sh").args(["-c", "command -v runc"]).output()?;
        let real = String::from_utf8(found.stdout)?;
        ensure!(!real.trim().is_empty(), "runc is not installed");
        let program = dir.path().join("runc");
        let script = format!(
            "#!/bin/sh\ncase \" $* \" in\n*' run '*) exec strace --follow-forks \
             --decode-fds=path --quiet=all --string-limit=256 --trace={CALLS} --output={trace} \
             {real} \"$@\" ;;\n*) exec {real} \"$@\" ;;\nesac\n",
            trace = dir.path().join("trace").display(),
            real = real.trim(),
        );
        fs::write(&program, script)?;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
        Ok(Self { dir })
    }

    /// `PATH` of programs that are to find it.
    pub fn path(&self) -> Result<OsString> {
        let known = std::env::var_os("PATH").unwrap_or_default();
        let dirs = std::iter::once(self.dir.path().to_owned()).chain(std::env::split_paths(&known));
        std::env::join_paths(dirs).context("PATH")
    }

    /// What the container used, by absolute paths of its root: those that the kernel gave for
    /// descriptors, and those that programs gave for links and executables.
    ///
    /// Files that were opened to be written are left out: what is read of them is not the image's.
    pub fn uses(&self) -> Result<HashSet<(Used, PathBuf)>> {
        Ok(parse(&fs::read_to_string(self.dir.path().join("trace")).context("the trace")?))
    }
}

fn parse(trace: &str) -> HashSet<(Used, PathBuf)> {
    let mut unfinished = HashMap::new();
    let mut inside = false;
    let (mut seen, mut written) = (HashSet::new(), HashSet::new());
    for line in trace.lines() {
        let Some((process, line)) = line.split_once(' ') else { continue };
        let line = line.trim_start();
        if let Some(start) = line.strip_suffix(" <unfinished ...>") {
            unfinished.insert(process, start);
            continue;
        }
        let resumed = line.split_once(" resumed>").map(|(_, rest)| rest);
        let line = match resumed {
            Some(rest) => unfinished.remove(process).unwrap_or_default().to_owned() + rest,
            None => line.to_owned(),
        };
        inside |= line.starts_with("pivot_root(");
        let Some((used, path)) = parse_call(&line).filter(|_| inside) else { continue };
        if used == Used::Opened && ["O_TRUNC", "O_CREAT"].iter().any(|flag| line.contains(flag)) {
            written.insert(path);
        } else {
            seen.insert((used, path));
        }
    }
    seen.retain(|(_, path)| !written.contains(path));
    seen
}

/// A call that succeeded.
fn parse_call(line: &str) -> Option<(Used, PathBuf)> {
    let (call, arguments) = line.split_once('(')?;
    let (arguments, result) = arguments.rsplit_once(") = ").or_else(|| {
        // Padding before the equals sign.
        let (arguments, result) = arguments.rsplit_once(" = ")?;
        Some((arguments.trim_end().trim_end_matches(')'), result))
    })?;
    let number = result.split(['<', ' ']).next()?;
    if number.starts_with('-') {
        return None;
    }
    let of_descriptor = |text: &str| {
        let (_, path) = text.split_once('<')?;
        Some(PathBuf::from(path.split_once('>')?.0))
    };
    let text = |arguments: &str| {
        let (_, rest) = arguments.split_once('"')?;
        let path = Path::new(rest.split_once('"')?.0);
        path.is_absolute().then(|| path.to_owned())
    };
    let (used, path) = match call {
        "open" | "openat" => (Used::Opened, of_descriptor(result)?),
        "execve" => (Used::Executed, text(arguments)?),
        "readlink" | "readlinkat" => (Used::LinkRead, text(arguments)?),
        "getdents64" if number != "0" => (Used::Listed, of_descriptor(arguments)?),
        "read" | "pread64" if number != "0" => (Used::Read, of_descriptor(arguments)?),
        _ => return None,
    };
    path.is_absolute().then_some((used, path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_that_succeed_inside_count() {
        let trace = r#"9 openat(AT_FDCWD</>, "/etc/host", O_RDONLY) = 3</etc/host>
9 pivot_root(".", ".")           = 0
9 execve("/usr/bin/python3", ["python3", "a = b"], 0x1 /* 2 vars */) = 0
9 openat(AT_FDCWD</>, "lib/x.so", O_RDONLY|O_CLOEXEC <unfinished ...>
8 openat(AT_FDCWD</>, "nothing", O_RDONLY) = -1 ENOENT (No such file or directory)
9 <... openat resumed>)             = 4</usr/lib/x.so>
9 read(4</usr/lib/x.so>, "\177ELF = (", 832) = 832
9 read(4</usr/lib/x.so>, "", 832)   = 0
8 openat(AT_FDCWD</>, "new", O_WRONLY|O_CREAT|O_TRUNC, 0666) = 5</tmp/new>
8 read(5</tmp/new>, "x", 1)         = 1
8 getdents64(6</etc>, 0x5 /* 9 entries */, 32768) = 208
8 readlink("/usr/bin/python3", "python3.11", 4096) = 10
8 readlink("relative", "x", 4096)   = 1
8 read(7<pipe:[17]>, "x", 1)        = 1
8 +++ exited with 0 +++
"#;
        let mut found: Vec<_> = parse(trace).into_iter().collect();
        found.sort();
        let expected = [
            (Used::Opened, "/usr/lib/x.so"),
            (Used::Executed, "/usr/bin/python3"),
            (Used::Read, "/usr/lib/x.so"),
            (Used::Listed, "/etc"),
            (Used::LinkRead, "/usr/bin/python3"),
        ];
        assert_eq!(found, expected.map(|(used, path)| (used, PathBuf::from(path))));
    }
}
