//! From a request to an index and a source: without the network when the disk knows the layer.
use std::sync::Arc;

use bolide_core::{
    Artifact, BlobOpener, BlobRef, BlobSource, Digest, Error, ErrorKind, LayerStore, OpenedBlob,
    Result,
};
use bolide_estargz::{
    BlobFacts, EstargzIndex, FoundToc, OpenedLayer, RawToc, TAIL_HINT, TocTrust, find_toc,
    read_external_toc,
};
use bolide_fetch::LazySource;
use bolide_fs::WorkerPool;
use bytes::Bytes;
use tracing::Instrument as _;

use super::{ahead::Ahead, manifests::Manifests, node::Network};
use crate::labels::RemoteLayerRequest;

/// A layer whose tree is known and verified.
#[derive(Debug)]
pub(super) struct ReadyLayer {
    pub(super) index: Arc<EstargzIndex>,
    /// On what ground the tree is believed.
    pub(super) trust: TocTrust,
    pub(super) source: Arc<dyn BlobSource>,
    /// Bytes of the blob's end that were read already.
    pub(super) tail: Bytes,
    /// What the next mount needs, when the disk does not have it yet.
    pub(super) learned: Option<Learned>,
}

/// What was learned of a layer over the network.
#[derive(Debug)]
pub(super) struct Learned {
    /// The TOC, in the form its digest is of.
    toc: Bytes,
    facts: BlobFacts,
}

impl Learned {
    /// Keeps it for the next mount. A failure costs that mount a round trip, nothing else.
    pub(super) async fn keep(self, store: &dyn LayerStore, toc: Digest) {
        let keep = async {
            let facts = serde_json::to_vec(&self.facts).map_err(|error| {
                Error::new(ErrorKind::Unexpected, "layers::keep", error.to_string())
            })?;
            // The facts last: whoever finds them finds the TOC.
            store.put_artifact(toc, Artifact::Toc, self.toc).await?;
            store.put_artifact(toc, Artifact::Blob, facts.into()).await
        };
        if let Err(error) = keep.await {
            tracing::warn!(%toc, %error, "a layer's index is not kept; mounting it again will need the registry");
        }
    }
}

/// Opens layers.
#[derive(Debug)]
pub(super) struct Openings {
    pub(super) store: Arc<dyn LayerStore>,
    pub(super) workers: WorkerPool,
    pub(super) ahead: Ahead,
    pub(super) manifests: Manifests,
    /// Whether a layer without a TOC digest may be mounted unverified.
    pub(super) allow_no_verification: bool,
}

impl Openings {
    /// Finds or fetches the index of a layer.
    ///
    /// `FailedPrecondition` when nothing vouches for its TOC, `Unavailable` when the disk does not
    /// know it and the network is forbidden, and whatever opening and reading the blob and its TOC
    /// fail with.
    pub(super) async fn open(
        &self,
        request: &RemoteLayerRequest,
        opener: Arc<dyn BlobOpener>,
        network: Network,
    ) -> Result<ReadyLayer> {
        let trust = self.trust(request, network).await?;
        if let Some(ready) = self.held(request.layer_digest, trust, &opener).await {
            return Ok(ready);
        }
        if network == Network::Forbidden {
            return Err(unknown(request.layer_digest));
        }
        self.fetch(request, trust, &opener).await
    }

    /// On what ground the layer's TOC is believed: what the client says, else the image's manifest.
    async fn trust(&self, request: &RemoteLayerRequest, network: Network) -> Result<TocTrust> {
        if let Some(trust) = request.trust {
            return Ok(trust);
        }
        if let Some(manifest) = request.image_manifest {
            if network == Network::Forbidden {
                return Err(unknown(request.layer_digest));
            }
            let said = self.manifests.trust(&request.reference, manifest, request.layer_digest);
            if let Some(trust) = said.await? {
                return Ok(trust);
            }
        }
        if self.allow_no_verification {
            return Ok(TocTrust::Unverified);
        }
        Err(Error::new(
            ErrorKind::FailedPrecondition,
            "layers::open",
            "the manifest annotates this layer with no TOC digest, so it cannot be mounted \
             lazily: convert the image with bolide convert",
        )
        .with_context("layer", request.layer_digest))
    }

