//! The daemon: a node, its snapshots, and the two sockets it is asked through.
use std::{
    fs, io,
    os::unix::{
        fs::{DirBuilderExt as _, PermissionsExt as _},
        net::UnixStream,
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use bolide_core::{Error, ErrorKind, Result};
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

use crate::{
    Config, RedbStore, SnapshotService, admin,
    assembly::{Node, Surroundings},
    blocking::blocking,
    grpc,
};

/// Runs the daemon until `stop`. `ready` is called once both sockets are listened on.
///
/// `FailedPrecondition` when another daemon has the root or a socket, `Config` and `Unsupported` as
/// [`Node::assemble`] says. What is mounted and not in use is unmounted at the end.
pub async fn serve(
    config: &Config,
    surroundings: &Surroundings,
    ready: impl FnOnce(),
    stop: CancellationToken,
) -> Result<()> {
    config.check()?;
    let root = config.root.clone();
    blocking("daemon::create_dir", move || private_dir(&root)).await?;
    // The node first: it claims the root, and a second daemon must not get as far as the mounts.
    let node = Node::assemble(config, surroundings).await?;
    let served = serve_node(config, &node, ready, stop).await;
    node.shutdown().await;
    served
}

async fn serve_node(
    config: &Config,
    node: &Node,
    ready: impl FnOnce(),
    stop: CancellationToken,
) -> Result<()> {
    let store = Arc::new(RedbStore::open(&config.root.join("metadata.redb")).await?);
    let (root, layers) = (config.root.clone(), node.layers());
    let service =
        blocking("daemon::open", move || SnapshotService::open(&root, store, layers)).await?;
    service.restore().await?;
    // Only now: containerd takes a socket that answers for a snapshotter that is complete.
    let snapshots = Socket::bind(&config.address, 0o600).await?;
    let admin_socket = Socket::bind(&config.admin_address, 0o600).await?;
    tracing::info!(
        address = %config.address.display(),
        mounter = node.mounter(),
        "the snapshotter is ready"
    );
    ready();
    // Whatever ends the one ends the other.
    let stop = stop.child_token();
    let asked = admin::serve(admin_socket.listener, Arc::clone(&service) as _, stop.clone());
    let answered = async {
        let served = grpc::serve(snapshots.listener, Arc::clone(&service), stop.clone()).await;
        stop.cancel();
        served
    };
    let ((), served) = tokio::join!(asked, answered);
    served
}

/// A socket that is listened on, and whose file goes with it.
struct Socket {
    listener: UnixListener,
    _file: SocketFile,
}

struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Gone already, or of a successor that will remove it itself.
        let _ = fs::remove_file(&self.0);
    }
}

impl Socket {
    /// Listens on `path`, in place of what a daemon that died left there.
    async fn bind(path: &Path, mode: u32) -> Result<Self> {
        let own = path.to_owned();
        let bound = blocking("daemon::bind", move || {
            if let Some(dir) = own.parent() {
                private_dir(dir)?;
            }
            remove_stale(&own)?;
            let failed =
                |error| Error::io("daemon::bind", error).with_context("socket", own.display());
            let listener = std::os::unix::net::UnixListener::bind(&own).map_err(failed)?;
            // The directory is private until its owner says otherwise, so nobody was faster.
            fs::set_permissions(&own, fs::Permissions::from_mode(mode)).map_err(failed)?;
            listener.set_nonblocking(true).map_err(failed)?;
            Ok(listener)
        });
        let listener = UnixListener::from_std(bound.await?)
            .map_err(|error| Error::io("daemon::bind", error))?;
        Ok(Self { listener, _file: SocketFile(path.to_owned()) })
    }
}

/// Removes the socket of a daemon that died. `FailedPrecondition` when one answers there.
fn remove_stale(path: &Path) -> Result<()> {
    let refuse = |rule| {
        Error::new(ErrorKind::FailedPrecondition, "daemon::bind", rule)
            .with_context("socket", path.display())
    };
    match UnixStream::connect(path) {
        Ok(_) => Err(refuse("another daemon listens on this socket; stop it first")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            use std::os::unix::fs::FileTypeExt as _;
            let found = fs::symlink_metadata(path);
            if !found.is_ok_and(|found| found.file_type().is_socket()) {
                return Err(refuse("a file that is no socket is in the way; remove it"));
            }
            fs::remove_file(path).map_err(|error| {
                Error::io("daemon::bind", error).with_context("socket", path.display())
            })
        }
        Err(error) => Err(Error::io("daemon::bind", error).with_context("socket", path.display())),
    }
}

/// Makes a directory that is its owner's alone; one that exists stays as it is.
fn private_dir(path: &Path) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| Error::io("daemon::create_dir", error).with_context("dir", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_dead_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("run/bolide.sock");
        let first = Socket::bind(&path, 0o600).await.expect("binds");
        let mode = fs::metadata(&path).expect("socket").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let second = Socket::bind(&path, 0o600).await.map(drop).expect_err("taken");
        assert_eq!(second.kind(), ErrorKind::FailedPrecondition);
        drop(first);
        assert!(!path.try_exists().expect("looked at"));
        // As a daemon that was killed leaves it.
        drop(std::os::unix::net::UnixListener::bind(&path).expect("binds"));
        assert!(path.try_exists().expect("looked at"));
        Socket::bind(&path, 0o600).await.map(drop).expect("replaced");
    }

    #[tokio::test]
    async fn a_file_in_the_way_stays() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("bolide.sock");
        fs::write(&path, "precious").expect("written");
        let refused = Socket::bind(&path, 0o600).await.map(drop).expect_err("no socket");
        assert_eq!(refused.kind(), ErrorKind::FailedPrecondition);
        assert_eq!(fs::read(&path).expect("still there"), b"precious");
    }
}
