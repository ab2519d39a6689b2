//! Reads of a bucket whose server checks every signature, over HTTP on this machine.
use std::{
    convert::Infallible,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bolide_core::{
    BlobOpener, BlobRef, ByteRange, Digest, ErrorKind, OpenedBlob, ReadOptions, Result,
};
use bolide_fetch::{
    ObjectStoreOpener, PlainHttp, RetryPolicy, S3Credentials, S3Options, Secret, WrapOpener,
};
use bytes::Bytes;
use futures::StreamExt as _;
use http_body_util::{BodyExt as _, StreamBody, combinators::UnsyncBoxBody};
use hyper::{Request, Response, body::Frame, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use s3s::{
    S3Result,
    access::{S3Access, S3AccessContext},
    auth::SimpleAuth,
    s3_error,
    service::{S3Service, S3ServiceBuilder},
};
use tempfile::TempDir;
use tokio::net::TcpListener;

const KEY: &str = "AKIDEXAMPLE";
const SECRET: &str = "a secret that only the owner has";

/// What a signature does not say: sessions end, and buckets need be there.
struct Policy {
    buckets: std::path::PathBuf,
}

#[async_trait::async_trait]
impl S3Access for Policy {
    async fn check(&self, request: &mut S3AccessContext<'_>) -> S3Result<()> {
        if request.credentials().is_none() {
            return Err(s3_error!(AccessDenied));
        }
        let token = request.headers().get("x-amz-security-token");
        if token.is_some_and(|token| token == "expired") {
            return Err(s3_error!(ExpiredToken));
        }
        let bucket = request.s3_path().as_object().map_or("", |(bucket, _)| bucket);
        if self.buckets.join(bucket).is_dir() { Ok(()) } else { Err(s3_error!(NoSuchBucket)) }
    }
}

type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// A server with one bucket that holds the truth.
struct Server {
    endpoint: String,
    buckets: TempDir,
    /// Bodies that are still to break in the middle.
    breaking: Arc<AtomicUsize>,
    requests: Arc<AtomicUsize>,
}

impl Server {
    async fn start() -> Self {
        let buckets = tempfile::tempdir().expect("a directory");
        store(buckets.path(), &truth());
        let files = s3s_fs::FileSystem::new(buckets.path()).expect("a file system");
        let mut builder = S3ServiceBuilder::new(files);
        builder.set_auth(SimpleAuth::from_single(KEY, SECRET));
        builder.set_access(Policy { buckets: buckets.path().to_owned() });
        let service = builder.build();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let endpoint = format!("http://{}", listener.local_addr().expect("bound"));
        let (breaking, requests) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let (broken, counted) = (Arc::clone(&breaking), Arc::clone(&requests));
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (service, broken) = (service.clone(), Arc::clone(&broken));
                let counted = Arc::clone(&counted);
                let answer = service_fn(move |request| {
                    counted.fetch_add(1, Ordering::SeqCst);
                    answer(service.clone(), Arc::clone(&broken), request)
                });
                let connection = hyper::server::conn::http1::Builder::new();
                tokio::spawn(connection.serve_connection(TokioIo::new(socket), answer));
            }
        });
        Self { endpoint, buckets, breaking, requests }
    }

    fn options(&self, credentials: S3Credentials) -> S3Options {
        S3Options {
            endpoint: Some(self.endpoint.parse().expect("a URL")),
            prefix: "images/app".to_owned(),
            plain_http: PlainHttp::loopback(),
            ..S3Options::new("layers", "us-east-1", credentials)
        }
    }

    fn opener(&self) -> ObjectStoreOpener {
        ObjectStoreOpener::s3(&self.options(key(KEY, SECRET, None))).expect("usable options")
    }
}

fn store(buckets: &Path, bytes: &Bytes) {
    let dir = buckets.join("layers/images/app/blobs/sha256");
    std::fs::create_dir_all(&dir).expect("created");
    std::fs::write(dir.join(blob().digest.hex()), bytes).expect("written");
}

/// Answers as the service does; a body that is to break ends after its first piece.
async fn answer(
    service: S3Service,
    breaking: Arc<AtomicUsize>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let request = request.map(s3s::Body::from);
    let answer =
        service.call(request).await.expect("the service answers").map(|body| {
            body.map_err(|error| std::io::Error::other(error.to_string())).boxed_unsync()
        });
    let breaks =
        breaking.try_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
    if breaks.is_err() {
        return Ok(answer);
    }
    Ok(answer.map(|body| {
        let data = body.into_data_stream().take(1).map(|piece| piece.map(Frame::data));
        let gone = futures::stream::iter([Err(std::io::ErrorKind::ConnectionReset.into())]);
        StreamBody::new(data.chain(gone)).boxed_unsync()
    }))
}

fn key(id: &str, secret: &str, token: Option<&str>) -> S3Credentials {
    S3Credentials::Key {
        access_key_id: id.to_owned(),
        secret_access_key: Secret::new(secret),
        session_token: token.map(Secret::new),
    }
}

fn truth() -> Bytes {
    bolide_testkit::sample::noise(10_000, 5).into()
}

fn blob() -> BlobRef {
    BlobRef { digest: Digest::of(&truth()), size: None }
}

async fn read(opened: &OpenedBlob, start: u64, len: u64) -> Result<Bytes> {
    let range = ByteRange::at(start, len).expect("not empty");
    opened.source.read_at(range, ReadOptions::default()).await
}

