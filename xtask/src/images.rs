//! Images of the end-to-end tests: built once, kept outside of the repository.
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use sha2::{Digest as _, Sha256};

use crate::shell;

/// Where Debian's packages come from.
const MIRROR: &str = "http://deb.debian.org/debian";

/// One image: its name, its recipe, and the program it runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Recipe {
    name: &'static str,
    script: &'static str,
    start: &'static str,
    /// What tells the tests where it lies.
    pub(crate) variable: &'static str,
}

/// An interpreter that reads hundreds of files, in an image of everything a file system can hold.
pub(crate) const PYTHON: Recipe = Recipe {
    name: "python",
    script: "python.sh",
    start: "start.py",
    variable: "BOLIDE_E2E_LAYOUT",
};

/// All of them.
pub(crate) const ALL: [Recipe; 3] = [
    PYTHON,
    Recipe {
        name: "node",
        script: "node.sh",
        start: "start.js",
        variable: "BOLIDE_E2E_NODE_LAYOUT",
    },
    Recipe {
        name: "postgres",
        script: "postgres.sh",
        start: "start-postgres.sh",
        variable: "BOLIDE_E2E_POSTGRES_LAYOUT",
    },
];

/// Builds an image if it is missing and returns the directory of its OCI layout.
///
/// Needs root, buildah and debootstrap; takes about two minutes the first time.
pub(crate) fn build(root: &Path, recipe: &Recipe) -> Result<PathBuf> {
    let recipes = root.join("xtask/recipes");
    let [base, script, start] =
        ["base.sh", recipe.script, recipe.start].map(|file| recipes.join(file));
    let cache = cache_dir()?;
    let layout = cache.join(format!("{}-{}", recipe.name, key(&[&base, &script, &start])?));
    if layout.join("index.json").is_file() {
        return Ok(layout);
    }
    fs::create_dir_all(&cache).with_context(|| cache.display().to_string())?;
    let partial = cache.join(format!("partial-{}", std::process::id()));
    let workshop = Workshop::new(cache.join(format!("buildah-{}", std::process::id())))?;
    let built = shell::run(
        Command::new("bash")
            .arg(&script)
            .env("WORK", &workshop.dir)
            .env("BASE", cache.join("debian-bookworm-minbase"))
            .env("LAYOUT", &partial)
            .env("START", &start)
            .env("MIRROR", MIRROR)
            // Standard output is for the answer.
            .stdout(std::io::stderr()),
    );
    if let Err(error) = built {
        remove(&partial);
        return Err(error);
    }
    remove(&layout);
    // A layout appears whole or not at all, so an interrupted build is only ever repeated.
    fs::rename(&partial, &layout).with_context(|| layout.display().to_string())?;
    Ok(layout)
}

/// Changes when anything that makes the image changes.
fn key(recipe: &[&Path]) -> Result<String> {
    let mut hasher = Sha256::new();
    hasher.update(MIRROR);
    for file in recipe {
        hasher.update(fs::read(file).with_context(|| file.display().to_string())?);
    }
    let digest: [u8; 32] = hasher.finalize().into();
    // 64 bits tell recipes apart; a name is read by people.
    let (prefix, _) = digest.split_first_chunk().context("a digest has more than 8 bytes")?;
    Ok(format!("{:016x}", u64::from_be_bytes(*prefix)))
}

fn cache_dir() -> Result<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let base = variable("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| variable("HOME").map(|home| Path::new(&home).join(".cache")))
        .context("neither XDG_CACHE_HOME nor HOME is set, so there is no place for images")?;
    ensure!(base.is_absolute(), "the cache directory {} is not absolute", base.display());
    Ok(base.join("bolide/images"))
}

/// The storage of one buildah run, taken down with everything mounted in it.
#[derive(Debug)]
struct Workshop {
    dir: PathBuf,
}

impl Workshop {
    fn new(dir: PathBuf) -> Result<Self> {
        fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
        Ok(Self { dir })
    }
}

impl Drop for Workshop {
    fn drop(&mut self) {
        let table = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let mut mounts: Vec<_> = table
            .lines()
            .filter_map(|line| line.split(' ').nth(1))
            .map(PathBuf::from)
            .filter(|path| path.starts_with(&self.dir))
            .collect();
        // Removing files below a mount that stayed would remove somebody else's.
        mounts.sort();
        for mount in mounts.iter().rev() {
            if !Command::new("umount").arg(mount).status().is_ok_and(|status| status.success()) {
                eprintln!("xtask: {} stays mounted, so it is left alone", mount.display());
                return;
            }
        }
        remove(&self.dir);
    }
}

fn remove(dir: &Path) {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            eprintln!("xtask: {} cannot be removed: {error}", dir.display());
        }
        _ => {}
    }
}
