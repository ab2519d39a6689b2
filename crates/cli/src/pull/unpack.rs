//! From layers to snapshots, as containerd's own unpacker does it: what the snapshotter can show
//! without content is left where it is, the rest is fetched and applied.
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use bolide_containerd_api::{
    diff::ApplyRequest,
    optional,
    snapshots::{CommitSnapshotRequest, Info, PrepareSnapshotRequest, StatSnapshotRequest},
    types,
};
use bolide_fetch::ImageReference;
use bolide_snapshotter::labels::{NOT_LAZY, REMOTE};
use indicatif::ProgressBar;
use tonic::Code;

use super::{
    containerd::{Explain as _, refusal},
    content::Store,
    fetch::Fetcher,
    image::Layer,
    labels::{self, Labels},
    report::LayerReport,
    session::Session,
};

/// How often a snapshot is asked for that seems to be there and is not found.
const TRIES: u32 = 3;

/// What the snapshots are made for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    pub(super) snapshotter: &'a str,
    pub(super) reference: &'a ImageReference,
    /// Bytes to prefetch of a layer that does not say.
    pub(super) prefetch: Option<u64>,
    pub(super) layers: &'a [Layer],
}

/// Makes the snapshots of one image.
#[derive(Debug)]
pub(super) struct Unpacker<'a> {
    pub(super) wanted: Wanted<'a>,
    pub(super) session: &'a mut Session,
    pub(super) store: &'a Store,
    pub(super) fetcher: Fetcher,
    /// One for each layer.
    pub(super) bars: Vec<ProgressBar>,
}

/// What a snapshotter answers.
enum Prepared {
    /// The snapshot is there, without us.
    Shown(Info),
    /// An active snapshot of this key wants the layer's content.
    Active { key: String, mounts: Vec<types::Mount> },
}

impl Unpacker<'_> {
    /// Makes a snapshot of each layer, lowest first.
    pub(super) async fn run(mut self) -> Result<Vec<LayerReport>> {
        let mut reports = Vec::with_capacity(self.wanted.layers.len());
        for (at, layer) in self.wanted.layers.iter().enumerate() {
            let begin = Instant::now();
            let digest = layer.blob.digest;
            let kept = self.layer(at, layer).await.with_context(|| format!("layer {digest}"))?;
            let lazy = kept.contains_key(REMOTE);
            if let Some(bar) = self.bars.get(at) {
                bar.finish_with_message(if lazy { "lazy" } else { "unpacked" });
            }
            reports.push(LayerReport {
                digest,
                chain_id: layer.chain_id,
                lazy,
                reason: kept.get(NOT_LAZY).filter(|_| !lazy).cloned(),
                size: layer.blob.size,
                seconds: begin.elapsed().as_secs_f64(),
            });
        }
        Ok(reports)
    }

    /// Makes one snapshot; returns its labels.
    async fn layer(&mut self, at: usize, layer: &Layer) -> Result<Labels> {
        let name = layer.chain_id.to_string();
        self.session.hold(self.wanted.snapshotter, &name).await?;
        let prepared = match self.stat(&name).await? {
            Some(info) => Prepared::Shown(info),
            None => self.prepare(at, layer).await?,
        };
        match prepared {
            Prepared::Shown(info) => {
                self.fetcher.cancel(&layer.blob);
                Ok(info.labels)
            }
            Prepared::Active { key, mounts } => {
                self.fetch_from(at);
                let mut kept = self.labels(at, layer);
                // Said of the active snapshot, it is kept for those who look later.
                let active = self.stat(&key).await?.map(|info| info.labels).unwrap_or_default();
                kept.extend(active.get_key_value(NOT_LAZY).map(|(k, v)| (k.clone(), v.clone())));
                self.fill(at, layer, mounts).await?;
                self.commit(layer, key, kept.clone()).await?;
                Ok(kept)
            }
        }
    }

    fn parent(&self, at: usize) -> String {
        let below = at.checked_sub(1).and_then(|at| self.wanted.layers.get(at));
        below.map(|layer| layer.chain_id.to_string()).unwrap_or_default()
    }

    fn labels(&self, at: usize, layer: &Layer) -> Labels {
        let Wanted { reference, prefetch, layers, .. } = self.wanted;
        let upwards: Vec<_> = layers[at..].iter().map(|layer| &layer.blob).collect();
        labels::of_snapshot(reference, &upwards, layer.chain_id, prefetch)
    }

    async fn stat(&self, key: &str) -> Result<Option<Info>> {
        let (snapshotter, key) = (self.wanted.snapshotter.to_owned(), key.to_owned());
        let wanted = format!("look up the snapshot {key:?}");
        let request = StatSnapshotRequest { snapshotter, key };
        let answer = self.session.containerd.snapshots().stat(request).await;
        let answer = optional(answer, Code::NotFound);
        let answer = answer.map_err(|status| refusal(&wanted, &status))?;
        Ok(answer.and_then(|answer| answer.info))
    }

    async fn prepare(&mut self, at: usize, layer: &Layer) -> Result<Prepared> {
        let chain_id = layer.chain_id.to_string();
        for attempt in 1..=TRIES {
            let key = format!("extract-{}-{attempt} {chain_id}", self.session.lease);
            let snapshotter = self.wanted.snapshotter.to_owned();
            self.session.fills(&snapshotter, &key);
            let (parent, labels) = (self.parent(at), self.labels(at, layer));
            let request = PrepareSnapshotRequest { snapshotter, key: key.clone(), parent, labels };
            let answer = self.session.containerd.snapshots().prepare(request).await;
            let answer = optional(answer, Code::AlreadyExists);
            match answer.map_err(|status| refusal("prepare a snapshot", &status))? {
                Some(answer) => return Ok(Prepared::Active { key, mounts: answer.mounts }),
                None => self.session.finished(),
            }
            if let Some(info) = self.stat(&chain_id).await? {
                return Ok(Prepared::Shown(info));
            }
        }
        anyhow::bail!("the snapshotter says that {chain_id} exists, and does not find it")
    }

    /// Begins to fetch the content of a layer, and of others before their turn.
    fn fetch_from(&mut self, at: usize) {
        for at in worth_fetching(self.wanted.layers, at) {
            if let (Some(layer), Some(bar)) = (self.wanted.layers.get(at), self.bars.get(at)) {
                self.fetcher.begin(&layer.blob, bar);
            }
        }
    }

    /// Brings a layer's content into an active snapshot.
    async fn fill(&mut self, at: usize, layer: &Layer, mounts: Vec<types::Mount>) -> Result<()> {
        let bar = self.bars.get(at).cloned().unwrap_or_else(ProgressBar::hidden);
        self.fetcher.need(&layer.blob, &bar).await?;
        bar.set_message("unpacking");
        let request = ApplyRequest {
            diff: Some(descriptor(&layer.blob)?),
            mounts,
            ..ApplyRequest::default()
        };
        let answer = self.session.containerd.diff().apply(request).await;
        let applied = answer.explain("unpack the layer")?.applied.unwrap_or_default();
        ensure!(
            applied.digest == layer.diff_id.to_string(),
            "the layer unpacks to {}, but the image's configuration says {}; build the image again",
            applied.digest,
            layer.diff_id
        );
        Ok(())
    }

    async fn commit(&mut self, layer: &Layer, key: String, labels: Labels) -> Result<()> {
        let request = CommitSnapshotRequest {
            snapshotter: self.wanted.snapshotter.to_owned(),
            name: layer.chain_id.to_string(),
            key,
            labels,
            ..CommitSnapshotRequest::default()
        };
        let answer = self.session.containerd.snapshots().commit(request).await;
        let committed = optional(answer, Code::AlreadyExists);
        match committed.map_err(|status| refusal("commit a snapshot", &status))? {
            Some(()) => self.session.finished(),
            // Another client was faster.
            None => self.session.abandon().await?,
        }
        let diff_id = (labels::UNCOMPRESSED.to_owned(), layer.diff_id.to_string());
        self.store.label(&layer.blob, Labels::from([diff_id])).await
    }
}

