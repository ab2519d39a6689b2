//! What containerd is told to mount for a snapshot.
use std::path::{Path, PathBuf};

/// One mount, as containerd performs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MountSpec {
    /// `bind` or `overlay`.
    pub(crate) kind: &'static str,
    /// Directory to bind, or `overlay`.
    pub(crate) source: String,
    /// Options, in the order the kernel gets them.
    pub(crate) options: Vec<String>,
}

/// The directories a snapshot is shown from.
#[derive(Clone, Debug)]
pub(crate) struct Parts {
    /// The snapshot's own content.
    pub(crate) upper: PathBuf,
    /// The snapshot's work directory for overlayfs.
    pub(crate) work: PathBuf,
    /// Content of its ancestors, the nearest first.
    pub(crate) lower: Vec<PathBuf>,
    /// Whether something may be written.
    pub(crate) writable: bool,
    /// Whether overlayfs must use `user.` attributes, as in a user namespace.
    pub(crate) userxattr: bool,
}

/// The mounts that show a snapshot. A bind mount does where there is nothing to put together.
pub(crate) fn mounts(parts: &Parts) -> Vec<MountSpec> {
    match (parts.lower.as_slice(), parts.writable) {
        ([], true) => vec![bind(&parts.upper, "rw")],
        ([], false) => vec![bind(&parts.upper, "ro")],
        ([only], false) => vec![bind(only, "ro")],
        _ => vec![overlay(parts)],
    }
}

fn bind(source: &Path, mode: &str) -> MountSpec {
    MountSpec { kind: "bind", source: text(source), options: vec![mode.into(), "rbind".into()] }
}

fn overlay(parts: &Parts) -> MountSpec {
    let mut options = Vec::new();
    if parts.writable {
        options.push(format!("workdir={}", text(&parts.work)));
        options.push(format!("upperdir={}", text(&parts.upper)));
    }
    let lower: Vec<_> = parts.lower.iter().map(|dir| text(dir)).collect();
    options.push(format!("lowerdir={}", lower.join(":")));
    if parts.userxattr {
        options.push("userxattr".to_owned());
    }
    MountSpec { kind: "overlay", source: "overlay".to_owned(), options }
}

/// Paths start at the root, which is a UTF-8 string in the configuration.
fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(lower: &[&str], writable: bool) -> Parts {
        Parts {
            upper: "/r/3/fs".into(),
            work: "/r/3/work".into(),
            lower: lower.iter().map(PathBuf::from).collect(),
            writable,
            userxattr: false,
        }
    }

    fn shape(parts: &Parts) -> (&'static str, String, String) {
        let [mount] = <[MountSpec; 1]>::try_from(mounts(parts)).expect("one mount");
        (mount.kind, mount.source, mount.options.join(","))
    }

    #[test]
    fn shapes() {
        let own = "/r/3/fs".to_owned();
        assert_eq!(shape(&parts(&[], true)), ("bind", own.clone(), "rw,rbind".into()));
        assert_eq!(shape(&parts(&[], false)), ("bind", own, "ro,rbind".into()));
        let below = "/r/1/fs".to_owned();
        assert_eq!(shape(&parts(&["/r/1/fs"], false)), ("bind", below, "ro,rbind".into()));
        assert_eq!(
            shape(&parts(&["/r/1/fs"], true)),
            (
                "overlay",
                "overlay".into(),
                "workdir=/r/3/work,upperdir=/r/3/fs,lowerdir=/r/1/fs".into()
            )
        );
        let mut two = parts(&["/r/2/fs", "/r/1/fs"], false);
        two.userxattr = true;
        assert_eq!(
            shape(&two),
            ("overlay", "overlay".into(), "lowerdir=/r/2/fs:/r/1/fs,userxattr".into())
        );
    }
}
