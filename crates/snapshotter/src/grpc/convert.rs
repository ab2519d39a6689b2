//! The values of the service as messages of the protocol.
use std::collections::HashMap;

use bolide_containerd_api::{snapshots as api, types};

use crate::{
    labels::Labels,
    lifecycle::{Kind, Snapshot, Usage},
    mounts::MountSpec,
};

pub(super) fn labels(labels: HashMap<String, String>) -> Labels {
    labels.into_iter().collect()
}

pub(super) fn mounts(specs: Vec<MountSpec>) -> Vec<types::Mount> {
    let mount = |MountSpec { kind, source, options }| types::Mount {
        r#type: kind.to_owned(),
        source,
        target: String::new(),
        options,
    };
    specs.into_iter().map(mount).collect()
}

pub(super) fn info(snapshot: Snapshot) -> api::Info {
    let kind = match snapshot.kind {
        Kind::View => api::Kind::View,
        Kind::Active => api::Kind::Active,
        Kind::Committed => api::Kind::Committed,
    };
    api::Info {
        name: snapshot.name,
        parent: snapshot.parent,
        kind: kind.into(),
        created_at: Some(snapshot.created.into()),
        updated_at: Some(snapshot.updated.into()),
        labels: snapshot.labels.into_iter().collect(),
    }
}

pub(super) fn usage(usage: Usage) -> api::UsageResponse {
    let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    api::UsageResponse { size: signed(usage.size), inodes: signed(usage.inodes) }
}
