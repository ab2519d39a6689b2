//! Metadata in a redb database.
mod failure;

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::SystemTime,
};

use async_trait::async_trait;
use bolide_core::{Error, ErrorKind, Result};
use parking_lot::RwLock;
use redb::{Database, ReadableDatabase as _, ReadableTable, TableDefinition, WriteTransaction};

use self::failure::{TRANSACTION, failed, opening};
use super::{Lineage, SnapshotStore};
use crate::{
    blocking::blocking,
    labels::Labels,
    lifecycle::{self, NewSnapshot, Snapshot, Usage, missing},
};

/// Snapshots as JSON, by name.
const SNAPSHOTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("snapshots");
/// Children by `parent`, 0, `child`. Names hold no 0: they are checked at the door.
const CHILDREN: TableDefinition<'_, &str, ()> = TableDefinition::new("children");
/// Numbers the store keeps, by name.
const COUNTERS: TableDefinition<'_, &str, u64> = TableDefinition::new("counters");
const NEXT_ID: &str = "next-id";
const FORMAT: &str = "format";
const FORMAT_VERSION: u64 = 1;

/// Ancestors a snapshot may have. overlayfs takes 500; an image has fewer than 128 layers.
const MAX_ANCESTORS: usize = 1024;

/// A [`SnapshotStore`] in one file, which one process owns.
#[derive(Clone, Debug)]
pub struct RedbStore {
    shared: Arc<Shared>,
}

/// Opens the database.
type Opener = Box<dyn Fn() -> Result<Database> + Send + Sync>;

struct Shared {
    opener: Opener,
    /// None while it could not be opened again.
    database: RwLock<Option<Database>>,
    /// After one failure of the disk the database refuses everything until it is opened again.
    /// A disk that was full must not take the snapshotter along for good.
    failed: AtomicBool,
    next_id: AtomicU64,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("next_id", &self.next_id).finish_non_exhaustive()
    }
}

impl Shared {
    /// Gives `work` the database, opened again if the disk failed before. Blocks.
    fn with<T>(&self, work: impl FnOnce(&Database) -> Result<T>) -> Result<T> {
        if self.failed.load(Ordering::Acquire) {
            self.reopen()?;
        }
        let database = self.database.read();
        let database = database.as_ref().ok_or_else(|| {
            Error::new(ErrorKind::Io, "store::open", "the metadata is being opened again")
        })?;
        let done = work(database);
        if done.as_ref().is_err_and(|error| error.operation() == TRANSACTION) {
            self.failed.store(true, Ordering::Release);
        }
        done
    }

    fn reopen(&self) -> Result<()> {
        let mut database = self.database.write();
        if !self.failed.load(Ordering::Acquire) {
            return Ok(());
        }
        // The old one goes first: it holds the lock of the file.
        *database = None;
        let opened = (self.opener)()?;
        prepare(&opened)?;
        *database = Some(opened);
        self.failed.store(false, Ordering::Release);
        tracing::warn!("the metadata was opened again after a failure of its disk");
        Ok(())
    }
}

impl RedbStore {
    /// Opens or makes the database. `FailedPrecondition` when another process has it open.
    pub async fn open(path: &Path) -> Result<Self> {
        let path = path.to_owned();
        Self::open_with(move || Database::create(&path).map_err(|error| opening(error, &path)))
            .await
    }

    async fn open_with(
        opener: impl Fn() -> Result<Database> + Send + Sync + 'static,
    ) -> Result<Self> {
        blocking("store", move || {
            let database = opener()?;
            let next_id = AtomicU64::new(prepare(&database)?);
            let shared = Shared {
                opener: Box::new(opener),
                database: RwLock::new(Some(database)),
                failed: AtomicBool::new(false),
                next_id,
            };
            Ok(Self { shared: Arc::new(shared) })
        })
        .await
    }

    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn Snapshots) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let shared = Arc::clone(&self.shared);
        blocking("store", move || {
            shared.with(|database| {
                let reading = database.begin_read().map_err(failed)?;
                let table = reading.open_table(SNAPSHOTS).map_err(failed)?;
                work(&table)
            })
        })
        .await
    }

    async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&WriteTransaction) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let shared = Arc::clone(&self.shared);
        blocking("store", move || {
            shared.with(|database| {
                let writing = database.begin_write().map_err(failed)?;
                // Dropped without a commit, a transaction leaves no trace.
                let done = work(&writing)?;
                writing.commit().map_err(failed)?;
                Ok(done)
            })
        })
        .await
    }
}

