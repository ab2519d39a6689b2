//! `bolide demo`: the whole thing on this machine, without set-up and without the internet.
//!
//! It makes an image of installed software, serves it from a registry of its own behind a slow
//! link, and runs the image's program twice: after a full pull, and at once with its layers mounted
//! lazily.
mod image;
mod layer;
mod report;
mod shape;
mod software;
mod tree;
mod way;

use std::{
    io::{self, Write as _},
    num::NonZeroU64,
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use bolide_image::{Layout, LinkShape, Location, serve_layout};
use indicatif::HumanBytes;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};

use crate::{mount, output, registry};
use report::Report;
use way::Origin;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Image to run, of a registry or oci:DIR[:TAG] [default: one made of this machine's software]
    image: Option<Location>,
    /// What to run in place of the image's program
    #[arg(last = true)]
    command: Vec<String>,
    /// Bandwidth of the link to the demonstration's own registry
    #[arg(long, default_value = "100Mbit", value_parser = shape::bandwidth)]
    bandwidth: NonZeroU64,
    /// Round-trip time of that link
    #[arg(long, value_name = "TIME", default_value = "20ms", value_parser = shape::rtt)]
    rtt: Duration,
    /// Registry to speak to without TLS; this machine is one anyway
    #[arg(long, value_name = "HOST", value_parser = registry::plain_host)]
    plain_http: Vec<String>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// What to run, and where it comes from.
struct Subject {
    image: String,
    origin: Origin,
    names: Names,
}

/// What follows the repository in the names of the image's forms.
#[derive(Default)]
struct Names {
    full: String,
    lazy: String,
    optimized: Option<String>,
}

/// To be called in a mount namespace of its own, and awaited on the main thread.
pub(crate) async fn run(args: Args) -> Result<()> {
    let dir = tempfile::Builder::new().prefix("bolide-demo-").tempdir();
    let dir = dir.context("cannot make a temporary directory")?;
    let done = tokio::select! {
        done = demonstrate(&args, dir.path()) => done,
        interrupt = tokio::signal::ctrl_c() => {
            interrupt.context("cannot listen for SIGINT").and_then(|()| bail!("interrupted"))
        }
        terminated = terminated() => terminated,
    };
    // Layers may be mounted still where it did not come to its end.
    mount::detach_below(dir.path())?;
    let removed = dir.close().context("cannot remove the temporary directory");
    done.and(removed)
}

async fn terminated() -> Result<()> {
    signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?.recv().await;
    bail!("terminated")
}

async fn demonstrate(args: &Args, dir: &Path) -> Result<()> {
    let subject = subject(args, dir).await?;
    let Subject { image, origin, names } = subject;
    let place = |name: &str| {
        let place = dir.join(name);
        std::fs::create_dir(&place).map(|()| place).context("cannot make a directory")
    };
    say(args, "pulling everything, and running");
    let (full, full_end) = way::full(&origin, &names.full, &place("full")?, &args.command).await?;
    say(args, "mounting lazily, and running");
    let (mut lazy, lazy_end, mounter) =
        way::lazy(&origin, &names.lazy, &place("lazy")?, &args.command).await?;
    let mut optimized_end = None;
    if let Some(name) = &names.optimized {
        say(args, "mounting lazily with hints, and running");
        let place = place("optimized")?;
        let (optimized, end, _) = way::lazy(&origin, name, &place, &args.command).await?;
        lazy.optimized = Some(Box::new(optimized));
        optimized_end = Some(end);
    }
    let report = Report {
        image,
        mounter,
        link: origin.link().as_ref().map(LinkShape::to_string),
        full,
        lazy,
    };
    if args.json {
        output::json(&report)?;
    } else {
        report.print()?;
    }
    report::check(&full_end, &lazy_end)?;
    optimized_end.map_or(Ok(()), |end| report::check(&full_end, &end))?;
    if !args.json {
        let said = String::from_utf8_lossy(&lazy_end.stdout.start);
        output::line(&format!("It said the same each time:\n{}", said.trim_end()))?;
    }
    Ok(())
}

async fn subject(args: &Args, dir: &Path) -> Result<Subject> {
    let (image, layout, names) = match &args.image {
        None => installed(args, dir).await?,
        Some(Location::Layout { dir, tag }) => {
            let layout = Layout::open(dir)?;
            let name = format!("@{}", layout.resolve(tag.as_deref())?.digest);
            let image = Location::Layout { dir: dir.clone(), tag: tag.clone() }.to_string();
            (image, layout, Names { full: name.clone(), lazy: name, optimized: None })
        }
        Some(Location::Registry(reference)) => {
            let (reference, plain_http) = (reference.clone(), args.plain_http.clone());
            let image = reference.to_string();
            let origin = Origin::Registry { reference, plain_http };
            return Ok(Subject { image, origin, names: Names::default() });
        }
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.context("cannot listen on loopback")?;
    let server = serve_layout(layout, listener)?;
    let shape = LinkShape { bits_per_second: args.bandwidth, rtt: args.rtt };
    Ok(Subject { image, origin: Origin::Served { server, shape }, names })
}

/// An image of what is installed here.
async fn installed(args: &Args, dir: &Path) -> Result<(String, Layout, Names)> {
    say(args, "making an image of the software installed here");
    let made = image::build(dir.join("image"), image::MIN_SIZE).await?;
    let description = format!(
        "{} and other software of this machine, {} in 3 layers; reads {} files by name",
        made.interpreter,
        HumanBytes(made.size),
        made.reads
    );
    let name = |tag: &str| format!(":{tag}");
    let names = Names {
        full: name(image::PLAIN),
        lazy: name(image::LAZY),
        optimized: Some(name(image::OPTIMIZED)),
    };
    Ok((description, made.layout, names))
}

/// Tells what goes on, to people.
fn say(args: &Args, what: &str) {
    if !args.json {
        // Nobody is left to tell when standard error is closed.
        let _ = writeln!(io::stderr(), "bolide: {what}");
    }
}
