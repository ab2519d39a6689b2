//! The layers of an image on directories: mounted lazily where they can be.
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, Result};
use bolide_core::ErrorKind;
use bolide_fs::AccessObserver;
use bolide_snapshotter::{
    Config, LayerReport,
    assembly::{Node, Surroundings},
};
use futures::{StreamExt as _, TryStreamExt as _};

use super::{full, source::SourceImage};
use crate::{sandbox::Stack, surroundings};

/// Layers that are opened or fetched at one time.
const AT_ONCE: usize = 4;

/// A node that shows the layers of an image.
#[derive(Debug)]
pub(crate) struct LazyStack {
    node: Node,
    stack: Stack,
    scratch: PathBuf,
}

impl LazyStack {
    /// Makes ready to show layers in directories below `dir`, which exists. `config` tells the
    /// node's root. An observer is told what is used of lazy layers, by their numbers.
    pub(crate) async fn prepare(
        config: &Config,
        dir: &Path,
        observer: Option<Arc<dyn AccessObserver>>,
    ) -> Result<Self> {
        let surroundings = Surroundings {
            docker_config: surroundings::docker_config(),
            proxy: surroundings::proxy()?,
            layouts: true,
            observer,
        };
        let node = Node::assemble(config, &surroundings).await?;
        let (stack, scratch) = prepare(dir)?;
        Ok(Self { node, stack, scratch })
    }

    /// Name of the mounter that shows layers here.
    pub(crate) fn mounter(&self) -> &'static str {
        self.node.mounter()
    }

    /// Shows every layer; what cannot be lazy is fetched whole. On failure some may stay mounted
    /// until [`shutdown`](Self::shutdown).
    pub(crate) async fn mount(&mut self, image: &SourceImage) -> Result<()> {
        make_dirs(&mut self.stack, image)?;
        let this = &*self;
        futures::stream::iter(0..image.layers().len())
            .map(|number| this.show(image, number))
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await
    }

    async fn show(&self, image: &SourceImage, number: usize) -> Result<()> {
        let target = self.stack.dir.join(&self.stack.layers[number]);
        let layer = &image.layers()[number];
        if let Some(request) = image.request(number) {
            match self.node.layers().mount(&number.to_string(), &request, &target).await {
                Ok(_) => return Ok(()),
                Err(error) if is_not_lazy(&error) => {
                    tracing::warn!(layer = %layer.digest, %error, "not lazy: it is fetched whole");
                }
                Err(error) => return Err(error.into()),
            }
        } else {
            let rule = "nothing vouches for a TOC of this layer: it is fetched whole";
            tracing::warn!(layer = %layer.digest, "{rule}");
        }
        full::unpack(image.image(), layer, &target, &self.scratch).await
    }

    /// The directories of the layers.
    pub(crate) fn stack(&self) -> &Stack {
        &self.stack
    }

    /// What is known of the lazy layers.
    pub(crate) fn reports(&self) -> Vec<LayerReport> {
        self.node.layers().status()
    }

    /// What went to the network for lazy layers: requests and bytes.
    pub(crate) fn traffic(&self) -> (u64, u64) {
        (self.node.meter().requests(), self.node.meter().bytes())
    }

    /// Unmounts the layers, nothing of which may be in use.
    pub(crate) async fn shutdown(self) {
        self.node.shutdown().await;
    }
}

/// Whether a layer has no TOC, or one that is not found: as a whole it may be sound. What is there
/// and wrong is not passed over.
fn is_not_lazy(error: &bolide_core::Error) -> bool {
    matches!(error.kind(), ErrorKind::Unsupported | ErrorKind::NotFound)
}

/// Fetches and unpacks every layer into directories below `dir`, which exists.
pub(crate) async fn unpack_all(image: &SourceImage, dir: &Path) -> Result<Stack> {
    let (mut stack, scratch) = prepare(dir)?;
    make_dirs(&mut stack, image)?;
    let (dirs, scratch) = (&stack, &scratch);
    futures::stream::iter(image.layers().iter().zip(&stack.layers))
        .map(|(layer, name)| async move {
            full::unpack(image.image(), layer, &dirs.dir.join(name), scratch).await
        })
        .buffer_unordered(AT_ONCE)
        .try_collect::<()>()
        .await?;
    Ok(stack)
}

fn prepare(dir: &Path) -> Result<(Stack, PathBuf)> {
    let scratch = dir.join("blobs");
    std::fs::create_dir(&scratch).context("cannot make a directory")?;
    let dir = dir.canonicalize().context("cannot find the directory of layers")?;
    Ok((Stack { dir, layers: Vec::new() }, scratch))
}

fn make_dirs(stack: &mut Stack, image: &SourceImage) -> Result<()> {
    for number in 0..image.layers().len() {
        let name = number.to_string();
        std::fs::create_dir(stack.dir.join(&name)).context("cannot make a directory")?;
        stack.layers.push(name);
    }
    Ok(())
}
