//! A link with a stated bandwidth and round-trip time, made of a relay between TCP connections.
//!
//! Needs no privilege and no kernel module. Slow start and loss are not modelled: bytes travel as
//! over a long-lived connection of a quiet line.
use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr},
    num::NonZeroU64,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bolide_core::{Error, Result};
use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::mpsc,
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep, sleep_until},
};

/// Bytes that travel as one. At 100 Mbit/s a piece takes 1.3 ms.
const PIECE: usize = 16 * 1024;
/// How far ahead of the line a sender may run. Timers are late by a millisecond and more; without
/// a queue the line would stand idle meanwhile.
const QUEUE: Duration = Duration::from_millis(20);
/// Pieces of one connection under way at most, whatever bandwidth and delay would allow.
const MAX_PIECES: usize = 4096;
/// Connections at one time. More wait to be accepted.
const MAX_CONNECTIONS: usize = 256;

/// What a link is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkShape {
    /// Bits per second in each direction, shared by all connections.
    pub bits_per_second: NonZeroU64,
    /// Time from a byte sent to its answer seen, apart from the time bytes take to pass.
    pub rtt: Duration,
}

impl LinkShape {
    /// Time that `bytes` take to pass.
    #[must_use]
    pub fn transmission(&self, bytes: u64) -> Duration {
        let nanos = u128::from(bytes) * 8 * 1_000_000_000 / u128::from(self.bits_per_second.get());
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// Pieces of a connection that fill the line and the queue before it.
    fn pieces_in_flight(&self) -> usize {
        let piece = self.transmission(PIECE as u64).as_nanos().max(1);
        let filled = (self.rtt / 2 + QUEUE).as_nanos() / piece;
        // Small pieces, such as requests, take a place each.
        usize::try_from(filled).unwrap_or(MAX_PIECES).clamp(16, MAX_PIECES)
    }
}

impl fmt::Display for LinkShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = self.bits_per_second.get();
        let units = [("Gbit", 1_000_000_000), ("Mbit", 1_000_000), ("kbit", 1000)];
        let (unit, scale) =
            units.into_iter().find(|(_, scale)| bits.is_multiple_of(*scale)).unwrap_or(("bit", 1));
        write!(f, "{} {unit}/s, {} ms", bits / scale, self.rtt.as_secs_f64() * 1000.0)
    }
}

/// What passed a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkCounters {
    /// Connections accepted.
    pub connections: u64,
    /// Bytes delivered to those who connect.
    pub received: u64,
    /// Bytes delivered to the server behind the link.
    pub sent: u64,
    /// Requests of HTTP/1.1 that set out, by the empty lines that end their heads. Right for all
    /// that is asked of a registry by who only reads.
    pub requests: u64,
}

/// A relay to one server, listening on loopback; dropping it ends it and its connections.
#[derive(Debug)]
pub struct ShapedLink {
    address: SocketAddr,
    shape: LinkShape,
    line: Arc<Line>,
    task: JoinHandle<()>,
}

/// What the connections of a link share.
#[derive(Debug)]
struct Line {
    server: SocketAddr,
    shape: LinkShape,
    connections: AtomicU64,
    requests: AtomicU64,
    up: Direction,
    down: Direction,
}

/// One direction of the line.
#[derive(Debug)]
struct Direction {
    /// When the line is free again.
    free: Mutex<Instant>,
    delivered: AtomicU64,
}

impl Direction {
    fn new(now: Instant) -> Self {
        Self { free: Mutex::new(now), delivered: AtomicU64::new(0) }
    }

    /// Takes the line for `transmission` as soon as it is free; tells when that ends.
    fn reserve(&self, now: Instant, transmission: Duration) -> Instant {
        let mut free = self.free.lock();
        *free = (*free).max(now) + transmission;
        *free
    }
}

