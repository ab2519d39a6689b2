//! Reads against a scripted registry on this machine, honest and hostile.
use std::{convert::Infallible, net::SocketAddr, sync::Arc};

use bolide_core::{
    BlobOpener as _, BlobRef, ByteRange, Digest, ErrorKind, OpenedBlob, ReadOptions, Result,
};
use bolide_fetch::{
    Credentials, ImageReference, NoCredentials, RegistryClient, RegistryConfig, Repository, Secret,
    StaticCredentials,
};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::BoxBody};
use hyper::{Request, Response, body::Frame, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use proptest::prelude::*;
use tokio::net::TcpListener;

type Body = BoxBody<Bytes, std::io::Error>;
type Answer = Response<Body>;

/// What a server saw of one request.
#[derive(Clone, Debug)]
struct Seen {
    path: String,
    range: Option<String>,
    authorization: Option<String>,
}

#[derive(Debug)]
struct Server {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Server {
    async fn start(answer: impl Fn(&Seen) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("bound");
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let (log, answer) = (Arc::clone(&seen), Arc::new(answer));
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (log, answer) = (Arc::clone(&log), Arc::clone(&answer));
                let service = service_fn(move |request: Request<Incoming>| {
                    let text = |name: &str| {
                        let value = request.headers().get(name);
                        value.and_then(|value| value.to_str().ok()).map(str::to_owned)
                    };
                    let seen = Seen {
                        path: request.uri().to_string(),
                        range: text("range"),
                        authorization: text("authorization"),
                    };
                    log.lock().push(seen.clone());
                    let response = answer(&seen);
                    async move { Ok::<_, Infallible>(response) }
                });
                let connection = hyper::server::conn::http1::Builder::new();
                tokio::spawn(connection.serve_connection(TokioIo::new(socket), service));
            }
        });
        Self { address, seen }
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().clone()
    }

    fn repository_as(&self, credentials: StaticCredentials) -> Repository {
        let client = RegistryClient::new(RegistryConfig::default(), Arc::new(credentials));
        let name: ImageReference = format!("{}/app", self.address).parse().expect("valid");
        client.expect("built").repository(&name)
    }

    fn repository(&self) -> Repository {
        let client = RegistryClient::new(RegistryConfig::default(), Arc::new(NoCredentials));
        let name: ImageReference = format!("{}/app", self.address).parse().expect("valid");
        client.expect("built").repository(&name)
    }
}

fn truth() -> Bytes {
    (0..5_000u32).map(|n| (n % 251) as u8).collect::<Vec<_>>().into()
}

fn blob() -> BlobRef {
    BlobRef { digest: Digest::of(&truth()), size: None }
}

fn full(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed()
}

fn status(code: u16, headers: &[(&str, &str)]) -> Answer {
    let mut builder = Response::builder().status(code);
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    builder.body(full(Bytes::new())).expect("valid")
}

/// Serves ranges as a good server does.
fn serve(seen: &Seen) -> Answer {
    let (bytes, size) = (truth(), truth().len());
    let Some(range) = seen.range.as_deref().and_then(|range| range.strip_prefix("bytes=")) else {
        return Response::new(full(bytes));
    };
    let (start, end) = match range.split_once('-').expect("a range") {
        ("", last) => (size.saturating_sub(last.parse().expect("a number")), size),
        (first, last) => {
            let number = |text: &str| text.parse::<usize>().expect("a number");
            (number(first), number(last) + 1)
        }
    };
    Response::builder()
        .status(206)
        .header("content-range", format!("bytes {start}-{}/{size}", end - 1))
        .body(full(bytes.slice(start..end)))
        .expect("valid")
}

async fn open(server: &Server) -> Result<OpenedBlob> {
    server.repository().open(blob(), 100).await
}

async fn read(opened: &OpenedBlob, start: u64, len: u64) -> Result<Bytes> {
    let range = ByteRange::at(start, len).expect("not empty");
    opened.source.read_at(range, ReadOptions::default()).await
}

#[tokio::test]
async fn one_request_opens_and_the_source_keeps_the_contract() {
    let server = Server::start(serve).await;
    let opened = open(&server).await.expect("opened");
    assert_eq!(opened.tail, truth().slice(4_900..));
    assert_eq!(server.seen().len(), 1);
    bolide_testkit::conformance::blob_source::all(opened.source, truth()).await.expect("conforms");
}

#[tokio::test]
async fn a_refused_suffix_is_asked_for_once_per_host() {
    let server = Server::start(|seen| match seen.range.as_deref() {
        Some("bytes=-100") => status(416, &[("content-length", "1000000")]),
        _ => serve(seen),
    })
    .await;
    let repository = server.repository();
    for _ in 0..2 {
        let opened = repository.open(blob(), 100).await.expect("opened");
        assert_eq!(opened.tail, truth().slice(4_900..));
    }
    let seen = server.seen();
    let suffixes = seen.iter().filter(|seen| seen.range.as_deref() == Some("bytes=-100"));
    assert_eq!((suffixes.count(), seen.len()), (1, 5));
}

