//! `bolide mount` and `bolide umount`: an image on a directory, without containerd.
mod background;
mod full;
mod mountinfo;
mod record;
mod recordable;
mod shown;
mod source;
mod stack;
mod umount;
mod watch;

use std::{path::PathBuf, process::ExitStatus};

use anyhow::{Context as _, Result, bail};
use bolide_image::Location;
use tokio::process::Command;

pub(crate) use mountinfo::detach_below;
pub(crate) use recordable::recordable;
pub(crate) use source::{RuntimeConfig, SourceImage};
pub(crate) use stack::{LazyStack, unpack_all};
pub(crate) use umount::{UmountArgs, run as umount};

use crate::{interrupt::Signals, output, registry, sandbox, usage::UsageFile};
use record::Record;
use shown::{Shown, Wish};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Image to show: of a registry, or oci:DIR or oci:DIR:TAG
    image: Location,
    /// Directory to show it on
    dir: PathBuf,
    /// Run a command that sees the image there, and nobody else; works without root
    #[arg(last = true, conflicts_with_all = ["background", "detached"])]
    command: Vec<String>,
    /// Let the image be written to; what is written is gone at the end
    #[arg(long)]
    writable: bool,
    /// Return when the image is shown, and go on showing it
    #[arg(long)]
    background: bool,
    /// Directory in which what was fetched stays for the next time; for one mount at a time
    #[arg(long, value_name = "DIR")]
    cache_dir: Option<PathBuf>,
    /// File to record in what is used of the image, in the order of first use, until the end
    #[arg(long, value_name = "FILE")]
    record_out: Option<PathBuf>,
    /// Registry to speak to without TLS; this machine is one anyway
    #[arg(long, value_name = "HOST", value_parser = registry::plain_host)]
    plain_http: Vec<String>,
    /// This is the process that --background started
    #[arg(long, hide = true)]
    detached: bool,
}

impl Args {
    /// Enters the namespaces that this command is to work in; to be called first of all.
    pub(crate) fn enter_namespaces(&self) -> Result<()> {
        if !self.command.is_empty() {
            return sandbox::enter();
        }
        if self.detached {
            background::detach()?;
        }
        if sandbox::is_privileged() {
            return Ok(());
        }
        bail!(
            "only root can show an image to everybody; without root, run a command that sees it: \
             bolide mount IMAGE DIR -- COMMAND"
        )
    }
}

/// Shows the image until it is to end; the result is an exit code.
pub(crate) async fn run(args: Args) -> Result<u8> {
    if args.command.is_empty() {
        make_way(&umount::real_name(&args.dir)?)?;
    }
    let target = shown::target(&args.dir)?;
    if args.background {
        let start = move || background::start(&target);
        return tokio::task::spawn_blocking(start).await?.map(|()| 0);
    }
    // Listened for before anything is mounted: from here on they end this in good order.
    let mut signals = Signals::listen()?;
    let recording = args.record_out.as_deref().map(UsageFile::create).transpose()?;
    let mut shown = Shown::new(&target)?;
    let done = tokio::select! {
        done = show(&args, &mut shown) => done,
        () = signals.next() => Err(anyhow::anyhow!("interrupted")),
    };
    let done = match done {
        Ok(mount) if args.command.is_empty() => stay(&shown, &args, mount, &mut signals).await,
        Ok(_) => attend(&args.command, &mut signals).await,
        Err(error) => Err(error),
    };
    let recorded = match recording {
        Some(file) if done.is_ok() => shown.used().and_then(|used| file.write(&used)),
        _ => Ok(()),
    };
    let closed = shown.close().await;
    done.and_then(|code| recorded.and(closed).map(|()| code))
}

/// Removes what a dead process left on the directory, and stops where a living one has it.
fn make_way(target: &std::path::Path) -> Result<()> {
    let Some(record) = Record::find(target)? else { return Ok(()) };
    if record.process().is_some() {
        bail!("{} shows an image already; end it with bolide umount", target.display());
    }
    umount::forget(&record)
}

async fn show(args: &Args, shown: &mut Shown) -> Result<u64> {
    let wish = Wish {
        image: &args.image,
        writable: args.writable,
        cache: args.cache_dir.clone(),
        record: args.record_out.is_some(),
        plain_http: &args.plain_http,
    };
    shown.show(&wish).await
}

/// Waits for a signal, or until someone unmounts the directory.
async fn stay(shown: &Shown, args: &Args, mount: u64, signals: &mut Signals) -> Result<u8> {
    let record = Record::of_this_process(shown.target(), mount, shown.work())?;
    record.write()?;
    output::line(&format!("{} is shown on {}", args.image, shown.target().display()))?;
    let ended = tokio::select! {
        gone = mountinfo::gone(mount) => gone,
        () = signals.next() => Ok(()),
    };
    ended.and(record.remove()).map(|()| 0)
}

/// Runs the command to its end.
async fn attend(command: &[String], signals: &mut Signals) -> Result<u8> {
    let [program, arguments @ ..] = command else { bail!("no command") };
    let mut child = Command::new(program)
        .args(arguments)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("cannot run {program:?}"))?;
    let status: ExitStatus = loop {
        tokio::select! {
            ended = child.wait() => break ended.context("cannot wait for the command")?,
            // An interrupt from the keyboard reaches the command as well, which decides what it
            // means. To be terminated is meant for this process alone.
            _ = signals.interrupts.recv() => {}
            _ = signals.terminates.recv() => {
                child.start_kill().context("cannot end the command")?;
            }
        }
    };
    Ok(sandbox::exit_code(status))
}