impl ShapedLink {
    /// Starts a link to `server`; `Io` when nothing can listen on loopback. Must be called within
    /// a tokio runtime.
    pub async fn start(server: SocketAddr, shape: LinkShape) -> Result<Self> {
        let failed = |error| Error::io("link::start", error);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let now = Instant::now();
        let line = Arc::new(Line {
            server,
            shape,
            connections: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            up: Direction::new(now),
            down: Direction::new(now),
        });
        let task = tokio::spawn(accept(listener, Arc::clone(&line)));
        Ok(Self { address, shape, line, task })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it is like.
    #[must_use]
    pub fn shape(&self) -> LinkShape {
        self.shape
    }

    /// What has passed so far.
    #[must_use]
    pub fn counters(&self) -> LinkCounters {
        LinkCounters {
            connections: self.line.connections.load(Ordering::Relaxed),
            received: self.line.down.delivered.load(Ordering::Relaxed),
            sent: self.line.up.delivered.load(Ordering::Relaxed),
            requests: self.line.requests.load(Ordering::Relaxed),
        }
    }
}

impl Drop for ShapedLink {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Owns the connections: they end with it.
async fn accept(listener: TcpListener, line: Arc<Line>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok((client, _)) => {
                    line.connections.fetch_add(1, Ordering::Relaxed);
                    connections.spawn(relay(client, Arc::clone(&line)));
                }
                // Too many open files, most often: what closes one makes room.
                Err(error) => {
                    tracing::debug!(%error, "connection not accepted");
                    sleep(QUEUE).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn relay(client: TcpStream, line: Arc<Line>) {
    // A connection is made in one round trip before it carries anything.
    sleep(line.shape.rtt).await;
    let connected = TcpStream::connect(line.server).await;
    let Ok(server) = connected.inspect_err(|error| tracing::debug!(%error, "no server")) else {
        return;
    };
    for stream in [&client, &server] {
        // Pieces are sent when they are due. A stream that refuses is gone, as reading will tell.
        let _ = stream.set_nodelay(true);
    }
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let mut heads = Heads::default();
    let count = |piece: &[u8]| {
        line.requests.fetch_add(heads.ended_in(piece), Ordering::Relaxed);
    };
    let up = carry(from_client, to_server, &line.up, line.shape, count);
    let down = carry(from_server, to_client, &line.down, line.shape, |_| ());
    // A broken direction breaks the other: an endpoint that went away answers nothing.
    if let Err(error) = tokio::try_join!(up, down) {
        tracing::debug!(%error, "connection ended");
    }
}

async fn carry(
    from: OwnedReadHalf,
    to: OwnedWriteHalf,
    direction: &Direction,
    shape: LinkShape,
    seen: impl FnMut(&[u8]),
) -> std::io::Result<()> {
    let (sender, pieces) = mpsc::channel(shape.pieces_in_flight());
    tokio::try_join!(send(from, sender, direction, shape, seen), deliver(to, pieces, direction))?;
    Ok(())
}

async fn send(
    mut from: OwnedReadHalf,
    pieces: mpsc::Sender<(Instant, Bytes)>,
    direction: &Direction,
    shape: LinkShape,
    mut seen: impl FnMut(&[u8]),
) -> std::io::Result<()> {
    loop {
        let mut piece = BytesMut::with_capacity(PIECE);
        if from.read_buf(&mut piece).await? == 0 {
            return Ok(());
        }
        seen(&piece);
        let passed = direction.reserve(Instant::now(), shape.transmission(piece.len() as u64));
        // The other half is gone only when it failed, and then its failure is reported.
        if pieces.send((passed + shape.rtt / 2, piece.freeze())).await.is_err() {
            return Ok(());
        }
        if let Some(ahead) = passed.checked_sub(QUEUE) {
            sleep_until(ahead).await;
        }
    }
}

async fn deliver(
    mut to: OwnedWriteHalf,
    mut pieces: mpsc::Receiver<(Instant, Bytes)>,
    direction: &Direction,
) -> std::io::Result<()> {
    while let Some((due, piece)) = pieces.recv().await {
        sleep_until(due).await;
        to.write_all(&piece).await?;
        direction.delivered.fetch_add(piece.len() as u64, Ordering::Relaxed);
    }
    to.shutdown().await
}

/// Finds the ends of heads in what passes piece by piece.
#[derive(Debug, Default)]
struct Heads {
    /// Bytes of the mark that the last piece ended with.
    matched: usize,
}

impl Heads {
    const END: &[u8] = b"\r\n\r\n";

    /// Heads that end in the next piece.
    fn ended_in(&mut self, piece: &[u8]) -> u64 {
        let mut ended = 0;
        for byte in piece {
            self.matched = if *byte == Self::END[self.matched] {
                self.matched + 1
            } else {
                // Only its first byte can begin it anew.
                usize::from(*byte == Self::END[0])
            };
            if self.matched == Self::END.len() {
                (ended, self.matched) = (ended + 1, 0);
            }
        }
        ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_however_they_are_cut() {
        let text = b"GET / HTTP/1.1\r\nA: b\r\r\n\r\nHEAD /x HTTP/1.1\r\n\r\nGET";
        for size in 1..text.len() {
            let mut heads = Heads::default();
            let found: u64 = text.chunks(size).map(|piece| heads.ended_in(piece)).sum();
            assert_eq!(found, 2, "pieces of {size} bytes");
        }
    }

    fn shape(bits_per_second: u64, rtt: Duration) -> LinkShape {
        LinkShape { bits_per_second: NonZeroU64::new(bits_per_second).expect("not 0"), rtt }
    }

    #[test]
    fn bytes_take_their_time() {
        let link = shape(100_000_000, Duration::from_millis(20));
        assert_eq!(link.transmission(12_500_000), Duration::from_secs(1));
        assert_eq!(link.transmission(0), Duration::ZERO);
        assert_eq!(shape(1, Duration::ZERO).transmission(1), Duration::from_secs(8));
        assert_eq!(shape(1, Duration::ZERO).transmission(u64::MAX).as_nanos(), u64::MAX.into());
        assert_eq!(link.to_string(), "100 Mbit/s, 20 ms");
        assert_eq!(shape(1500, Duration::from_micros(500)).to_string(), "1500 bit/s, 0.5 ms");
    }

    #[test]
    fn what_waits_is_bounded() {
        assert_eq!(shape(1, Duration::ZERO).pieces_in_flight(), 16);
        assert_eq!(shape(u64::MAX, Duration::from_mins(1)).pieces_in_flight(), MAX_PIECES);
        // 110 ms of pieces of 13.1 ms.
        assert_eq!(shape(10_000_000, Duration::from_millis(180)).pieces_in_flight(), 16);
        assert_eq!(shape(100_000_000, Duration::from_millis(60)).pieces_in_flight(), 38);
    }

    #[test]
    fn one_line_carries_one_piece_at_a_time() {
        let start = Instant::now();
        let (direction, second) = (Direction::new(start), Duration::from_secs(1));
        assert_eq!(direction.reserve(start, second), start + second);
        // Another connection asks while the line is taken, and a third when it has been idle.
        assert_eq!(direction.reserve(start + second / 2, second), start + 2 * second);
        assert_eq!(direction.reserve(start + 5 * second, second), start + 6 * second);
    }

    /// Answers each connection with as many bytes as it sent.
    async fn echo(listener: TcpListener) {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).await.expect("read");
            stream.write_all(&bytes).await.expect("written");
        }
    }

    #[tokio::test]
    async fn a_transfer_takes_at_least_as_long_as_the_line_allows() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listener");
        let server = listener.local_addr().expect("address");
        let echo = tokio::spawn(echo(listener));
        let rtt = Duration::from_millis(30);
        let link = ShapedLink::start(server, shape(8_000_000, rtt)).await.expect("link");

        let sent: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
        let began = Instant::now();
        let mut client = TcpStream::connect(link.address()).await.expect("connected");
        client.write_all(&sent).await.expect("sent");
        client.shutdown().await.expect("half closed");
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.expect("answered");
        // 400 kB at 1 MB/s, up and then down, and two round trips.
        assert!(began.elapsed() >= Duration::from_millis(800) + 2 * rtt, "{:?}", began.elapsed());
        assert!(answer == sent, "bytes arrive in order");
        let expected =
            LinkCounters { connections: 1, received: 400_000, sent: 400_000, requests: 0 };
        assert_eq!(link.counters(), expected);
        echo.abort();
    }

    #[tokio::test]
    async fn connections_end_with_the_link() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listener");
        let server = listener.local_addr().expect("address");
        let link = ShapedLink::start(server, shape(1_000_000_000, Duration::ZERO)).await;
        let link = link.expect("link");
        let mut client = TcpStream::connect(link.address()).await.expect("connected");
        client.write_all(b"x").await.expect("sent");
        let (mut behind, _) = listener.accept().await.expect("relayed");
        drop(link);
        let mut bytes = Vec::new();
        // Closed or reset: nothing more comes, and no one waits.
        let _ = behind.read_to_end(&mut bytes).await;
        let _ = client.read_to_end(&mut Vec::new()).await;
        assert!(bytes.len() <= 1);
    }
}
