//! Child processes that are waited for by event, in bounded time, and never outlive their owner.
use std::{
    fs::File,
    io::{Read as _, Seek as _},
    os::{fd::OwnedFd, unix::process::CommandExt as _},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};

/// How long a daemon may take to end by itself.
const GRACE: Duration = Duration::from_secs(20);
/// How often readiness is asked for while the process lives.
const PROBE: Duration = Duration::from_millis(2);

/// A running program. Dropping it ends it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    /// Names this very process, also after its number was given to another.
    pidfd: OwnedFd,
}

impl Process {
    /// Starts a daemon whose standard output and error are appended to files.
    pub fn spawn(name: &str, command: &mut Command, out: &Path, err: &Path) -> Result<Self> {
        let log = |path: &Path| {
            File::options()
                .create(true)
                .append(true)
                .open(path)
                .with_context(|| path.display().to_string())
        };
        command.stdin(Stdio::null()).stdout(log(out)?).stderr(log(err)?);
        Self::adopt(name, command)
    }

    fn adopt(name: &str, command: &mut Command) -> Result<Self> {
        if handles_interrupts()? {
            // The terminal would interrupt the whole group; this process ends its children itself.
            command.process_group(0);
        }
        let mut child = command.spawn().with_context(|| format!("{name} cannot start"))?;
        match pidfd_open(Pid::from_child(&child), PidfdFlags::empty()) {
            Ok(pidfd) => Ok(Self { name: name.to_owned(), child, pidfd }),
            Err(error) => {
                child.kill()?;
                child.wait()?;
                Err(error).context("pidfd_open")
            }
        }
    }

    /// Asks `ready` until it answers; fails when the process ends first or time is up.
    pub fn wait_until<T>(
        &mut self,
        what: &str,
        limit: Duration,
        mut ready: impl FnMut() -> Option<T>,
    ) -> Result<T> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(answer) = ready() {
                return Ok(answer);
            }
            if let Some(status) = self.wait(PROBE)? {
                bail!("{} ended with {status} before {what}", self.name);
            }
            ensure!(Instant::now() < deadline, "{}: {what} did not come in {limit:?}", self.name);
        }
    }

    /// Waits for the end, at most so long.
    pub fn wait(&mut self, limit: Duration) -> Result<Option<ExitStatus>> {
        let deadline = Instant::now() + limit;
        loop {
            let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
            let left = deadline.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left).context("time limit")?;
            match poll(&mut fds, Some(&left)) {
                Ok(0) => return Ok(None),
                Ok(_) => return Ok(Some(self.child.wait()?)),
                // A signal is not the end of time.
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error).context("poll of a process"),
            }
        }
    }

    /// Asks the process to end and waits; one that does not is killed, and that is an error.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        if let Some(status) = self.child.try_wait()? {
            return Ok(status);
        }
        self.signal(Signal::TERM)?;
        if let Some(status) = self.wait(GRACE)? {
            return Ok(status);
        }
        self.kill()?;
        bail!("{} ignored SIGTERM for {GRACE:?}", self.name)
    }

    /// Ends the process as a crash would.
    pub fn kill(&mut self) -> Result<()> {
        self.signal(Signal::KILL)?;
        self.child.wait()?;
        Ok(())
    }

    /// Number of the process, to look it up below `/proc`.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        match pidfd_send_signal(&self.pidfd, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error).with_context(|| format!("signal to {}", self.name)),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            eprintln!("e2e: {error:#}");
        }
    }
}

/// Whether SIGINT does something else than end this process.
fn handles_interrupts() -> Result<bool> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let caught = u64::from_str_radix(caught.context("SigCgt")?.trim(), 16)?;
    // Signals are numbered from 1.
    Ok(caught & (1 << (Signal::INT.as_raw() - 1)) != 0)
}

/// What a program that ran to its end left.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

/// Runs a program to its end, whatever its status; kills it when time is up.
pub fn run(command: &mut Command, limit: Duration) -> Result<Finished> {
    let shown = format!("{command:?}");
    // Files, not pipes: a grandchild that keeps a pipe open would keep the reader waiting.
    let (mut out, mut err) = (tempfile::tempfile()?, tempfile::tempfile()?);
    command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(err.try_clone()?);
    let mut process = Process::adopt(&shown, command)?;
    let status = process.wait(limit)?;
    if status.is_none() {
        process.kill()?;
    }
    let read = |file: &mut File| -> Result<String> {
        file.rewind()?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let (stdout, stderr) = (read(&mut out)?, read(&mut err)?);
    let status = status.with_context(|| {
        format!("{shown} did not end in {limit:?}\nstdout:\n{stdout}\nstderr:\n{stderr}")
    })?;
    Ok(Finished { status, stdout, stderr })
}

impl Finished {
    /// Standard output of a program that must succeed.
    pub fn success(self, what: &str) -> Result<String> {
        let Self { status, stdout, stderr } = self;
        ensure!(status.success(), "{what}: {status}\nstdout:\n{stdout}\nstderr:\n{stderr}");
        Ok(stdout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    #[test]
    fn output_and_status_are_reported() {
        let finished = run(Command::new("sh").args(["-c", "echo a; echo b >&2; exit 3"]), SOON);
        let finished = finished.expect("runs");
        assert_eq!((&*finished.stdout, &*finished.stderr), ("a\n", "b\n"));
        assert_eq!(finished.status.code(), Some(3));
        assert!(finished.success("sh").is_err());
    }

    #[test]
    fn a_program_that_does_not_end_is_killed() {
        let begin = Instant::now();
        let error = run(Command::new("sleep").arg("60"), Duration::from_millis(50));
        assert!(error.expect_err("too long").to_string().contains("did not end"));
        assert!(begin.elapsed() < SOON);
    }

    #[test]
    fn waiting_ends_when_the_process_does() {
        let log = tempfile::NamedTempFile::new().expect("file");
        let mut process = Process::spawn("true", &mut Command::new("true"), log.path(), log.path())
            .expect("runs");
        let never = process.wait_until("a miracle", SOON, || None::<()>);
        assert!(never.expect_err("ended").to_string().contains("before a miracle"));
    }
}
