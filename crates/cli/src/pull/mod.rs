//! `bolide pull`: an image into containerd, lazily where its snapshotter can.
//!
//! A client of containerd's interface, as `ctr` and nerdctl are. Whatever happens, the lease goes,
//! and without an image record garbage collection takes everything that was begun.
mod containerd;
mod content;
mod fetch;
mod image;
mod labels;
mod report;
mod session;
mod unpack;

use std::{path::PathBuf, time::Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use bolide_containerd_api::{
    Connection,
    images::{self, CreateImageRequest, UpdateImageRequest},
    optional,
};
use bolide_fetch::ImageReference;
use bolide_image::{Platform, manifest::Descriptor};
use tokio::signal::unix::{SignalKind, signal};
use tonic::Code;

use self::{
    containerd::{Explain as _, check_snapshotter, refusal},
    content::Store,
    fetch::Fetcher,
    image::Documents,
    report::Report,
    session::Session,
    unpack::{Unpacker, Wanted, descriptor},
};
use crate::{output, registry, size};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Image to pull, for example docker.io/library/python:3
    #[arg(value_name = "REF")]
    reference: ImageReference,
    /// Socket of containerd
    #[arg(
        long,
        value_name = "SOCKET",
        env = "CONTAINERD_ADDRESS",
        default_value = "/run/containerd/containerd.sock"
    )]
    address: PathBuf,
    /// Namespace of containerd; Kubernetes uses k8s.io
    #[arg(long, value_name = "NAME", env = "CONTAINERD_NAMESPACE", default_value = "default")]
    namespace: String,
    /// Snapshotter that shows the layers
    #[arg(long, value_name = "NAME", default_value = "bolide")]
    snapshotter: String,
    /// Which image of a multi-platform one, for example linux/arm64 [default: this machine's]
    #[arg(long)]
    platform: Option<Platform>,
    /// Registry to speak to without TLS, with its port; may be repeated
    #[arg(long, value_name = "HOST")]
    plain_http: Vec<String>,
    /// Bytes to prefetch of each layer that does not say itself
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    prefetch: Option<u64>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// Pulls and tells, until interrupted.
pub(crate) async fn run(args: Args) -> Result<()> {
    let report = pull_until(&args, interruption()?).await?;
    if args.json { output::json(&report) } else { report.print() }
}

/// Pulls an image from its registry for this machine, with nobody watching.
pub(crate) async fn quietly(
    address: PathBuf,
    namespace: &str,
    snapshotter: &str,
    reference: ImageReference,
) -> Result<()> {
    let args = Args {
        reference,
        address,
        namespace: namespace.to_owned(),
        snapshotter: snapshotter.to_owned(),
        platform: None,
        plain_http: Vec::new(),
        prefetch: None,
        json: true,
    };
    pull_until(&args, std::future::pending()).await.map(drop)
}

/// Pulls, and gives back what containerd lent, also when interrupted.
async fn pull_until(
    args: &Args,
    interruption: impl Future<Output = anyhow::Error>,
) -> Result<Report> {
    let begin = Instant::now();
    let mut interrupted = std::pin::pin!(interruption);
    let containerd = tokio::select! {
        connected = connect(args) => connected?,
        error = &mut interrupted => return Err(error),
    };
    let mut session = Session::open(&containerd).await?;
    let pulled = tokio::select! {
        pulled = pull(args, &mut session, begin) => pulled,
        error = &mut interrupted => Err(error),
    };
    let closed = session.close(pulled.is_err()).await;
    match (pulled, closed) {
        (Ok(report), closed) => {
            // The image is there; the lease ends by itself.
            closed.unwrap_or_else(|error| output::complain(&error));
            Ok(report)
        }
        (Err(error), Ok(())) => Err(error),
        (Err(error), Err(closing)) => bail!("{error:#}; and then: {closing:#}"),
    }
}

/// Waits for a signal that ends this command.
fn interruption() -> Result<impl Future<Output = anyhow::Error>> {
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => anyhow!("interrupted"),
            _ = terminate.recv() => anyhow!("terminated"),
        }
    })
}

async fn connect(args: &Args) -> Result<Connection> {
    let containerd = containerd::connect(&args.address, &args.namespace).await?;
    check_snapshotter(&containerd, &args.snapshotter).await?;
    Ok(containerd)
}

async fn pull(args: &Args, session: &mut Session, begin: Instant) -> Result<Report> {
    let reference = &args.reference;
    let repository = registry::client(&args.plain_http)?.repository(reference);
    let registry = fetch::patient(&repository);
    let containerd = session.containerd.clone();
    let store = Store { containerd: containerd.clone(), origin: reference.clone() };
    let platform = args.platform.clone().unwrap_or_else(Platform::host);
    let documents =
        Documents { store: &store, repository: &repository, registry: registry.as_ref() };
    let image = documents.resolve(&reference.target(), &platform).await;
    let image = image.with_context(|| format!("cannot pull {reference}"))?;
    let snapshotter = args.snapshotter.as_str();
    let layers = &image.layers;
    let unpacker = Unpacker {
        wanted: Wanted { snapshotter, reference, prefetch: args.prefetch, layers },
        session,
        store: &store,
        fetcher: Fetcher::new(store.clone(), registry),
        bars: report::bars(layers.iter().map(|layer| &layer.blob)),
    };
    let reports = unpacker.run().await?;
    if let Some(top) = layers.last() {
        let kept = labels::of_config(snapshotter, top.chain_id);
        store.label(&image.config, kept).await?;
    }
    record(&containerd, reference, &image.target).await?;
    Ok(Report {
        image: reference.to_string(),
        digest: image.target.digest,
        layers: reports,
        seconds: begin.elapsed().as_secs_f64(),
    })
}

/// Gives the image its name. Labels that others gave the name stay.
async fn record(
    containerd: &Connection,
    reference: &ImageReference,
    target: &Descriptor,
) -> Result<()> {
    let image = images::Image {
        name: reference.to_string(),
        target: Some(descriptor(target)?),
        ..images::Image::default()
    };
    let image = Some(image);
    let create = CreateImageRequest { image: image.clone(), ..CreateImageRequest::default() };
    let created = optional(containerd.images().create(create).await, Code::AlreadyExists);
    if created.map_err(|status| refusal("create the image", &status))?.is_some() {
        return Ok(());
    }
    let update_mask = Some(prost_types::FieldMask { paths: vec!["target".to_owned()] });
    let update = UpdateImageRequest { image, update_mask, ..UpdateImageRequest::default() };
    containerd.images().update(update).await.explain("update the image").map(drop)
}
