//! Debian's docker-registry as a child of the test, on a port of its own choice.
use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle as Task,
};

const READY: Duration = Duration::from_mins(1);
pub(crate) const USER: &str = "user";
pub(crate) const PASSWORD: &str = "secret";
const HTPASSWD: &str = "user:$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";

/// A registry that keeps everything below a directory; dropping it ends it.
#[derive(Debug)]
pub(crate) struct DockerRegistry {
    dir: PathBuf,
    address: SocketAddr,
    child: Child,
    log: Option<JoinHandle<()>>,
}

impl DockerRegistry {
    /// Starts a registry that everyone may write to, or finds the data of an earlier one.
    pub(crate) fn start(dir: &Path) -> Self {
        Self::start_with(dir, "")
    }

    /// Starts a registry that only [`USER`] may use.
    pub(crate) fn start_private(dir: &Path) -> Self {
        let passwords = dir.join("htpasswd");
        fs::write(&passwords, HTPASSWD).expect("written");
        let auth = format!("auth: {{htpasswd: {{realm: r, path: {}}}}}\n", passwords.display());
        Self::start_with(dir, &auth)
    }

    fn start_with(dir: &Path, auth: &str) -> Self {
        let config = dir.join("config.yml");
        let data = dir.join("data");
        let text = format!(
            "version: 0.1\nlog: {{level: info, accesslog: {{disabled: false}}}}\n\
             storage: {{filesystem: {{rootdirectory: {}}}}}\n\
             http: {{addr: \"127.0.0.1:0\", secret: tests}}\n{auth}",
            data.display()
        );
        fs::write(&config, text).expect("written");
        let access_log = fs::File::options().create(true).append(true).open(dir.join("access.log"));
        let mut child = Command::new("docker-registry")
            .arg("serve")
            .arg(config)
            .stdin(Stdio::null())
            .stdout(access_log.expect("opened"))
            .stderr(Stdio::piped())
            .spawn()
            .expect("docker-registry must be installed: apt-get install docker-registry");
        let errors = BufReader::new(child.stderr.take().expect("piped"));
        let (found, address) = mpsc::channel();
        // Reads to the end, so that the registry never waits for a reader.
        let log = thread::spawn(move || {
            for line in errors.lines().map_while(Result::ok) {
                let address = line.split_once("listening on ").and_then(|(_, rest)| {
                    rest.split(['"', ' ']).next()?.parse::<SocketAddr>().ok()
                });
                // Nobody waits for a second address.
                let _ = address.map(|address| found.send(address));
            }
        });
        let address = address.recv_timeout(READY).expect("docker-registry listens");
        Self { dir: dir.to_owned(), address, child, log: Some(log) }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Requests of a method whose path holds `part`. A request is logged before it is answered.
    pub(crate) fn requests(&self, method: &str, part: &str) -> usize {
        let log = fs::read_to_string(self.dir.join("access.log")).expect("log");
        let of = |line: &&str| line.contains(&format!("\"{method} ")) && line.contains(part);
        log.lines().filter(of).count()
    }

    /// Ends it at once, as a crash would.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("ended");
        self.log.take().map(JoinHandle::join).transpose().expect("no panic");
    }
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        // It may have been ended before, and a failing test is not to panic twice.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = self.log.take().map(JoinHandle::join);
    }
}

/// A relay to `target` that is gone for good once it has taken `limit` bytes on one connection.
/// The task ends then.
pub(crate) async fn cutting_relay(target: SocketAddr, limit: u64) -> (SocketAddr, Task<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listener");
    let address = listener.local_addr().expect("address");
    let task = tokio::spawn(async move {
        let mut connections = tokio::task::JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => {
                    let (client, _) = accepted.expect("accepted");
                    connections.spawn(relay(client, target, limit));
                }
                Some(cut) = connections.join_next() => {
                    if cut.expect("no panic") {
                        return;
                    }
                }
            }
        }
    });
    (address, task)
}

/// A relay to `target` that cuts the first connection on which it has taken `limit` bytes, and
/// carries all others. It ends with the runtime.
pub(crate) async fn stumbling_relay(
    target: SocketAddr,
    limit: u64,
) -> (SocketAddr, Arc<AtomicBool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listener");
    let address = listener.local_addr().expect("address");
    let stumbled = Arc::new(AtomicBool::new(false));
    let shared = Arc::clone(&stumbled);
    tokio::spawn(async move {
        loop {
            let (client, _) = listener.accept().await.expect("accepted");
            let stumbled = Arc::clone(&shared);
            let left = if stumbled.load(Ordering::Relaxed) { u64::MAX } else { limit };
            tokio::spawn(async move {
                if relay(client, target, left).await {
                    stumbled.store(true, Ordering::Relaxed);
                }
            });
        }
    });
    (address, stumbled)
}

/// Whether the limit was reached.
async fn relay(client: TcpStream, target: SocketAddr, limit: u64) -> bool {
    let server = TcpStream::connect(target).await.expect("connected");
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let upwards = async {
        let mut left = limit;
        let mut buffer = vec![0; 16 * 1024];
        while left > 0 {
            let Ok(count @ 1..) = from_client.read(&mut buffer).await else { return false };
            if to_server.write_all(&buffer[..count]).await.is_err() {
                return false;
            }
            left = left.saturating_sub(count as u64);
        }
        true
    };
    let downwards = async {
        let _ = tokio::io::copy(&mut from_server, &mut to_client).await;
        false
    };
    tokio::select! {
        cut = upwards => cut,
        ended = downwards => ended,
    }
}
