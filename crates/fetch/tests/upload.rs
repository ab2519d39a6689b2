//! Uploads to a registry that fails in the ways of real ones.
use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use bolide_core::{Digest, ErrorKind, memory::MemoryBlob};
use bolide_fetch::{
    ImageReference, NoCredentials, RegistryClient, RegistryConfig, Repository, RetryPolicy,
    UploadOptions,
};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::TcpListener;

const CHUNK: u64 = 1000;

/// What a registry does badly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Faults {
    /// The connection breaks when so many bytes have arrived in all, once.
    breaks_at: Option<usize>,
    /// What it has of the upload then.
    kept: Kept,
    /// Only whole blobs are taken.
    refuses_chunks: bool,
    /// A smaller part of the first chunk is kept than was sent, and the answer says so.
    keeps_less: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Kept {
    /// All that had arrived.
    #[default]
    All,
    /// What had arrived before the last piece.
    Less,
    /// Nothing: the upload is not known any more.
    Nothing,
}

#[derive(Debug, Default)]
struct State {
    faults: Faults,
    /// Uploads by number; forgotten ones are gone.
    uploads: Vec<Option<Vec<u8>>>,
    arrived: usize,
    stored: Vec<Vec<u8>>,
    /// Methods, in order.
    seen: Vec<String>,
}

struct Server {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl Server {
    async fn start(faults: Faults) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("bound");
        let state = Arc::new(Mutex::new(State { faults, ..State::default() }));
        let shared = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let state = Arc::clone(&shared);
                let service = service_fn(move |request| answer(request, Arc::clone(&state)));
                let connection = hyper::server::conn::http1::Builder::new();
                tokio::spawn(connection.serve_connection(TokioIo::new(socket), service));
            }
        });
        Self { address, state }
    }

    fn repository(&self) -> Repository {
        let client = RegistryClient::new(RegistryConfig::default(), Arc::new(NoCredentials));
        let name: ImageReference = format!("{}/app", self.address).parse().expect("valid");
        client.expect("built").repository(&name)
    }

    fn seen(&self) -> String {
        self.state.lock().seen.join(" ")
    }

    /// Uploads twelve and a half chunks.
    async fn take(&self) -> bolide_core::Result<()> {
        let blob = MemoryBlob::new(blob());
        self.repository().upload_blob(&blob, &options()).await
    }
}

fn blob() -> Bytes {
    (0..12_500u32).map(|n| (n % 251) as u8).collect::<Vec<_>>().into()
}

fn options() -> UploadOptions {
    let base_delay = Duration::from_millis(1);
    let retry = RetryPolicy { attempts: 3, base_delay, ..RetryPolicy::default() };
    UploadOptions { chunk_size: CHUNK, retry }
}

type Answer = Response<Empty<Bytes>>;

fn status(code: u16, upload: usize, len: usize) -> Answer {
    Response::builder()
        .status(code)
        .header("Location", format!("/v2/app/blobs/uploads/{upload}?at={len}"))
        .header("Range", format!("0-{}", len.saturating_sub(1)))
        .body(Empty::new())
        .expect("valid")
}

