//! What may become of a snapshot: containerd's rules, as functions without I/O.
use std::{collections::BTreeMap, time::SystemTime};

use bolide_core::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

use crate::labels::{self, Labels};

/// What kind of snapshot it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Shows its parent, read-only.
    View,
    /// May be written to.
    Active,
    /// Finished; may be a parent.
    Committed,
}

impl Kind {
    /// The word filters know it by.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::View => "view",
            Self::Active => "active",
            Self::Committed => "committed",
        }
    }
}

/// What a snapshot occupies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Bytes on disk.
    pub size: u64,
    /// Inodes.
    pub inodes: u64,
}

/// One snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Names its directory; never used twice.
    pub id: u64,
    /// Key while it is active or a view, name once it is committed.
    pub name: String,
    /// Name of its parent; empty for none.
    pub parent: String,
    /// Kind.
    pub kind: Kind,
    /// When it was made, or committed.
    pub created: SystemTime,
    /// When it was last changed.
    pub updated: SystemTime,
    /// Labels.
    pub labels: Labels,
    /// What it occupied when it was committed.
    pub usage: Usage,
}

impl Snapshot {
    /// Whether its content is mounted lazily.
    #[must_use]
    pub fn is_remote(&self) -> bool {
        self.kind == Kind::Committed && self.labels.contains_key(labels::REMOTE)
    }
}

/// What a new snapshot is to be.
#[derive(Clone, Debug)]
pub struct NewSnapshot {
    /// Id of it, fresh from [`next_id`](crate::SnapshotStore::next_id).
    pub id: u64,
    /// Key, or name if it is committed from the start.
    pub name: String,
    /// Name of its parent; empty for none.
    pub parent: String,
    /// Kind. What is committed from the start is a lazy layer.
    pub kind: Kind,
    /// Labels.
    pub labels: Labels,
}

/// Makes a snapshot, given what holds its name and what its parent is.
pub fn create(
    new: NewSnapshot,
    holder: Option<&Snapshot>,
    parent: Option<&Snapshot>,
    now: SystemTime,
) -> Result<Snapshot> {
    if new.name.is_empty() {
        return Err(Error::new(ErrorKind::Malformed, CREATE, "a snapshot must have a key"));
    }
    check_parent(&new.parent, parent)?;
    if let Some(holder) = holder {
        return Err(exists(holder));
    }
    let NewSnapshot { id, name, parent, kind, labels } = new;
    let (created, updated, usage) = (now, now, Usage::default());
    let labels = kept(labels);
    Ok(Snapshot { id, name, parent, kind, created, updated, labels, usage })
}

/// A parent that is named must exist and be committed.
pub fn check_parent(name: &str, parent: Option<&Snapshot>) -> Result<()> {
    match parent {
        None if name.is_empty() => Ok(()),
        None => Err(Error::new(ErrorKind::NotFound, CREATE, "the parent snapshot does not exist")
            .with_context("parent", name)),
        Some(parent) if parent.kind == Kind::Committed => Ok(()),
        Some(parent) => {
            Err(Error::new(ErrorKind::Malformed, CREATE, "a parent must be a committed snapshot")
                .with_context("parent", name)
                .with_context("kind", parent.kind.name()))
        }
    }
}

/// Turns an active snapshot into a committed one. Its labels are replaced, not inherited.
pub fn commit(
    active: Snapshot,
    name: &str,
    holder: Option<&Snapshot>,
    (usage, labels): (Usage, Labels),
    now: SystemTime,
) -> Result<Snapshot> {
    if name.is_empty() {
        return Err(Error::new(ErrorKind::Malformed, COMMIT, "a snapshot must have a name"));
    }
    if let Some(holder) = holder {
        return Err(exists(holder));
    }
    if active.kind != Kind::Active {
        return Err(Error::new(
            ErrorKind::FailedPrecondition,
            COMMIT,
            "only an active snapshot can be committed",
        )
        .with_context("key", &active.name)
        .with_context("kind", active.kind.name()));
    }
    Ok(Snapshot {
        name: name.to_owned(),
        kind: Kind::Committed,
        created: now,
        updated: now,
        labels: kept(labels),
        usage,
        ..active
    })
}

/// Whether a snapshot may go. Garbage collection relies on the refusal.
pub fn check_remove(snapshot: &Snapshot, child: Option<&str>) -> Result<()> {
    let Some(child) = child else { return Ok(()) };
    Err(Error::new(
        ErrorKind::FailedPrecondition,
        "snapshots::remove",
        "a snapshot with children cannot be removed",
    )
    .with_context("name", &snapshot.name)
    .with_context("child", child))
}

/// Whether a snapshot can be mounted.
pub fn check_mountable(snapshot: &Snapshot) -> Result<()> {
    if snapshot.kind != Kind::Committed {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::FailedPrecondition,
        "snapshots::mounts",
        "only an active snapshot or a view has mounts",
    )
    .with_context("name", &snapshot.name))
}

