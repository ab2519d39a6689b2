//! What is installed on this machine: an interpreter with its library, and more.
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use super::tree::{Collector, Entries, Entry};

/// Files that the program reads at least.
pub(crate) const MIN_READ: usize = 500;
/// Files that the program reads when there are so many.
const WANTED_READ: usize = 600;
/// Largest file that the program reads: source text, not archives.
const MAX_READ_SIZE: u64 = 128 * 1024;
/// Bytes of the interpreter's library, and of its shared libraries, at most.
const MAX_LIBRARY: u64 = 250 << 20;
/// Bytes of other software considered; the layer ends when its blob is large enough.
const MAX_SOFTWARE: u64 = 600 << 20;
/// Where the program lies in the image.
pub(crate) const APPLICATION: &str = "/app/main";

/// An interpreter of this machine and its program.
#[derive(Debug)]
pub(crate) struct Interpreter {
    /// Name for people.
    pub(crate) name: &'static str,
    /// Its executable, and others the program runs.
    executables: Vec<PathBuf>,
    /// Directories of its library.
    library: Vec<PathBuf>,
    /// Text of its program.
    pub(crate) program: &'static str,
}

impl Interpreter {
    /// What the image runs.
    pub(crate) fn command(&self) -> Vec<String> {
        let executable = self.executables.first().map(|path| path.display().to_string());
        executable.into_iter().chain([APPLICATION.to_owned()]).collect()
    }
}

/// The layers that are made of installed software.
#[derive(Debug)]
pub(crate) struct Software {
    pub(crate) interpreter: Interpreter,
    /// Interpreter, its libraries and what it reads.
    pub(crate) base: Entries,
    /// Other software.
    pub(crate) more: Entries,
    /// What the program reads, absolute.
    pub(crate) reads: Vec<PathBuf>,
    /// What is needed, in about the order of first use: paths as tars have them.
    pub(crate) first_used: Vec<String>,
}

/// Finds what this machine has. Runs interpreters and `ldd`; blocks.
pub(crate) fn find() -> Result<Software> {
    for interpreter in [python(), perl(), shell()].into_iter().flatten() {
        let mut collector = Collector::default();
        let base = base(&interpreter, &mut collector)?;
        let reads = reads(&interpreter, &base)?;
        if reads.len() < MIN_READ {
            continue;
        }
        let more = more(&mut collector)?;
        let first_used = first_used(&interpreter, &reads);
        return Ok(Software { interpreter, base, more, reads, first_used });
    }
    bail!(
        "this machine has no interpreter (python3, perl or sh) with {MIN_READ} files to read; \
         name an image instead: bolide demo REF"
    )
}

/// The distribution's Python, else the one that is found by name. It tells itself where it lies: a
/// name may be that of a wrapper.
fn python() -> Option<Interpreter> {
    const TELL: &str = "import sys, sysconfig; p = sysconfig.get_paths()\n\
        print(sys.executable, p['stdlib'], p['platstdlib'], sep='\\n')";
    ["/usr/bin/python3", "python3"].iter().find_map(|name| {
        let told = output(Command::new(name).args(["-I", "-c", TELL]))?;
        let mut lines = told.lines().map(PathBuf::from);
        let executables = vec![lines.next()?];
        let program = include_str!("program/main.py");
        Some(Interpreter { name: "python3", executables, library: lines.collect(), program })
    })
}

fn perl() -> Option<Interpreter> {
    const TELL: &str = "use Config; print join \"\\n\", $^X, @INC";
    let told = output(Command::new("perl").args(["-e", TELL]))?;
    let mut lines = told.lines().filter(|line| line.starts_with('/')).map(PathBuf::from);
    let executables = vec![lines.next()?];
    let program = include_str!("program/main.pl");
    Some(Interpreter { name: "perl", executables, library: lines.collect(), program })
}

fn shell() -> Option<Interpreter> {
    let found = |name: &str| {
        ["/usr/bin", "/bin"].iter().map(|dir| Path::new(dir).join(name)).find(|path| path.is_file())
    };
    let names = ["sh", "xargs", "sha256sum", "sort", "wc"];
    let executables = names.into_iter().map(found).collect::<Option<Vec<_>>>()?;
    let program = include_str!("program/main.sh");
    Some(Interpreter { name: "sh", executables, library: Vec::new(), program })
}

/// Standard output of a command that succeeds.
fn output(command: &mut Command) -> Option<String> {
    let done = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    done.status.success().then(|| String::from_utf8(done.stdout).ok())?
}

fn base(interpreter: &Interpreter, collector: &mut Collector) -> Result<Entries> {
    let failed = "cannot look through the installed software";
    for path in &interpreter.executables {
        let found = collector.add(path).context(failed)?;
        found.with_context(|| format!("{} cannot be read", path.display()))?;
    }
    for dir in &interpreter.library {
        collector.add_tree(dir, MAX_LIBRARY).context(failed)?;
    }
    if interpreter.library.is_empty() {
        // Something to read: text that comes with the C library, the compiler or the system.
        for dir in ["/usr/include", "/usr/share/perl", "/usr/share"] {
            collector.add_tree(Path::new(dir), 16 << 20).context(failed)?;
        }
    }
    let mut entries = collector.take();
    for library in shared_libraries(interpreter, &entries) {
        collector.add(&library).context(failed)?;
    }
    // Tells the dynamic linker about directories that are not its own.
    collector.add(Path::new("/etc/ld.so.cache")).context(failed)?;
    entries.append(&mut collector.take());
    Ok(entries)
}