async fn answer(request: Request<Incoming>, state: Arc<Mutex<State>>) -> Result<Answer, io::Error> {
    let (parts, mut body) = request.into_parts();
    let number = parts.uri.path().rsplit('/').next().and_then(|n| n.parse::<usize>().ok());
    state.lock().seen.push(parts.method.to_string());
    if parts.method == "POST" {
        let mut state = state.lock();
        state.uploads.push(Some(Vec::new()));
        return Ok(status(202, state.uploads.len() - 1, 0));
    }
    let number = number.expect("an upload");
    if state.lock().faults.refuses_chunks && parts.method == "PATCH" {
        while body.frame().await.is_some() {}
        return Ok(status(405, number, 0));
    }
    let Some(mut upload) = state.lock().uploads[number].clone() else {
        while body.frame().await.is_some() {}
        return Ok(status(404, number, 0));
    };
    if let Some(range) = parts.headers.get("content-range") {
        let start = range.to_str().expect("text").split('-').next().map(str::parse::<usize>);
        if start != Some(Ok(upload.len())) {
            return Ok(status(416, number, upload.len()));
        }
    }
    while let Some(frame) = body.frame().await {
        let bytes = frame.map_err(io::Error::other)?.into_data().expect("data");
        upload.extend_from_slice(&bytes);
        let mut state = state.lock();
        state.arrived += bytes.len();
        if let Some(at) = state.faults.breaks_at.filter(|at| *at <= state.arrived) {
            let kept = state.faults.kept;
            let lost = if kept == Kept::Less { state.arrived - at } else { 0 };
            upload.truncate(upload.len() - lost);
            state.uploads[number] = (kept != Kept::Nothing).then_some(upload);
            state.faults.breaks_at = None;
            return Err(io::ErrorKind::ConnectionReset.into());
        }
    }
    let mut state = state.lock();
    if state.faults.keeps_less && parts.method == "PATCH" {
        state.faults.keeps_less = false;
        upload.truncate(upload.len() / 2);
    }
    let len = upload.len();
    let code = match parts.method.as_str() {
        "PATCH" => 202,
        "GET" => 204,
        _ => {
            let digest = format!("digest={}", Digest::of(&upload)).replace(':', "%3A");
            let fits = parts.uri.query().is_some_and(|query| query.contains(&digest));
            state.stored.push(upload.clone());
            if fits { 201 } else { 400 }
        }
    };
    state.uploads[number] = Some(upload);
    Ok(status(code, number, len))
}

async fn is_stored(server: &Server) {
    server.take().await.expect("stored");
    assert_eq!(server.state.lock().stored, [blob().to_vec()]);
}

#[tokio::test]
async fn a_blob_goes_in_chunks_and_a_small_one_in_one_request() {
    let server = Server::start(Faults::default()).await;
    is_stored(&server).await;
    assert_eq!(server.seen(), format!("POST {}PUT", "PATCH ".repeat(13)));

    let server = Server::start(Faults::default()).await;
    let small = MemoryBlob::new(blob().slice(..1000));
    server.repository().upload_blob(&small, &options()).await.expect("stored");
    assert_eq!(server.seen(), "POST PUT");
    let empty = MemoryBlob::new(Bytes::new());
    server.repository().upload_blob(&empty, &options()).await.expect("stored");
}

#[tokio::test]
async fn an_upload_goes_on_where_the_connection_broke() {
    for kept in [Kept::All, Kept::Less] {
        let faults = Faults { breaks_at: Some(3_500), kept, ..Faults::default() };
        let server = Server::start(faults).await;
        is_stored(&server).await;
        let seen = server.seen();
        assert!(seen.starts_with("POST PATCH PATCH PATCH PATCH GET PATCH "), "{seen}");
        // Nothing that had arrived was sent again.
        let arrived = server.state.lock().arrived;
        assert!(arrived <= 12_500 + 500, "{arrived}");
    }
}

#[tokio::test]
async fn what_a_registry_forgot_is_sent_again() {
    let faults = Faults { breaks_at: Some(3_500), kept: Kept::Nothing, ..Faults::default() };
    let server = Server::start(faults).await;
    is_stored(&server).await;
    assert!(server.seen().contains("PATCH GET POST PATCH"), "{}", server.seen());
}

#[tokio::test]
async fn a_registry_that_takes_no_chunks_is_asked_once() {
    let server = Server::start(Faults { refuses_chunks: true, ..Faults::default() }).await;
    let repository = server.repository();
    for _ in 0..2 {
        let blob = MemoryBlob::new(blob());
        repository.upload_blob(&blob, &options()).await.expect("stored");
    }
    assert_eq!(server.seen(), "POST PATCH POST PUT POST PUT");
    assert_eq!(server.state.lock().stored, [blob().to_vec(), blob().to_vec()]);
}

#[tokio::test]
async fn the_registry_says_how_much_it_kept() {
    let server = Server::start(Faults { keeps_less: true, ..Faults::default() }).await;
    is_stored(&server).await;
}

#[tokio::test]
async fn other_bytes_are_refused_and_not_tried_again() {
    let server = Server::start(Faults::default()).await;
    let lie = MemoryBlob::with_digest(blob(), Digest::of(b"other"));
    let error = server.repository().upload_blob(&lie, &options()).await.expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition, "{error}");
    assert_eq!(server.state.lock().stored.len(), 1);
}
