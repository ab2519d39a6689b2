//! Subordinate ids: what a user without root may be inside of a user namespace.
use std::{env, fs, path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};
use rustix::process::getgid;

use super::userns::wait_for_parent;

/// A range of ids that belong to a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    start: u32,
    count: u32,
}

/// The subordinate ids of this user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ranges {
    uids: Range,
    gids: Range,
}

impl Ranges {
    /// Arguments of [`IdmapArgs`].
    pub(super) fn arguments(self) -> [String; 4] {
        [self.uids.start, self.uids.count, self.gids.start, self.gids.count]
            .map(|id| id.to_string())
    }
}

/// The ids that this user was given, when the programs that map them are installed.
pub(super) fn ranges(uid: u32) -> Option<Ranges> {
    if !["newuidmap", "newgidmap"].into_iter().all(is_installed) {
        return None;
    }
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = name_of(&passwd, uid);
    let range = |path: &str| range_of(&fs::read_to_string(path).ok()?, uid, name);
    Some(Ranges { uids: range("/etc/subuid")?, gids: range("/etc/subgid")? })
}

fn is_installed(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

fn name_of(passwd: &str, uid: u32) -> Option<&str> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then_some(name)
    })
}

fn range_of(text: &str, uid: u32, name: Option<&str>) -> Option<Range> {
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let owner = fields.next()?;
        let (start, count) = (fields.next()?.parse().ok()?, fields.next()?.trim().parse().ok()?);
        let ours = Some(owner) == name || owner.parse() == Ok(uid);
        (ours && count > 0).then_some(Range { start, count })
    })
}

/// Whose ids to map, and which ranges come after root.
#[derive(Debug, clap::Args)]
pub(crate) struct IdmapArgs {
    process: u32,
    first_uid: u32,
    uids: u32,
    first_gid: u32,
    gids: u32,
}

/// Waits for the process to enter its namespace and writes its maps.
pub(super) fn run(args: &IdmapArgs) -> Result<()> {
    wait_for_parent()?;
    let uid = rustix::process::getuid().as_raw();
    map("newuidmap", args.process, uid, Range { start: args.first_uid, count: args.uids })?;
    let gid = getgid().as_raw();
    map("newgidmap", args.process, gid, Range { start: args.first_gid, count: args.gids })
}

/// Root inside is this user, and the others are the subordinate ids.
fn map(program: &str, process: u32, own: u32, range: Range) -> Result<()> {
    let ids = [process, 0, own, 1, 1, range.start, range.count].map(|id| id.to_string());
    let done = Command::new(Path::new(program)).args(ids).output();
    let done = done.with_context(|| format!("cannot run {program}"))?;
    ensure!(
        done.status.success(),
        "{program}: {}",
        String::from_utf8_lossy(&done.stderr).trim_end()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_belong_to_a_name_or_an_id() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\n";
        assert_eq!(name_of(passwd, 1000), Some("ann"));
        assert_eq!(name_of(passwd, 7), None);
        let text = "bob:1:2\nbroken\nann:100000:65536\n1001:5:0\n1001:7:8\n";
        let range = |start, count| Some(Range { start, count });
        assert_eq!(range_of(text, 1000, Some("ann")), range(100_000, 65_536));
        assert_eq!(range_of(text, 1001, None), range(7, 8));
        assert_eq!(range_of(text, 7, None), None);
    }
}