/// Which labels an update changes: `paths` of a field mask; none of them means all labels. The
/// service's own marks stay as they are, and so do the labels a lazy layer is mounted by: without
/// them it could not come back after a restart.
pub fn update(
    snapshot: Snapshot,
    mut wanted: Labels,
    paths: &[String],
    now: SystemTime,
) -> Result<Snapshot> {
    let mut changed = snapshot.labels.clone();
    if paths.is_empty() {
        changed = std::mem::take(&mut wanted);
    }
    for path in paths {
        match path.strip_prefix("labels.") {
            Some(key) => match wanted.get(key) {
                Some(value) => drop(changed.insert(key.to_owned(), value.clone())),
                None => drop(changed.remove(key)),
            },
            None if path == "labels" => changed.clone_from(&wanted),
            None => {
                return Err(Error::new(
                    ErrorKind::Malformed,
                    "snapshots::update",
                    "only labels can be updated",
                )
                .with_context("path", format!("{path:?}"))
                .with_context("name", &snapshot.name));
            }
        }
    }
    let is_remote = snapshot.is_remote();
    let is_fixed = |key: &str| labels::is_mark(key) || (is_remote && labels::names_layer(key));
    changed.retain(|key, _| !is_fixed(key));
    changed.extend(snapshot.labels.into_iter().filter(|(key, _)| is_fixed(key)));
    Ok(Snapshot { labels: kept(changed), updated: now, ..snapshot })
}

/// As containerd stores labels: an empty value means none.
fn kept(labels: Labels) -> Labels {
    labels.into_iter().filter(|(_, value)| !value.is_empty()).collect::<BTreeMap<_, _>>()
}

const CREATE: &str = "snapshots::create";
const COMMIT: &str = "snapshots::commit";

/// The error of a name that is taken.
#[must_use]
pub fn exists(holder: &Snapshot) -> Error {
    Error::new(ErrorKind::AlreadyExists, CREATE, "a snapshot of this name exists")
        .with_context("name", &holder.name)
        .with_context("kind", holder.kind.name())
}

/// The error of a name that nothing holds.
#[must_use]
pub fn missing(name: &str) -> Error {
    Error::new(ErrorKind::NotFound, "snapshots::get", "the snapshot does not exist")
        .with_context("name", name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(name: &str, kind: Kind) -> Snapshot {
        let labels = Labels::from([("a".into(), "1".into()), ("b".into(), "2".into())]);
        let new = NewSnapshot { id: 1, name: name.into(), parent: String::new(), kind, labels };
        create(new, None, None, SystemTime::UNIX_EPOCH).expect("made")
    }

    fn kind_of<T: std::fmt::Debug>(result: Result<T>) -> ErrorKind {
        result.expect_err("refused").kind()
    }

    #[test]
    fn parents_must_be_committed() {
        let committed = snapshot("c", Kind::Committed);
        check_parent("c", Some(&committed)).expect("committed");
        check_parent("", None).expect("none");
        for kind in [Kind::Active, Kind::View] {
            let parent = snapshot("p", kind);
            assert_eq!(kind_of(check_parent("p", Some(&parent))), ErrorKind::Malformed);
        }
        assert_eq!(kind_of(check_parent("gone", None)), ErrorKind::NotFound);
    }

    #[test]
    fn only_active_snapshots_commit() {
        let now = SystemTime::now();
        let done = (Usage { size: 5, inodes: 1 }, Labels::new());
        let active = snapshot("k", Kind::Active);
        let committed = commit(active.clone(), "n", None, done.clone(), now).expect("commits");
        assert_eq!((committed.name.as_str(), committed.kind), ("n", Kind::Committed));
        assert_eq!((committed.created, committed.labels.len()), (now, 0));
        let taken = commit(active, "n", Some(&committed), done.clone(), now);
        assert_eq!(kind_of(taken), ErrorKind::AlreadyExists);
        for kind in [Kind::View, Kind::Committed] {
            let wrong = commit(snapshot("k", kind), "m", None, done.clone(), now);
            assert_eq!(kind_of(wrong), ErrorKind::FailedPrecondition);
        }
    }

    #[test]
    fn a_lazy_layer_keeps_what_it_is_mounted_by() {
        let mut remote = snapshot("r", Kind::Committed);
        for key in [labels::REMOTE, labels::TARGET, labels::TOC_DIGEST] {
            remote.labels.insert(key.to_owned(), "kept".to_owned());
        }
        let before = remote.labels.clone();
        let wanted = Labels::from([
            (labels::TOC_DIGEST.to_owned(), "other".to_owned()),
            ("c".to_owned(), "3".to_owned()),
        ]);
        let now = SystemTime::now();
        let after = update(remote, wanted, &[], now).expect("updated").labels;
        assert_eq!(after.get("c").map(String::as_str), Some("3"));
        assert!(!after.contains_key("a"));
        for key in [labels::REMOTE, labels::TARGET, labels::TOC_DIGEST] {
            assert_eq!(after.get(key), before.get(key), "{key}");
        }
    }

    #[test]
    fn masks_choose_labels() {
        let updated = |wanted: &[(&str, &str)], paths: &[&str]| {
            let wanted = wanted.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            let paths: Vec<_> = paths.iter().map(|path| (*path).to_owned()).collect();
            let done = update(snapshot("s", Kind::Active), wanted, &paths, SystemTime::now())?;
            let text: Vec<_> = done.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
            Ok::<_, Error>(text.join(","))
        };
        assert_eq!(updated(&[("c", "3")], &[]).expect("all"), "c=3");
        assert_eq!(updated(&[("c", "3")], &["labels"]).expect("all"), "c=3");
        assert_eq!(updated(&[("c", "3"), ("a", "9")], &["labels.c"]).expect("one"), "a=1,b=2,c=3");
        assert_eq!(updated(&[], &["labels.a"]).expect("removed"), "b=2");
        assert_eq!(updated(&[("a", "")], &["labels.a"]).expect("removed"), "b=2");
        assert_eq!(updated(&[(labels::REMOTE, "x")], &[]).expect("no client's label"), "");
        for path in ["parent", "kind", "name", "", "label"] {
            assert_eq!(kind_of(updated(&[], &[path])), ErrorKind::Malformed, "{path}");
        }
    }
}
