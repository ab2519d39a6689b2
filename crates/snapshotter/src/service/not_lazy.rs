//! The layers that were asked for lazily and are not lazy, for the status report.
use std::collections::VecDeque;

use parking_lot::Mutex;

use crate::{
    admin::NotLazy,
    labels::{self, Labels, RemoteLayerRequest},
    lifecycle::Snapshot,
};

/// Reasons kept; beyond it, the oldest go. Their labels stay on the snapshots.
const KEPT: usize = 1000;
/// containerd refuses labels whose key and value are longer together, in bytes.
const MAX_LABEL: usize = 4096;

/// Reasons by snapshot id, the latest last.
#[derive(Debug, Default)]
pub(super) struct NotLazyList(Mutex<VecDeque<(u64, NotLazy)>>);

impl NotLazyList {
    /// Remembers a snapshot that carries the label; others do not matter.
    pub(super) fn record(&self, snapshot: &Snapshot) {
        let Some(reason) = snapshot.labels.get(labels::NOT_LAZY) else { return };
        let asked = RemoteLayerRequest::from_labels(&snapshot.parent, &snapshot.labels);
        let (reference, blob) = match asked {
            Some(Ok(request)) => (request.reference, request.layer_digest.to_string()),
            _ => Default::default(),
        };
        let not_lazy = NotLazy {
            key: snapshot.name.clone(),
            chain_id: snapshot.labels.get(labels::TARGET).cloned().unwrap_or_default(),
            reference,
            blob,
            reason: reason.clone(),
        };
        let mut list = self.0.lock();
        list.retain(|(id, _)| *id != snapshot.id);
        if list.len() == KEPT {
            list.pop_front();
        }
        list.push_back((snapshot.id, not_lazy));
    }

    /// Forgets a snapshot that is gone.
    pub(super) fn forget(&self, id: u64) {
        self.0.lock().retain(|(kept, _)| *kept != id);
    }

    /// The reasons, the latest last.
    pub(super) fn report(&self) -> Vec<NotLazy> {
        self.0.lock().iter().map(|(_, not_lazy)| not_lazy.clone()).collect()
    }
}

/// Puts a reason on a snapshot, cut to what a label holds.
pub(super) fn label(labels: &mut Labels, reason: &str) {
    let end = reason.floor_char_boundary(MAX_LABEL - labels::NOT_LAZY.len());
    labels.insert(labels::NOT_LAZY.to_owned(), reason[..end].to_owned());
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::lifecycle::{Kind, Usage};

    fn snapshot(id: u64, reason: &str) -> Snapshot {
        let mut labels = Labels::from([(labels::TARGET.to_owned(), "chain".to_owned())]);
        label(&mut labels, reason);
        let (name, parent, now) = (format!("key-{id}"), String::new(), SystemTime::UNIX_EPOCH);
        let (kind, usage) = (Kind::Active, Usage::default());
        Snapshot { id, name, parent, kind, created: now, updated: now, labels, usage }
    }

    #[test]
    fn the_latest_are_kept_and_follow_their_snapshot() {
        let list = NotLazyList::default();
        for id in 0..=KEPT as u64 {
            list.record(&snapshot(id, "no TOC"));
        }
        let report = list.report();
        assert_eq!((report.len(), report[0].key.as_str()), (KEPT, "key-1"));
        // Committed under another name.
        list.record(&Snapshot { name: "name".into(), ..snapshot(5, "no TOC") });
        assert_eq!(list.report().len(), KEPT);
        assert_eq!(list.report().last().map(|last| last.key.clone()), Some("name".to_owned()));
        list.forget(5);
        assert_eq!(list.report().len(), KEPT - 1);
    }

    #[test]
    fn a_reason_fits_a_label() {
        let mut labels = Labels::new();
        label(&mut labels, &"ü".repeat(5000));
        let value = &labels[labels::NOT_LAZY];
        assert!(value.len() + labels::NOT_LAZY.len() <= MAX_LABEL);
        assert!(value.len() + labels::NOT_LAZY.len() > MAX_LABEL - 2);
    }
}