/// What the executables and loadable modules among the entries are linked with, by the word of the
/// dynamic linker. A library that is missing shows when the program runs.
fn shared_libraries(interpreter: &Interpreter, entries: &Entries) -> BTreeSet<PathBuf> {
    let is_module = |path: &Path| path.extension().is_some_and(|extension| extension == "so");
    let modules = entries
        .iter()
        .filter(|(path, entry)| *entry == Entry::File && is_module(path))
        .map(|(path, _)| path);
    let objects: Vec<_> = interpreter.executables.iter().chain(modules).collect();
    // It fails when one of many is no dynamic object, and tells of the others all the same.
    let told = Command::new("ldd").args(objects).env("LC_ALL", "C").stdin(Stdio::null()).output();
    let told = told.map(|done| done.stdout).unwrap_or_default();
    String::from_utf8_lossy(&told).lines().filter_map(library_of).collect()
}

/// The path in a line of `ldd`: `\tname => /path (0x..)` or `\t/path (0x..)`.
fn library_of(line: &str) -> Option<PathBuf> {
    let line = line.strip_prefix('\t')?;
    let (path, _) = line.rsplit_once(" (0x")?;
    let path = path.split_once(" => ").map_or(path, |(_, path)| path);
    path.starts_with('/').then(|| PathBuf::from(path))
}

/// Source files of the interpreter's library, package after package, or of what was added to read.
fn reads(interpreter: &Interpreter, base: &Entries) -> Result<Vec<PathBuf>> {
    let extensions: &[&str] = match interpreter.name {
        "python3" => &["py"],
        "perl" => &["pm", "pl"],
        _ => &[],
    };
    let mut fitting = Vec::new();
    for (path, entry) in base {
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or("");
        let fits = extensions.is_empty() || extensions.contains(&extension);
        // The list has a path a line.
        let listable = path.to_str().is_some_and(|path| !path.contains('\n'));
        if *entry == Entry::File && fits && listable {
            let size = fs::metadata(path).with_context(|| path.display().to_string())?.len();
            if size <= MAX_READ_SIZE {
                fitting.push(path.clone());
            }
        }
    }
    fitting.sort();
    fitting.truncate(WANTED_READ);
    Ok(fitting)
}

/// What the interpreter loads, by its own word where it can tell, and then what the program reads.
fn first_used(interpreter: &Interpreter, reads: &[PathBuf]) -> Vec<String> {
    let mut loaded = String::new();
    if let ("python3", Some(python)) = (interpreter.name, interpreter.executables.first()) {
        let record = ["-I", "-c", include_str!("program/record.py"), interpreter.program];
        loaded = output(Command::new(python).args(record)).unwrap_or_default();
    }
    let own = ["/app/main", "/app/files"].map(PathBuf::from);
    let loaded = loaded.lines().filter_map(|path| Path::new(path).canonicalize().ok());
    let paths = interpreter.executables.iter().cloned().chain(loaded).chain(own);
    let mut known = BTreeSet::new();
    paths
        .chain(reads.iter().cloned())
        .filter_map(|path| path.strip_prefix("/").ok()?.to_str().map(str::to_owned))
        .filter(|path| known.insert(path.clone()))
        .collect()
}

/// Whatever else is installed: programs and their libraries first, then tools and texts.
fn more(collector: &mut Collector) -> Result<Entries> {
    let sysroot = output(Command::new("rustc").args(["--print", "sysroot"]));
    let places = ["/usr/lib/gcc", "/usr/libexec", "/usr/bin", "/usr/lib", "/usr/share", "/opt"];
    let places = places.map(PathBuf::from).into_iter();
    let sysroot = sysroot.map(|path| PathBuf::from(path.trim_end()));
    for place in places.chain(sysroot) {
        collector
            .add_tree(&place, MAX_SOFTWARE)
            .with_context(|| format!("cannot look through {}", place.display()))?;
        if collector.bytes() >= MAX_SOFTWARE {
            break;
        }
    }
    Ok(collector.take())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_linkers_lines_are_read() {
        for (line, path) in [
            ("\tlibc.so.6 => /lib/x/libc.so.6 (0x00007f)", Some("/lib/x/libc.so.6")),
            ("\t/lib64/ld-linux-x86-64.so.2 (0x00007f)", Some("/lib64/ld-linux-x86-64.so.2")),
            ("\tlinux-vdso.so.1 (0x00007f)", None),
            ("\tlibx.so => not found", None),
            ("\tstatically linked", None),
            ("/usr/bin/python3:", None),
        ] {
            assert_eq!(library_of(line), path.map(PathBuf::from), "{line}");
        }
    }
}