/// Makes the tables, checks the format, and finds the first unused id.
fn prepare(database: &Database) -> Result<u64> {
    let writing = database.begin_write().map_err(failed)?;
    let next_id = {
        writing.open_table(SNAPSHOTS).map_err(failed)?;
        writing.open_table(CHILDREN).map_err(failed)?;
        let mut counters = writing.open_table(COUNTERS).map_err(failed)?;
        let format = counters.get(FORMAT).map_err(failed)?.map(|version| version.value());
        match format {
            None => drop(counters.insert(FORMAT, FORMAT_VERSION).map_err(failed)?),
            Some(FORMAT_VERSION) => {}
            Some(other) => {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    "store::open",
                    "the metadata was written by another version of bolide",
                )
                .with_context("format", other)
                .with_context("known", FORMAT_VERSION));
            }
        }
        counters.get(NEXT_ID).map_err(failed)?.map_or(1, |id| id.value())
    };
    writing.commit().map_err(failed)?;
    Ok(next_id)
}

/// What both kinds of transaction can be asked.
trait Snapshots {
    fn find(&self, name: &str) -> Result<Option<Snapshot>>;
    fn all(&self) -> Result<Vec<Snapshot>>;
}

impl<T: ReadableTable<&'static str, &'static [u8]>> Snapshots for T {
    fn find(&self, name: &str) -> Result<Option<Snapshot>> {
        let Some(stored) = self.get(name).map_err(failed)? else { return Ok(None) };
        decode(name, stored.value()).map(Some)
    }

    fn all(&self) -> Result<Vec<Snapshot>> {
        let decoded = self.iter().map_err(failed)?.map(|entry| {
            let (name, stored) = entry.map_err(failed)?;
            decode(name.value(), stored.value())
        });
        decoded.collect()
    }
}

fn decode(name: &str, stored: &[u8]) -> Result<Snapshot> {
    serde_json::from_slice(stored).map_err(|error| {
        Error::new(ErrorKind::Corrupt, "store::decode", "the metadata of a snapshot is damaged")
            .with_context("name", name)
            .with_source(error)
    })
}

fn encode(snapshot: &Snapshot) -> Result<Vec<u8>> {
    serde_json::to_vec(snapshot).map_err(|error| {
        Error::new(ErrorKind::Unexpected, "store::encode", error.to_string())
            .with_context("name", &snapshot.name)
    })
}

fn found(snapshots: &(impl Snapshots + ?Sized), name: &str) -> Result<Snapshot> {
    snapshots.find(name)?.ok_or_else(|| missing(name))
}

/// The ancestors of a snapshot, the nearest first.
fn ancestors(snapshots: &(impl Snapshots + ?Sized), of: &Snapshot) -> Result<Vec<Snapshot>> {
    let mut chain = Vec::new();
    let mut parent = of.parent.clone();
    while !parent.is_empty() {
        let next = found(snapshots, &parent)?;
        parent.clone_from(&next.parent);
        chain.push(next);
        if chain.len() > MAX_ANCESTORS {
            return Err(Error::new(
                ErrorKind::Exhausted,
                "store::ancestors",
                "a snapshot may have 1024 ancestors",
            )
            .with_context("name", &of.name));
        }
    }
    Ok(chain)
}

/// The key of a child; a range from the key of the empty name holds all children.
fn child_key(parent: &str, child: &str) -> String {
    format!("{parent}\0{child}")
}

fn first_child(writing: &WriteTransaction, parent: &str) -> Result<Option<String>> {
    let children = writing.open_table(CHILDREN).map_err(failed)?;
    let start = child_key(parent, "");
    let Some(entry) = children.range(start.as_str()..).map_err(failed)?.next() else {
        return Ok(None);
    };
    let (key, _) = entry.map_err(failed)?;
    Ok(key.value().strip_prefix(&start).map(str::to_owned))
}

/// Puts `snapshot` in the place of `old`, its name and place among the children of its parent
/// included.
fn replace(
    writing: &WriteTransaction,
    old: Option<&Snapshot>,
    snapshot: Option<&Snapshot>,
) -> Result<()> {
    let mut table = writing.open_table(SNAPSHOTS).map_err(failed)?;
    let mut children = writing.open_table(CHILDREN).map_err(failed)?;
    if let Some(old) = old {
        table.remove(old.name.as_str()).map_err(failed)?;
        children.remove(child_key(&old.parent, &old.name).as_str()).map_err(failed)?;
    }
    if let Some(snapshot) = snapshot {
        table.insert(snapshot.name.as_str(), encode(snapshot)?.as_slice()).map_err(failed)?;
        if !snapshot.parent.is_empty() {
            let key = child_key(&snapshot.parent, &snapshot.name);
            children.insert(key.as_str(), ()).map_err(failed)?;
        }
    }
    Ok(())
}