/// A layer that is not lazy, and those above it that will hardly be: when one that names a TOC is
/// not lazy, none will be.
fn worth_fetching(layers: &[Layer], at: usize) -> impl Iterator<Item = usize> {
    let names_toc = |at: usize| layers.get(at).is_some_and(|layer| labels::names_toc(&layer.blob));
    let refused = names_toc(at);
    (at..layers.len()).filter(move |&above| above == at || refused || !names_toc(above))
}

/// A descriptor as containerd takes it.
pub(super) fn descriptor(name: &bolide_image::manifest::Descriptor) -> Result<types::Descriptor> {
    Ok(types::Descriptor {
        media_type: name.media_type.clone(),
        digest: name.digest.to_string(),
        size: i64::try_from(name.size).context("a blob is smaller than 8 EiB")?,
        annotations: name.annotations.clone().into_iter().collect(),
    })
}

#[cfg(test)]
mod tests {
    use bolide_core::Digest;
    use bolide_image::manifest::Descriptor;
    use bolide_snapshotter::labels::TOC_DIGEST;

    use super::*;

    #[test]
    fn layers_that_may_be_lazy_are_not_fetched_ahead() {
        let layer = |with_toc: bool| {
            let digest = Digest::of(b"layer");
            let mut blob = Descriptor::new("m", digest, 1);
            if with_toc {
                blob.annotations.insert(TOC_DIGEST.to_owned(), digest.to_string());
            }
            Layer { blob, diff_id: digest, chain_id: digest }
        };
        let layers = [false, true, false, true].map(layer);
        let chosen = |at| worth_fetching(&layers, at).collect::<Vec<_>>();
        assert_eq!(chosen(0), [0, 2]);
        assert_eq!(chosen(1), [1, 2, 3]);
        assert_eq!(chosen(3), [3]);
    }
}
