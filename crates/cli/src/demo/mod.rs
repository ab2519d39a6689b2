//! `bolide demo`: the whole thing on this machine, without set-up and without the internet.
//!
//! It makes an image of installed software, serves it from a registry of its own behind a slow
//! link, and runs the image's program twice: after a full pull, and at once with its layers mounted
//! lazily. It does so by itself, or through a containerd that it starts.
mod contained;
mod engine;
mod image;
mod layer;
mod origin;
mod programs;
mod report;
mod shape;
mod software;
mod tree;
mod way;

use std::{
    io::{self, Write as _},
    num::NonZeroU64,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use bolide_image::{Layout, LinkShape, Location, serve_layout};
use bolide_snapshotter::user_namespace;
use indicatif::HumanBytes;
use tokio::net::TcpListener;

use crate::{
    interrupt::until_interrupted,
    mount, output, registry,
    sandbox::{self, Finished},
};
use engine::Engine;
use origin::Origin;
use report::Report;
use way::{LazyWay, Way};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Image to run: of a registry, or oci:DIR or oci:DIR:TAG; without one, an image is made of this
    /// machine's software
    image: Option<Location>,
    /// What to run in place of the image's program
    #[arg(last = true)]
    command: Vec<String>,
    /// Go both ways through a containerd of its own: as root, with containerd and runc installed
    #[arg(long)]
    containerd: bool,
    /// Bandwidth of the link to the registry, where that does not speak TLS
    #[arg(long, default_value = "100Mbit", value_parser = shape::bandwidth)]
    bandwidth: NonZeroU64,
    /// Round-trip time of that link
    #[arg(long, value_name = "TIME", default_value = "20ms", value_parser = shape::rtt)]
    rtt: Duration,
    /// Registry to speak to without TLS, through the link and without credentials; this machine is
    /// one anyway
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

impl Args {
    /// Enters the namespaces that this command is to work in; to be called first of all.
    pub(crate) fn enter_namespaces(&self) -> Result<()> {
        if self.containerd {
            let root = sandbox::is_privileged() && !user_namespace::inside();
            ensure!(root, "--containerd needs root; the demonstration alone does not");
            programs::check()?;
        }
        sandbox::enter()
    }

    fn shape(&self) -> LinkShape {
        LinkShape { bits_per_second: self.bandwidth, rtt: self.rtt }
    }
}

/// To be called in a mount namespace of its own, and awaited on the main thread.
pub(crate) async fn run(args: Args) -> Result<()> {
    let dir = tempfile::Builder::new().prefix("bolide-demo-").tempdir();
    let dir = dir.context("cannot make a temporary directory")?;
    let done = run_in(&args, dir.path()).await;
    // Layers may be mounted still where it did not come to its end.
    mount::detach_below(dir.path())?;
    let removed = dir.close().context("cannot remove the temporary directory");
    done.and(removed)
}

async fn run_in(args: &Args, dir: &Path) -> Result<()> {
    // It is there until everything ended: a program may be reading.
    let subject = until_interrupted(subject(args, dir)).await?;
    let mut engine = Engine::default();
    let done = until_interrupted(Box::pin(demonstrate(args, dir, &subject, &mut engine))).await;
    let stopped = engine.stop().await;
    done.and(stopped)
}

async fn demonstrate(
    args: &Args,
    dir: &Path,
    subject: &Subject,
    engine: &mut Engine,
) -> Result<()> {
    let names = &subject.names;
    let mut ways = Ways { args, dir, origin: &subject.origin, engine };
    let (full, full_end) = ways.full(&names.full).await?;
    let (mut lazy, lazy_end, mounter) = ways.lazy("lazy", &names.lazy).await?;
    let mut optimized_end = None;
    if let Some(name) = &names.optimized {
        let (optimized, end, _) = ways.lazy("hinted", name).await?;
        lazy.optimized = Some(Box::new(optimized));
        optimized_end = Some(end);
    }
    let link = subject.origin.link().as_ref().map(LinkShape::to_string);
    let report = Report { image: subject.image.clone(), mounter, link, full, lazy };
    if args.json {
        output::json(&report)?;
    } else {
        report.print(args.containerd)?;
    }
    for end in [Some(&lazy_end), optimized_end.as_ref()].into_iter().flatten() {
        report::check(&full_end, end)?;
    }
    if args.json { Ok(()) } else { report::conclude(&lazy_end) }
}

/// Goes the ways, each in a directory of its own.
struct Ways<'a> {
    args: &'a Args,
    dir: &'a Path,
    origin: &'a Origin,
    engine: &'a mut Engine,
}

impl Ways<'_> {
    async fn full(&mut self, name: &str) -> Result<(Way, Finished)> {
        say(self.args, "pulling everything, then running");
        let (dir, command) = (self.place("full")?, &self.args.command);
        if self.args.containerd {
            contained::full(self.engine, (self.origin, name), &dir, command).await
        } else {
            way::full(self.origin, name, &dir, command).await
        }
    }

    async fn lazy(&mut self, place: &str, name: &str) -> Result<(LazyWay, Finished, String)> {
        let hints = if place == "hinted" { " with hints" } else { "" };
        say(self.args, &format!("mounting lazily{hints}, and running"));
        let (dir, command) = (self.place(place)?, &self.args.command);
        if self.args.containerd {
            contained::lazy(self.engine, (self.origin, name), &dir, command).await
        } else {
            way::lazy(self.origin, name, &dir, command).await
        }
    }

    fn place(&self, name: &str) -> Result<PathBuf> {
        let place = self.dir.join(name);
        std::fs::create_dir(&place).map(|()| place).context("cannot make a directory")
    }
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
            let image = reference.to_string();
            let origin = Origin::of(reference.clone(), &args.plain_http, args.shape()).await?;
            return Ok(Subject { image, origin, names: Names::default() });
        }
        Some(_) => {
            bail!("the demo shows images of registries and OCI layouts; convert it to oci:DIR")
        }
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.context("cannot listen on loopback")?;
    let server = serve_layout(layout, listener)?;
    Ok(Subject { image, origin: Origin::Served { server, shape: args.shape() }, names })
}

/// An image of what is installed here.
async fn installed(args: &Args, dir: &Path) -> Result<(String, Layout, Names)> {
    say(args, "making an image of the software installed here");
    let made = image::build(dir.join("image"), image::MIN_SIZE).await?;
    let description = format!(
        "{} and other software of this machine, {} in 3 layers; its program reads {} files",
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