#[async_trait]
impl SnapshotStore for RedbStore {
    fn next_id(&self) -> u64 {
        self.shared.next_id.fetch_add(1, Ordering::Relaxed)
    }

    async fn create(&self, new: NewSnapshot) -> Result<Lineage> {
        check_name(&new.name)?;
        self.write(move |writing| {
            let id = new.id;
            let (snapshot, ancestors) = {
                let table = writing.open_table(SNAPSHOTS).map_err(failed)?;
                let holder = table.find(&new.name)?;
                let parent = table.find(&new.parent)?;
                let now = SystemTime::now();
                let made = lifecycle::create(new, holder.as_ref(), parent.as_ref(), now)?;
                let above = ancestors(&table, &made)?;
                (made, above)
            };
            replace(writing, None, Some(&snapshot))?;
            let mut counters = writing.open_table(COUNTERS).map_err(failed)?;
            let next = counters.get(NEXT_ID).map_err(failed)?.map_or(1, |next| next.value());
            counters.insert(NEXT_ID, next.max(id + 1)).map_err(failed)?;
            Ok(Lineage { snapshot, ancestors })
        })
        .await
    }

    async fn commit(
        &self,
        key: &str,
        name: &str,
        usage: Usage,
        labels: Labels,
    ) -> Result<Snapshot> {
        check_name(name)?;
        let (key, name) = (key.to_owned(), name.to_owned());
        self.write(move |writing| {
            let (active, committed) = {
                let table = writing.open_table(SNAPSHOTS).map_err(failed)?;
                let active = found(&table, &key)?;
                let holder = table.find(&name)?;
                let (done, now) = ((usage, labels), SystemTime::now());
                let committed =
                    lifecycle::commit(active.clone(), &name, holder.as_ref(), done, now)?;
                (active, committed)
            };
            replace(writing, Some(&active), Some(&committed))?;
            Ok(committed)
        })
        .await
    }

    async fn remove(&self, name: &str) -> Result<Snapshot> {
        let name = name.to_owned();
        self.write(move |writing| {
            let snapshot = found(&writing.open_table(SNAPSHOTS).map_err(failed)?, &name)?;
            let child = first_child(writing, &name)?;
            lifecycle::check_remove(&snapshot, child.as_deref())?;
            replace(writing, Some(&snapshot), None)?;
            Ok(snapshot)
        })
        .await
    }

    async fn get(&self, name: &str) -> Result<Snapshot> {
        let name = name.to_owned();
        self.read(move |snapshots| found(snapshots, &name)).await
    }

    async fn lineage(&self, name: &str) -> Result<Lineage> {
        let name = name.to_owned();
        self.read(move |snapshots| {
            let snapshot = found(snapshots, &name)?;
            let ancestors = ancestors(snapshots, &snapshot)?;
            Ok(Lineage { snapshot, ancestors })
        })
        .await
    }

    async fn update(&self, name: &str, labels: Labels, paths: Vec<String>) -> Result<Snapshot> {
        let name = name.to_owned();
        self.write(move |writing| {
            let old = found(&writing.open_table(SNAPSHOTS).map_err(failed)?, &name)?;
            let updated = lifecycle::update(old.clone(), labels, &paths, SystemTime::now())?;
            replace(writing, Some(&old), Some(&updated))?;
            Ok(updated)
        })
        .await
    }

    async fn list(&self) -> Result<Vec<Snapshot>> {
        self.read(|snapshots| snapshots.all()).await
    }
}

/// Names come from clients; the separator of the children table must not be among them.
fn check_name(name: &str) -> Result<()> {
    const MAX_LEN: usize = 4096;
    if name.len() <= MAX_LEN && !name.contains('\0') {
        return Ok(());
    }
    let shown: String = name.chars().take(100).collect();
    Err(Error::new(
        ErrorKind::Malformed,
        "store::check_name",
        "a name may have 4096 bytes, none of them 0",
    )
    .with_context("name", format!("{shown:?}")))
}

#[cfg(test)]
mod tests;
