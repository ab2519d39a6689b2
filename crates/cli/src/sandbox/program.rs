//! Starts the program of an image over its layers, and gathers what it says.
use std::{
    path::PathBuf,
    process::{ExitStatus, Stdio},
};

use anyhow::{Context as _, Result};
use bolide_core::{Digest, Digester};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    process::Command,
};

/// Bytes of each output that are kept to be shown; the rest is counted in the digest.
const KEPT: usize = 64 * 1024;

/// Layers on directories, under one that holds them all: names are short there, and overlayfs takes
/// one page of them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Stack {
    /// The directory of all.
    pub(crate) dir: PathBuf,
    /// Names of the layers in it, lowest first.
    pub(crate) layers: Vec<String>,
}

/// What an image says of its program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ImageProgram {
    /// Program and arguments, never empty.
    pub(crate) command: Vec<String>,
    /// `NAME=value`.
    pub(crate) environment: Vec<String>,
    /// Where it starts.
    pub(crate) directory: String,
    /// `user[:group]`, each a name or a number; empty for root.
    pub(crate) user: String,
}

/// What the internal entry is told.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Plan {
    pub(super) stack: Stack,
    pub(super) program: ImageProgram,
}

/// A program that ended.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: Output,
    pub(crate) stderr: Output,
}

/// One output of a program.
#[derive(Debug)]
pub(crate) struct Output {
    /// Digest of all of it.
    pub(crate) digest: Digest,
    /// Its start.
    pub(crate) start: Vec<u8>,
}

/// Runs a program over layers in namespaces of its own, where nothing of this machine but its kernel
/// is seen. A dropped future ends it.
///
/// To be awaited on the main thread: the program is killed when the thread that started it ends.
pub(crate) async fn run_program(program: &ImageProgram, stack: &Stack) -> Result<Finished> {
    let plan = Plan { stack: stack.clone(), program: program.clone() };
    let file = stack.dir.join("plan.json");
    tokio::fs::write(&file, serde_json::to_vec(&plan)?).await.context("cannot write a plan")?;
    finish(Command::new("/proc/self/exe").args(["internal", "init"]).arg(&file)).await
}

/// Runs a command without input to its end, and gathers what it says. A dropped future ends it.
pub(crate) async fn finish(command: &mut Command) -> Result<Finished> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("cannot start a process")?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let (stdout, stderr) = tokio::try_join!(gather(stdout), gather(stderr))
        .context("cannot read what the program says")?;
    let status = child.wait().await.context("cannot wait for the program")?;
    Ok(Finished { status, stdout, stderr })
}

async fn gather(output: Option<impl AsyncRead + Unpin>) -> std::io::Result<Output> {
    let (mut digester, mut start, mut buffer) = (Digester::new(), Vec::new(), vec![0; KEPT]);
    if let Some(mut output) = output {
        loop {
            let count = output.read(&mut buffer).await?;
            if count == 0 {
                break;
            }
            digester.update(&buffer[..count]);
            start.extend_from_slice(&buffer[..count.min(KEPT - start.len())]);
        }
    }
    Ok(Output { digest: digester.finish(), start })
}