#[tokio::test]
async fn the_owner_of_the_key_reads_and_the_source_keeps_the_contract() {
    let server = Server::start().await;
    let opened = server.opener().open(blob(), 100).await.expect("opened");
    assert_eq!(opened.tail, truth().slice(9_900..));
    assert_eq!(server.requests.load(Ordering::SeqCst), 1, "size and tail in one request");
    assert_eq!(read(&opened, 7, 3).await.expect("read"), truth().slice(7..10));
    assert_eq!(read(&opened, 9_999, 1).await.expect("read"), truth().slice(9_999..));
    bolide_testkit::conformance::blob_source::all(opened.source, truth()).await.expect("conforms");
    let sized = BlobRef { size: Some(10_000), ..blob() };
    let whole = server.opener().open(sized, 1 << 20).await.expect("opened");
    assert_eq!(whole.tail, truth(), "a tail longer than the blob is the blob");
    let bare = server.opener().open(blob(), 0).await.expect("opened");
    assert!(bare.tail.is_empty() && bare.source.size() == 10_000);
}

#[tokio::test]
async fn refusals_name_their_remedy() {
    let server = Server::start().await;
    let missing =
        S3Options { bucket: "elsewhere".to_owned(), ..server.options(key(KEY, SECRET, None)) };
    for (options, kind, remedy) in [
        (server.options(key(KEY, "a guess", None)), ErrorKind::Unauthorized, "secret access key"),
        (server.options(key("NOBODY", SECRET, None)), ErrorKind::Unauthorized, "check"),
        (
            server.options(key(KEY, SECRET, Some("expired"))),
            ErrorKind::Unauthorized,
            "get a new key and token",
        ),
        (server.options(S3Credentials::Anonymous), ErrorKind::Unauthorized, "check the key"),
        (missing, ErrorKind::NotFound, "bucket"),
    ] {
        // With a tail and without: the remedy is in the body of an answer, which HEAD has not.
        for tail in [100, 0] {
            let opener = ObjectStoreOpener::s3(&options).expect("usable options");
            let error = opener.open(blob(), tail).await.expect_err("refused");
            assert_eq!(error.kind(), kind, "{error:?}");
            assert!(error.message().contains(remedy), "{error:?}");
            assert!(!format!("{error:?}").contains(SECRET), "{error:?}");
        }
    }
}

#[tokio::test]
async fn what_is_not_there_is_not_found() {
    let server = Server::start().await;
    let other = BlobRef { digest: Digest::of(b"other"), size: None };
    for tail in [100, 0] {
        let error = server.opener().open(other, tail).await.expect_err("missing");
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}");
        assert!(error.to_string().contains(&other.digest.hex()), "{error}");
    }
}

#[tokio::test]
async fn ranges_past_the_end_are_out_of_range() {
    let server = Server::start().await;
    let opened = server.opener().open(blob(), 0).await.expect("opened");
    let asked = server.requests.load(Ordering::SeqCst);
    let error = read(&opened, 9_999, 2).await.expect_err("past the end");
    assert_eq!(error.kind(), ErrorKind::OutOfRange);
    assert_eq!(server.requests.load(Ordering::SeqCst), asked, "nobody was asked");
    // An object that was replaced by a shorter one.
    store(server.buckets.path(), &truth().slice(..100));
    let error = read(&opened, 200, 10).await.expect_err("gone");
    assert_eq!(error.kind(), ErrorKind::OutOfRange, "{error:?}");
    let error = read(&opened, 0, 10).await.expect_err("another object");
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:?}");
}

#[tokio::test]
async fn a_body_that_breaks_is_unavailable_and_a_retry_reads_on() {
    let server = Server::start().await;
    let opened = server.opener().open(blob(), 0).await.expect("opened");
    server.breaking.store(1, Ordering::SeqCst);
    let error = read(&opened, 0, 10_000).await.expect_err("broken");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    let policy = RetryPolicy { base_delay: Duration::from_millis(1), ..RetryPolicy::default() };
    let patient = WrapOpener::new(Arc::new(server.opener())).with_retry(policy);
    let opened = patient.open(blob(), 0).await.expect("opened");
    server.breaking.store(2, Ordering::SeqCst);
    assert_eq!(read(&opened, 0, 10_000).await.expect("read on"), truth());
    assert_eq!(server.breaking.load(Ordering::SeqCst), 0, "it did break");
}

#[tokio::test]
async fn a_server_that_is_gone_is_unavailable() {
    let gone = TcpListener::bind("127.0.0.1:0").await.expect("bound").local_addr().expect("bound");
    let options = S3Options {
        endpoint: Some(format!("http://{gone}").parse().expect("a URL")),
        plain_http: PlainHttp::loopback(),
        ..S3Options::new("layers", "us-east-1", key(KEY, SECRET, None))
    };
    let opener = ObjectStoreOpener::s3(&options).expect("usable options");
    let error = opener.open(blob(), 0).await.expect_err("gone");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
}

#[test]
fn plain_http_is_refused_unless_the_host_is_listed() {
    let at = |endpoint: &str| S3Options {
        endpoint: Some(endpoint.parse().expect("a URL")),
        ..S3Options::new("layers", "us-east-1", S3Credentials::Anonymous)
    };
    for (options, host) in [
        (at("http://127.0.0.1:9000"), "127.0.0.1:9000"),
        (
            S3Options { plain_http: PlainHttp::loopback(), ..at("http://minio.lan:9000") },
            "minio.lan:9000",
        ),
    ] {
        let error = ObjectStoreOpener::s3(&options).expect_err("no TLS");
        assert_eq!((error.kind(), error.context("host")), (ErrorKind::Config, Some(host)));
    }
    let listed = PlainHttp::none().with_host("minio.lan:9000");
    let listed = S3Options { plain_http: listed, ..at("http://minio.lan:9000") };
    ObjectStoreOpener::s3(&listed).expect("listed");
    ObjectStoreOpener::s3(&at("https://minio.lan")).expect("TLS");
    assert!(ObjectStoreOpener::s3(&at("ftp://minio.lan")).is_err());
}
