//! Making snapshots: lazily where a client asks for it and the layer can be, else with directories
//! to unpack into.
use bolide_core::{Error, ErrorKind, Result};

use super::{SnapshotService, directories::Wanted, not_lazy};
use crate::{
    labels::{self, Labels, RemoteLayerRequest},
    lifecycle::{self, Kind, NewSnapshot, Snapshot},
    mounts::MountSpec,
    store::Lineage,
};

/// What became of the wish for a lazy layer.
enum Outcome {
    /// The snapshot of the target exists.
    Ready,
    /// It has to be unpacked.
    NotLazy(Error),
}

impl SnapshotService {
    /// Makes an active snapshot and says what to mount for it.
    ///
    /// Labels that name a layer make that layer the committed snapshot of their target instead,
    /// and the answer is `AlreadyExists`: the client has nothing to unpack. When the layer cannot
    /// be lazy, the active snapshot is labelled with the reason.
    pub(crate) async fn prepare(
        &self,
        key: &str,
        parent: &str,
        labels: Labels,
    ) -> Result<Vec<MountSpec>> {
        let mut labels = labels::without_marks(labels);
        let ancestors = self.parents(key, parent).await?;
        if let Some(request) = RemoteLayerRequest::from_labels(parent, &labels) {
            let target = labels.get(labels::TARGET).map_or("", String::as_str);
            let outcome = self.remote(target, parent, request, &labels).await;
            log(key, parent, &outcome);
            match outcome? {
                Outcome::Ready => return Err(ready(target)),
                Outcome::NotLazy(error) => not_lazy::label(&mut labels, &error.to_string()),
            }
        }
        self.ordinary((key, parent), Kind::Active, labels, &ancestors).await
    }

    /// Makes a view and says what to mount for it. A view is never lazy itself.
    pub(crate) async fn view(
        &self,
        key: &str,
        parent: &str,
        labels: Labels,
    ) -> Result<Vec<MountSpec>> {
        let ancestors = self.parents(key, parent).await?;
        let labels = labels::without_marks(labels);
        self.ordinary((key, parent), Kind::View, labels, &ancestors).await
    }

    /// The parent and its ancestors, once it is clear that a snapshot `key` may be made on it. The
    /// store asks again; this comes before anything is mounted or made.
    async fn parents(&self, key: &str, parent: &str) -> Result<Vec<Snapshot>> {
        let lineage = match parent {
            "" => None,
            name => optional(self.store.lineage(name).await)?,
        };
        lifecycle::check_parent(parent, lineage.as_ref().map(|lineage| &lineage.snapshot))?;
        if let Some(holder) = optional(self.store.get(key).await)? {
            return Err(lifecycle::exists(&holder));
        }
        Ok(lineage.map_or_else(Vec::new, |Lineage { snapshot, mut ancestors }| {
            ancestors.insert(0, snapshot);
            ancestors
        }))
    }

    async fn ordinary(
        &self,
        (key, parent): (&str, &str),
        kind: Kind,
        labels: Labels,
        ancestors: &[Snapshot],
    ) -> Result<Vec<MountSpec>> {
        self.check_layers(ancestors).await?;
        let (id, writable) = (self.store.next_id(), kind == Kind::Active);
        let owner = ancestors.first().map(|parent| parent.id);
        let building = self.directories.make(Wanted { id, writable, owner }).await?;
        let (name, parent) = (key.to_owned(), parent.to_owned());
        let new = NewSnapshot { id, name, parent, kind, labels };
        match self.store.create(new).await {
            Ok(lineage) => {
                self.not_lazy.record(&lineage.snapshot);
                Ok(self.mounts_of(&lineage))
            }
            Err(error) => {
                self.directories.discard(building).await;
                Err(error)
            }
        }
    }

    /// Mounts the layer and makes it the committed snapshot of its target. An error means that the
    /// layer could not be committed; it is unmounted again.
    async fn remote(
        &self,
        target: &str,
        parent: &str,
        request: Result<RemoteLayerRequest>,
        labels: &Labels,
    ) -> Result<Outcome> {
        if let Some(outcome) = self.existing(target, parent).await? {
            return Ok(outcome);
        }
        let request = match request {
            Ok(request) => request,
            Err(error) => return Ok(Outcome::NotLazy(error)),
        };
        let (id, writable, owner) = (self.store.next_id(), false, None);
        let building = self.directories.make(Wanted { id, writable, owner }).await?;
        let content = self.directories.fs(id);
        let mounted = match self.layers.mount(&id.to_string(), &request, &content).await {
            Ok(mounted) => mounted,
            Err(error) => {
                self.directories.discard(building).await;
                return Ok(Outcome::NotLazy(error));
            }
        };
        let mut labels = labels.clone();
        let vouched = labels::of_trust(mounted.trust);
        labels.extend(vouched.map(|(key, value)| (key.to_owned(), value)));
        labels.insert(labels::REMOTE.to_owned(), labels::REMOTE_VALUE.to_owned());
        let (name, parent_name) = (target.to_owned(), parent.to_owned());
        let kind = Kind::Committed;
        let new = NewSnapshot { id, name, parent: parent_name, kind, labels };
        let Err(error) = self.store.create(new).await else { return Ok(Outcome::Ready) };
        match self.layers.unmount(&id.to_string()).await {
            Ok(()) => self.directories.discard(building).await,
            Err(error) => tracing::warn!(id, %error, "a layer is left to Cleanup"),
        }
        if error.kind() != ErrorKind::AlreadyExists {
            return Err(error);
        }
        // Somebody else prepared the same target meanwhile.
        self.existing(target, parent).await?.ok_or(error)
    }

    /// What a committed snapshot that has the target's name already means for a client.
    async fn existing(&self, target: &str, parent: &str) -> Result<Option<Outcome>> {
        let Some(holder) = optional(self.store.get(target).await)? else { return Ok(None) };
        if holder.kind == Kind::Committed && holder.parent == parent {
            return Ok(Some(Outcome::Ready));
        }
        // containerd looks for the target on its own parent, and fails if that is not there.
        let rule = "a snapshot of the target's name has another parent or kind";
        Ok(Some(Outcome::NotLazy(
            Error::new(ErrorKind::AlreadyExists, "snapshots::prepare", rule)
                .with_context("target", target)
                .with_context("parent", holder.parent)
                .with_context("kind", holder.kind.name()),
        )))
    }
}

/// The lines by which users and their tests tell what is lazy, as stargz-snapshotter writes them.
fn log(key: &str, parent: &str, outcome: &Result<Outcome>) {
    match outcome {
        Ok(Outcome::Ready) => tracing::debug!(
            "remote-snapshot-prepared" = "true",
            key,
            parent,
            "prepared remote snapshot"
        ),
        Ok(Outcome::NotLazy(error)) => tracing::warn!(
            "remote-snapshot-prepared" = "false",
            key,
            parent,
            %error,
            "failed to prepare remote snapshot"
        ),
        Err(error) => tracing::warn!(
            "remote-snapshot-prepared" = "false",
            key,
            parent,
            %error,
            "failed to internally commit remote snapshot"
        ),
    }
}

fn ready(target: &str) -> Error {
    let rule = "the target exists as a remote snapshot: there is nothing to unpack";
    Error::new(ErrorKind::AlreadyExists, "snapshots::prepare", rule).with_context("target", target)
}

fn optional<T>(found: Result<T>) -> Result<Option<T>> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
