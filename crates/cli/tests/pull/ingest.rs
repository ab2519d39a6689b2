//! Another client of containerd that writes a blob and does not come to an end.
use std::path::Path;

use anyhow::{Context as _, Result};
use bolide_containerd_api::{
    NAMESPACE_HEADER,
    content::{WriteAction, WriteContentRequest, content_client::ContentClient},
};
use bolide_image::manifest::Descriptor;
use futures::{StreamExt as _, stream};
use tokio::runtime::Runtime;
use tonic::{Request, transport::Endpoint};

use crate::lab::NAMESPACE;

/// An upload that is under way until it is dropped.
pub(crate) struct Ingest(#[expect(dead_code, reason = "it holds the connection")] Runtime);

impl Ingest {
    /// Writes the beginning of a layer.
    pub(crate) fn start(socket: &Path, layer: &Descriptor, bytes: &[u8]) -> Result<Self> {
        let head = WriteContentRequest {
            r#ref: format!("layer-{}", layer.digest),
            total: i64::try_from(layer.size)?,
            expected: layer.digest.to_string(),
            ..WriteContentRequest::default()
        };
        let ask = WriteContentRequest { action: WriteAction::Stat.into(), ..head.clone() };
        let action = WriteAction::Write.into();
        let write = WriteContentRequest { action, data: bytes.to_vec(), ..head };
        let runtime = Runtime::new()?;
        let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display()))?;
        let (written, when_written) = tokio::sync::oneshot::channel();
        runtime.spawn(async move {
            let mut client = ContentClient::new(endpoint.connect().await?);
            let requests = stream::iter([ask, write]).chain(stream::pending());
            let mut request = Request::new(requests);
            request.metadata_mut().insert(NAMESPACE_HEADER, NAMESPACE.parse()?);
            let mut answers = client.write(request).await?.into_inner();
            for _ in 0..2 {
                answers.message().await?.context("an answer")?;
            }
            // The test has gone if nobody listens.
            let _ = written.send(());
            std::future::pending::<Result<()>>().await
        });
        runtime.block_on(when_written).context("the upload ended")?;
        Ok(Self(runtime))
    }
}