#[tokio::test]
async fn a_server_without_ranges_serves_beginnings_only_if_short() {
    let server = Server::start(|_| Response::new(full(truth()))).await;
    let opened = open(&server).await.expect("opened");
    assert_eq!(opened.tail, truth().slice(4_900..));
    assert_eq!(read(&opened, 10, 20).await.expect("cut off"), truth().slice(10..30));
}

#[tokio::test]
async fn a_token_is_fetched_once_and_never_leaves_the_registry() {
    let storage = Server::start(serve).await;
    // The realm must be the server's own address, which is known only once it listens.
    let target = format!("http://{}/data?sig=secret", storage.address);
    let realm: Arc<Mutex<String>> = Arc::default();
    let told = Arc::clone(&realm);
    let server = Server::start(move |seen| match seen.authorization.as_deref() {
        Some("Basic dTpw") if seen.path.starts_with("/token?") => {
            Response::new(full(Bytes::from_static(br#"{"token": "t", "expires_in": 60}"#)))
        }
        Some("Bearer t") => status(307, &[("location", &target)]),
        _ => status(401, &[("www-authenticate", &told.lock())]),
    })
    .await;
    *realm.lock() = format!("Bearer realm=\"http://{}/token\",service=\"s\"", server.address);
    let login = Credentials::Basic { username: "u".into(), password: Secret::new("p") };
    let credentials = StaticCredentials::new().with(server.address.to_string(), login);
    let repository = server.repository_as(credentials);
    let opened = repository.open(blob(), 100).await.expect("opened");
    read(&opened, 0, 10).await.expect("read");
    assert_eq!(server.seen().iter().filter(|seen| seen.path.starts_with("/token?")).count(), 1);
    // Refused, token, redirected; the second read goes straight to the storage.
    assert_eq!((server.seen().len(), storage.seen().len()), (3, 2));
    assert!(storage.seen().iter().all(|seen| seen.authorization.is_none()));
}

#[tokio::test]
async fn a_token_for_a_mount_covers_both_repositories() {
    let realm = Arc::new(Mutex::new(String::new()));
    let told = Arc::clone(&realm);
    let server = Server::start(move |seen| match seen.authorization.as_deref() {
        _ if seen.path.starts_with("/token?") => {
            Response::new(full(Bytes::from_static(br#"{"token": "t", "expires_in": 60}"#)))
        }
        Some("Bearer t") => status(201, &[]),
        _ => status(401, &[("www-authenticate", &told.lock())]),
    })
    .await;
    *realm.lock() = format!("Bearer realm=\"http://{}/token\",service=\"s\"", server.address);
    let mounted = server.repository().mount_blob(blob().digest, "other/app").await;
    assert!(mounted.expect("answered"));
    let seen = server.seen();
    let asked = seen.iter().find(|seen| seen.path.starts_with("/token?")).expect("a token");
    for scope in ["repository:app:pull,push", "repository:other/app:pull"] {
        let encoded = scope.replace(':', "%3A").replace('/', "%2F").replace(',', "%2C");
        assert!(asked.path.contains(&format!("scope={encoded}")), "{}", asked.path);
    }
}

#[tokio::test]
async fn an_expired_target_is_asked_for_again() {
    let storage = Server::start(|seen| match seen.range.as_deref() {
        Some("bytes=7-7") if seen.path.ends_with("old") => status(403, &[]),
        _ => serve(seen),
    })
    .await;
    let (address, asked) = (storage.address, Mutex::new(0));
    let server = Server::start(move |_| {
        *asked.lock() += 1;
        let name = if *asked.lock() == 1 { "old" } else { "new" };
        status(307, &[("location", &format!("http://{address}/{name}"))])
    })
    .await;
    let opened = open(&server).await.expect("opened");
    assert_eq!(read(&opened, 7, 1).await.expect("read"), truth().slice(7..8));
    assert_eq!(server.seen().len(), 2);
}

#[tokio::test]
async fn a_target_that_fails_is_not_asked_for_ever() {
    // Google's storage says 400 of a URL that has expired; others lose what they had, or fail.
    for code in [400, 404, 500, 503] {
        let storage = Server::start(move |seen| match seen.range.as_deref() {
            Some("bytes=7-7") if seen.path.ends_with("old") => status(code, &[]),
            _ => serve(seen),
        })
        .await;
        let (address, asked) = (storage.address, Mutex::new(0));
        let server = Server::start(move |_| {
            *asked.lock() += 1;
            let name = if *asked.lock() == 1 { "old" } else { "new" };
            status(307, &[("location", &format!("http://{address}/{name}"))])
        })
        .await;
        let opened = open(&server).await.expect("opened");
        let read = read(&opened, 7, 1).await;
        assert_eq!(read.unwrap_or_else(|error| panic!("{code}: {error}")), truth().slice(7..8));
        assert_eq!(server.seen().len(), 2, "{code}");
    }
}

#[tokio::test]
async fn a_target_that_cannot_be_reached_is_forgotten() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let old = listener.local_addr().expect("bound");
    // It answers once and is gone.
    let once = tokio::spawn(async move {
        let (socket, _) = listener.accept().await.expect("accepts");
        let service = service_fn(|request: Request<Incoming>| {
            let range = request.headers().get("range").and_then(|value| value.to_str().ok());
            let (path, range) = (String::new(), range.map(str::to_owned));
            let response = serve(&Seen { path, range, authorization: None });
            async move { Ok::<_, Infallible>(response) }
        });
        let mut connection = hyper::server::conn::http1::Builder::new();
        connection.keep_alive(false).serve_connection(TokioIo::new(socket), service).await
    });
    let storage = Server::start(serve).await;
    let (new, asked) = (storage.address, Mutex::new(0));
    let server = Server::start(move |_| {
        *asked.lock() += 1;
        let to = if *asked.lock() == 1 { old } else { new };
        status(307, &[("location", &format!("http://{to}/blob"))])
    })
    .await;
    let opened = open(&server).await.expect("opened");
    once.await.expect("no panic").expect("served");
    assert_eq!(read(&opened, 7, 1).await.expect_err("gone").kind(), ErrorKind::Unavailable);
    assert_eq!(read(&opened, 7, 1).await.expect("where it is now"), truth().slice(7..8));
}

#[tokio::test]
async fn refusals_have_the_kind_a_caller_can_act_on() {
    for (code, kind) in [
        (401, ErrorKind::Unauthorized),
        (403, ErrorKind::Unauthorized),
        (404, ErrorKind::NotFound),
        (429, ErrorKind::Throttled),
        (500, ErrorKind::Unavailable),
        (503, ErrorKind::Unavailable),
    ] {
        let server = Server::start(move |_| status(code, &[("retry-after", "3")])).await;
        let error = open(&server).await.expect_err("refused");
        assert_eq!(error.kind(), kind, "{code}");
        assert_eq!(error.retry_after().is_some(), matches!(code, 429 | 503), "{code}");
    }
}

#[tokio::test]
async fn wrong_answers_are_not_believed() {
    let wrong: [(fn() -> Answer, ErrorKind); 4] = [
        (|| status(416, &[]), ErrorKind::OutOfRange),
        (|| status(206, &[]), ErrorKind::Malformed),
        (|| status(206, &[("content-range", "bytes 0-8/5000")]), ErrorKind::Malformed),
        (|| status(206, &[("content-range", "bytes 0-9/4999")]), ErrorKind::Corrupt),
    ];
    for (answer, kind) in wrong {
        let server = Server::start(move |seen| match seen.range.as_deref() {
            Some("bytes=0-9") => answer(),
            _ => serve(seen),
        })
        .await;
        let opened = open(&server).await.expect("opened");
        let error = read(&opened, 0, 10).await.expect_err("wrong");
        assert_eq!(error.kind(), kind, "{error}");
    }
}

#[tokio::test]
async fn a_body_that_breaks_is_unavailable() {
    let server = Server::start(|seen| match seen.range.as_deref() {
        Some("bytes=0-9") => {
            let pieces = [Ok(Frame::data(truth().slice(..4)))];
            let body = StreamBody::new(futures::stream::iter(pieces)).boxed();
            let answer = Response::builder().status(206);
            answer.header("content-range", "bytes 0-9/5000").body(body).expect("valid")
        }
        _ => serve(seen),
    })
    .await;
    let opened = open(&server).await.expect("opened");
    let error = read(&opened, 0, 10).await.expect_err("broken");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn manifests_are_held_to_their_digest() {
    let server =
        Server::start(|_| Response::new(full(Bytes::from_static(b"{\"mediaType\":\"m\"}")))).await;
    let document = server.repository().manifest("latest").await.expect("read");
    assert_eq!((document.media_type.as_str(), document.digest), ("m", Digest::of(&document.bytes)));
    let other = Digest::of(b"other").to_string();
    let error = server.repository().manifest(&other).await.expect_err("not what was asked for");
    assert_eq!(error.kind(), ErrorKind::Corrupt);
}

/// How an answer is spoiled: its status, its headers, and how much of its body comes.
#[derive(Clone, Debug, Default)]
struct Spoiled {
    status: Option<u16>,
    headers: Vec<(&'static str, &'static str)>,
    sent: Option<usize>,
}

impl Spoiled {
    /// The honest answer, spoiled. A whole body is sent only as such: wrong bytes under right
    /// headers are found out by digests, not here.
    fn answer(&self, seen: &Seen) -> Answer {
        let whole = Seen { range: None, ..seen.clone() };
        let honest = if self.status == Some(200) { serve(&whole) } else { serve(seen) };
        let (mut parts, body) = honest.into_parts();
        if let Some(code) = self.status {
            parts.status = code.try_into().expect("a status");
        }
        for (name, value) in &self.headers {
            parts.headers.insert(*name, value.parse().expect("printable"));
        }
        let sent = self.sent.unwrap_or(usize::MAX);
        // Not a body of known length, which the server would hold to it.
        let pieces = futures::StreamExt::map(body.into_data_stream(), move |piece| {
            piece.map(|mut piece| {
                piece.truncate(sent);
                Frame::data(piece)
            })
        });
        Response::from_parts(parts, StreamBody::new(pieces).boxed())
    }
}

fn spoiled() -> impl Strategy<Value = Spoiled> {
    let status = prop::sample::select(vec![
        200, 204, 206, 301, 302, 304, 307, 308, 400, 401, 403, 404, 416, 429, 500, 503, 599,
    ]);
    let header = prop::sample::select(vec![
        ("content-range", "bytes 0-9/5000"),
        ("content-range", "bytes 9-0/5000"),
        ("content-range", "bytes 4900-4999/*"),
        ("content-range", "bytes 0-18446744073709551615/18446744073709551615"),
        ("content-range", "bytes */5000"),
        ("content-range", "pages 1-2"),
        ("content-length", "0"),
        ("content-length", "3"),
        ("content-length", "1000000"),
        ("content-encoding", "gzip"),
        ("location", ""),
        ("location", "/"),
        ("location", "ftp://elsewhere/"),
        ("location", "http://[::1"),
        ("www-authenticate", ""),
        ("www-authenticate", "Bearer"),
        ("www-authenticate", "Bearer realm="),
        ("www-authenticate", "Bearer realm=\"not a url\",scope=\"\\\""),
        ("www-authenticate", "Bearer realm=\"ftp://elsewhere/\""),
        ("www-authenticate", "Basic realm=\"\", Bearer a=b, Digest"),
        ("retry-after", "-1"),
        ("retry-after", "99999999999999999999"),
        ("retry-after", "Fri, 31 Feb 2400 25:61:61 GMT"),
    ]);
    let headers = prop::collection::vec(header, 0..3);
    let sent = prop::option::of(0..200_usize);
    (prop::option::of(status), headers, sent).prop_map(|(status, headers, sent)| Spoiled {
        status,
        headers,
        sent,
    })
}

#[test]
fn spoiled_answers_are_read_rightly_or_refused() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    let next: Arc<Mutex<[Spoiled; 2]>> = Arc::default();
    let scripted = Arc::clone(&next);
    let server = runtime.block_on(Server::start(move |seen| {
        let opening = seen.range.as_deref() != Some("bytes=0-9");
        scripted.lock()[usize::from(!opening)].answer(seen)
    }));
    let repository = server.repository();
    proptest!(|(first in prop_oneof![Just(Spoiled::default()), spoiled()], second in spoiled(), sized in any::<bool>())| {
        let whole_size = first.status != Some(200);
        *next.lock() = [first, second];
        let wanted = BlobRef { size: sized.then_some(5_000), ..blob() };
        let opened = runtime.block_on(repository.open(wanted, 100));
        if let Ok(opened) = opened && (sized || whole_size) {
            prop_assert_eq!(&opened.tail, &truth().slice(4_900..));
            if let Ok(read) = runtime.block_on(read(&opened, 0, 10)) {
                prop_assert_eq!(read, truth().slice(..10));
            }
        }
    });
}

#[tokio::test]
async fn answers_without_end_are_cut_off() {
    let server = Server::start(|seen| {
        let zeros = futures::stream::repeat_with(|| {
            Ok::<_, std::io::Error>(Frame::data(Bytes::from_static(&[b' '; 8192])))
        });
        let body = StreamBody::new(zeros).boxed();
        match seen.range.as_deref() {
            Some("bytes=0-9") => Response::builder()
                .status(206)
                .header("content-range", "bytes 0-9/5000")
                .body(body)
                .expect("valid"),
            Some(_) => serve(seen),
            None => Response::new(body),
        }
    })
    .await;
    let opened = open(&server).await.expect("opened");
    assert_eq!(read(&opened, 0, 10).await.expect("ten are enough"), vec![b' '; 10]);
    let error = server.repository().manifest("latest").await.expect_err("no end");
    assert_eq!(error.kind(), ErrorKind::Exhausted);
}
