//! What is run: the image's word, overridden by the command line's.
use std::{fs, io::Read as _, path::Path};

use anyhow::{Context as _, Result, ensure};
use rustix::fs::{Mode, OFlags, ResolveFlags, open, openat2};

use super::args::{WorkloadArgs, variable};
use crate::{
    mount::RuntimeConfig,
    sandbox::{User, find_user},
};

/// Where programs are looked for when nothing says.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Longest list of users or groups, in bytes.
const MAX_LIST: u64 = 16 << 20;

/// A program of an image, ready to run.
#[derive(Debug)]
pub(super) struct Workload {
    /// Program and arguments, never empty.
    pub(super) command: Vec<String>,
    /// `NAME=value`, each name once.
    pub(super) environment: Vec<String>,
    /// Absolute.
    pub(super) directory: String,
    pub(super) user: User,
    pub(super) terminal: bool,
}

impl Workload {
    /// `root` is the root directory of the image, whose lists of users are read through what records
    /// its use: container engines read them before every start.
    pub(super) fn new(args: &WorkloadArgs, config: RuntimeConfig, root: &Path) -> Result<Self> {
        let words = |given: &Option<super::args::Words>, of_image: Option<Vec<String>>| {
            given.as_ref().map_or_else(|| of_image.unwrap_or_default(), |words| words.0.clone())
        };
        let mut command = words(&args.entrypoint, config.entrypoint);
        command.extend(words(&args.args, config.cmd));
        ensure!(!command.is_empty(), "the image names no program: give one with --entrypoint");
        let mut environment = Vec::new();
        let terminal = args.terminal.then(|| "TERM=xterm".to_owned());
        let from_file = args.env_file.as_deref().map(read_variables).transpose()?;
        let given = std::iter::once(PATH.to_owned())
            .chain(terminal)
            .chain(config.env.unwrap_or_default())
            .chain(from_file.unwrap_or_default())
            .chain(args.env.iter().cloned());
        given.for_each(|variable| set(&mut environment, variable));
        let user = args.user.as_ref().unwrap_or(&config.user);
        let directory = args.cwd.as_ref().unwrap_or(&config.working_dir);
        Ok(Self {
            command,
            environment,
            directory: Path::new("/").join(directory).display().to_string(),
            user: find_user(user, &list(root, "etc/passwd")?, &list(root, "etc/group")?)?,
            terminal: args.terminal,
        })
    }
}

/// Adds a variable, in place of one of the same name.
fn set(environment: &mut Vec<String>, variable: String) {
    let name = |variable: &str| variable.split('=').next().unwrap_or_default().to_owned();
    match environment.iter_mut().find(|known| name(known) == name(&variable)) {
        Some(known) => *known = variable,
        None => environment.push(variable),
    }
}

fn read_variables(file: &Path) -> Result<Vec<String>> {
    let named = || format!("cannot use {}", file.display());
    let text = fs::read_to_string(file).with_context(named)?;
    let lines = text.lines().map(str::trim_start).enumerate();
    lines
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .map(|(at, line)| variable(line).with_context(|| format!("line {}", at + 1)))
        .collect::<Result<_>>()
        .with_context(named)
}

/// A text of the image, whose links may lead anywhere but out of it; empty where there is none.
fn list(root: &Path, name: &str) -> Result<String> {
    let failed = || format!("cannot read /{name} of the image");
    let dir = open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let dir = dir.with_context(failed)?;
    // A pipe in its place would never be opened.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = openat2(dir, name, flags, Mode::empty(), ResolveFlags::IN_ROOT);
    let Ok(file) = file.map(fs::File::from) else { return Ok(String::new()) };
    let mut text = Vec::new();
    file.take(MAX_LIST).read_to_end(&mut text).with_context(failed)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

#[cfg(test)]
mod tests {
    use clap::{Args as _, Command, FromArgMatches as _};

    use super::*;

    fn parse(line: &[&str]) -> WorkloadArgs {
        let command = WorkloadArgs::augment_args(Command::new("x").no_binary_name(true));
        WorkloadArgs::from_arg_matches(&command.get_matches_from(line)).expect("arguments")
    }

    fn image() -> RuntimeConfig {
        let words = |words: &[&str]| Some(words.iter().map(|&word| word.to_owned()).collect());
        RuntimeConfig {
            user: "web".to_owned(),
            env: words(&["PATH=/bin", "A=image", "B=image"]),
            entrypoint: words(&["/start"]),
            cmd: words(&["--serve"]),
            working_dir: "/srv".to_owned(),
        }
    }

    #[test]
    fn the_command_line_overrides_the_image() {
        let root = tempfile::tempdir().expect("dir");
        fs::create_dir(root.path().join("etc")).expect("dir");
        // A link that leads out of the image means a file in it.
        std::os::unix::fs::symlink("/users", root.path().join("etc/passwd")).expect("link");
        fs::write(root.path().join("users"), "web:x:33:34::/:\n").expect("users");
        fs::write(root.path().join("etc/group"), "www:x:34:\ntls:x:70:web\n").expect("groups");
        let plain = Workload::new(&parse(&[]), image(), root.path()).expect("workload");
        assert_eq!(plain.command, ["/start", "--serve"]);
        assert_eq!(plain.environment, ["PATH=/bin", "A=image", "B=image"]);
        assert_eq!(plain.user, User { uid: 33, gid: 34, groups: vec![70] });
        assert_eq!(plain.directory, "/srv");

        let file = root.path().join("variables");
        fs::write(&file, "# none\n\nB=file\nC=file\n").expect("file");
        let given = parse(&[
            "--entrypoint=[\"sh\"]",
            "--args=[\"-c\", \"true\"]",
            "--env=C=line",
            "--env-file",
            file.to_str().expect("path"),
            "--user=0",
            "--cwd=tmp",
        ]);
        let all = Workload::new(&given, image(), root.path()).expect("workload");
        assert_eq!(all.command, ["sh", "-c", "true"]);
        assert_eq!(all.environment, ["PATH=/bin", "A=image", "B=file", "C=line"]);
        assert_eq!((all.user.uid, all.directory.as_str()), (0, "/tmp"));

        fs::write(&file, "B=1\nnothing\n").expect("file");
        let error = Workload::new(&given, image(), root.path()).expect_err("no variable");
        assert!(format!("{error:#}").contains("line 2"), "{error:#}");
        let nothing = Workload::new(&parse(&[]), RuntimeConfig::default(), root.path());
        assert!(nothing.expect_err("no program").to_string().contains("--entrypoint"));
        let nobody = Workload::new(&parse(&["--user=nobody"]), image(), root.path());
        assert!(nobody.expect_err("no such user").to_string().contains("nobody"));
    }
}