    /// The layer as an earlier mount left it. Damage to that is only a reason to fetch it again.
    async fn held(
        &self,
        blob: Digest,
        trust: TocTrust,
        opener: &Arc<dyn BlobOpener>,
    ) -> Option<ReadyLayer> {
        let toc = trust.digest()?;
        let read = self.read_artifacts(blob, toc, trust).await;
        let found = read.inspect_err(|error| {
            tracing::warn!(%toc, %error, "a layer's index on disk cannot be used; it is fetched again");
        });
        let (index, facts) = found.ok().flatten()?;
        let source = LazySource::new(Arc::clone(opener), blob, facts.blob_size);
        let source = Arc::new(source);
        Some(ReadyLayer { index, trust, source, tail: Bytes::new(), learned: None })
    }

    async fn read_artifacts(
        &self,
        blob: Digest,
        toc: Digest,
        trust: TocTrust,
    ) -> Result<Option<(Arc<EstargzIndex>, BlobFacts)>> {
        let Some(facts) = self.store.artifact(toc, Artifact::Blob).await? else { return Ok(None) };
        let Some(document) = self.store.artifact(toc, Artifact::Toc).await? else {
            return Ok(None);
        };
        let facts: BlobFacts = serde_json::from_slice(&facts)
            .map_err(|error| Error::new(ErrorKind::Corrupt, "layers::held", error.to_string()))?;
        if facts.blob != blob {
            // Two blobs can hold one TOC: compressed otherwise, their members lie elsewhere.
            return Ok(None);
        }
        let index = self
            .workers
            .run(move || EstargzIndex::from_toc(&document, trust, &facts).map(Arc::new));
        Ok(Some((index.await?, facts)))
    }

    async fn fetch(
        &self,
        request: &RemoteLayerRequest,
        trust: TocTrust,
        opener: &Arc<dyn BlobOpener>,
    ) -> Result<ReadyLayer> {
        // Begun before this layer is opened, so that all of them share one round trip.
        self.ahead.begin(&request.reference, opener, &request.image_layers);
        let blob = self.open_blob(request, opener).await?;
        let span = tracing::info_span!("toc", layer = %request.layer_digest);
        let raw = self.raw_toc(request, &blob, opener).instrument(span).await?;
        let OpenedLayer { index, kept, facts, .. } =
            self.workers.run(move || raw.index(trust)).await?;
        let learned = Some(Learned { toc: kept, facts });
        Ok(ReadyLayer { index, trust, source: blob.source, tail: blob.tail, learned })
    }

    /// The TOC, from the blob or from the image that its TOC lies in.
    async fn raw_toc(
        &self,
        request: &RemoteLayerRequest,
        blob: &OpenedBlob,
        opener: &Arc<dyn BlobOpener>,
    ) -> Result<RawToc> {
        let facts = match find_toc(blob).await? {
            FoundToc::Here(raw) => return Ok(raw),
            FoundToc::Elsewhere(facts) => facts,
        };
        let holder = self.manifests.toc_of(&request.reference, request.layer_digest).await?;
        // All that is in it is wanted; the tail comes with the request that opens it.
        let holder = opener.open(holder, holder.size.unwrap_or(0).min(TAIL_HINT)).await?;
        read_external_toc(facts, &holder).await
    }

    async fn open_blob(
        &self,
        request: &RemoteLayerRequest,
        opener: &Arc<dyn BlobOpener>,
    ) -> Result<OpenedBlob> {
        let blob = request.layer_digest;
        let span = tracing::info_span!("open", layer = %blob);
        async {
            if let Some(Ok(held)) = self.ahead.take(&request.reference, blob).await {
                return Ok(held);
            }
            // What failed ahead may succeed now, and then its failure is this request's own.
            opener.open(BlobRef { digest: blob, size: None }, TAIL_HINT).await
        }
        .instrument(span)
        .await
    }
}

/// The error of a layer that only the network knows.
fn unknown(layer: Digest) -> Error {
    Error::new(
        ErrorKind::Unavailable,
        "layers::open",
        "the layer's index is not on disk; it is fetched when a container needs the layer",
    )
    .with_context("layer", layer)
}
