//! Debian's docker-registry on a loopback port of its own, and what it says it sent.
use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use crate::{Image, Process};

const READY: Duration = Duration::from_secs(30);
const ANSWER: Duration = Duration::from_mins(1);

/// A registry that speaks plain HTTP.
#[derive(Debug)]
pub struct Registry {
    dir: PathBuf,
    address: SocketAddr,
    process: Option<Process>,
}

/// What was sent of one blob.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Served {
    /// GET requests answered with content.
    pub requests: u64,
    /// Bytes of their bodies.
    pub bytes: u64,
}

impl Registry {
    /// Starts an empty registry that keeps everything below `dir`.
    pub fn start(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir)?;
        // The port stays the same when the registry is stopped and started again.
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let mut registry = Self { dir: dir.to_owned(), address, process: None };
        registry.resume()?;
        Ok(registry)
    }

    /// Host and port, as they stand in a reference.
    #[must_use]
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// Starts the registry again after [`Registry::stop`].
    pub fn resume(&mut self) -> Result<()> {
        let config = self.dir.join("config.yml");
        let data = self.dir.join("data");
        fs::write(
            &config,
            format!(
                "version: 0.1\nlog: {{level: warn, accesslog: {{disabled: false}}}}\n\
                 storage: {{filesystem: {{rootdirectory: {}}}}}\n\
                 http: {{addr: \"{}\", secret: end-to-end}}\n",
                data.display(),
                self.address
            ),
        )?;
        let mut process = Process::spawn(
            "docker-registry",
            Command::new("docker-registry").arg("serve").arg(config),
            &self.access_log(),
            &self.dir.join("error.log"),
        )?;
        let address = self.address;
        process.wait_until("its port", READY, || TcpStream::connect(address).ok())?;
        self.process = Some(process);
        Ok(())
    }

    /// Switches the registry off.
    pub fn stop(&mut self) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            process.stop()?;
        }
        Ok(())
    }

    /// Changes one byte of a stored blob. The registry goes on sending it under the old digest.
    pub fn damage(&self, digest: &str, offset: u64) -> Result<()> {
        let encoded = digest.strip_prefix("sha256:").context("sha256 digests only")?;
        let prefix = encoded.get(..2).context("a digest has 64 digits")?;
        let blobs = self.dir.join("data/docker/registry/v2/blobs/sha256");
        let path = blobs.join(prefix).join(encoded).join("data");
        let file = fs::File::options().read(true).write(true).open(&path);
        let file = file.with_context(|| path.display().to_string())?;
        let mut byte = [0];
        file.read_exact_at(&mut byte, offset)?;
        file.write_all_at(&[byte[0] ^ 0x55], offset)?;
        Ok(())
    }

    /// What was sent so far, by digest of the blob.
    pub fn served(&self) -> Result<BTreeMap<String, Served>> {
        let log = self.access_log();
        let text = fs::read_to_string(&log).with_context(|| log.display().to_string())?;
        Ok(parse_log(&text))
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Requests of any kind answered so far, whatever the answer.
    pub fn requests(&self) -> Result<u64> {
        let log = self.access_log();
        let text = fs::read_to_string(&log).with_context(|| log.display().to_string())?;
        Ok(text.matches(" HTTP/1.1\" ").count() as u64)
    }

    /// Bytes sent so far of the layers of an image.
    pub fn layer_bytes_served(&self, image: &Image) -> Result<u64> {
        let served = self.served()?;
        let of_layer = |digest: &String| served.get(digest).map_or(0, |served| served.bytes);
        Ok(image.layers.iter().map(|layer| of_layer(&layer.digest)).sum())
    }

    /// Uploads an image of a layout unchanged.
    pub fn push(&self, image: &Image, name: &str, tag: &str) -> Result<()> {
        for (digest, file) in image.blobs()? {
            let started = self.request("POST", &format!("/v2/{name}/blobs/uploads/"), &[], &[])?;
            started.expect(202)?;
            let location = started.header("location").context("an upload has a location")?;
            let target = location.find("/v2/").and_then(|at| location.get(at..));
            let target = target.context("the location is one of the registry")?;
            let body = fs::read(&file).with_context(|| file.display().to_string())?;
            self.request("PUT", &format!("{target}&digest={digest}"), &[], &body)?.expect(201)?;
        }
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        let path = format!("/v2/{name}/manifests/{tag}");
        self.request("PUT", &path, &[("Content-Type", media_type)], image.manifest())?.expect(201)
    }

    /// Reads an image back: its manifest and what its config says of its layers.
    pub fn image(&self, name: &str, tag: &str) -> Result<Image> {
        let accept = "application/vnd.oci.image.manifest.v1+json, \
                      application/vnd.docker.distribution.manifest.v2+json";
        let path = format!("/v2/{name}/manifests/{tag}");
        let manifest = self.request("GET", &path, &[("Accept", accept)], &[])?;
        manifest.expect(200)?;
        Image::of(&self.dir, manifest.body, |digest| {
            let config = self.request("GET", &format!("/v2/{name}/blobs/{digest}"), &[], &[])?;
            config.expect(200)?;
            Ok(config.body)
        })
    }

    fn access_log(&self) -> PathBuf {
        self.dir.join("access.log")
    }

    fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Answer> {
        let mut stream = TcpStream::connect(self.address).context("the registry is off")?;
        stream.set_read_timeout(Some(ANSWER))?;
        write!(stream, "{method} {path} HTTP/1.0\r\nHost: {}\r\n", self.address)?;
        for (name, value) in headers {
            write!(stream, "{name}: {value}\r\n")?;
        }
        write!(stream, "Content-Length: {}\r\n\r\n", body.len())?;
        stream.write_all(body)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Answer::parse(&answer).with_context(|| format!("{method} {path}"))
    }
}

#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn parse(bytes: &[u8]) -> Result<Self> {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n");
        let (head, body) = bytes.split_at(end.context("an answer has a head")?);
        let head = String::from_utf8_lossy(head).into_owned();
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        Ok(Self { status: status.context("an answer has a status")?, head, body: body[4..].into() })
    }

    fn header(&self, name: &str) -> Option<&str> {
        let fields = self.head.lines().filter_map(|line| line.split_once(": "));
        fields.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value).next()
    }

    fn expect(&self, status: u16) -> Result<()> {
        if self.status != status {
            bail!("{}\n{}", self.head, String::from_utf8_lossy(&self.body));
        }
        Ok(())
    }
}

/// Lines look like `… "GET /v2/NAME/blobs/DIGEST HTTP/1.1" 206 4096 "" "agent"`.
fn parse_log(log: &str) -> BTreeMap<String, Served> {
    let mut served = BTreeMap::<String, Served>::new();
    for line in log.lines() {
        let Some((digest, bytes)) = parse_line(line) else { continue };
        let entry = served.entry(digest).or_default();
        entry.requests += 1;
        entry.bytes += bytes;
    }
    served
}

fn parse_line(line: &str) -> Option<(String, u64)> {
    let (_, rest) = line.split_once("\"GET ")?;
    let (request, rest) = rest.split_once('"')?;
    let (path, _) = request.split_once(' ')?;
    let (_, digest) = path.split_once("/blobs/")?;
    let mut fields = rest.split_ascii_whitespace();
    let status: u16 = fields.next()?.parse().ok()?;
    let bytes = fields.next()?.parse().ok()?;
    matches!(status, 200 | 206).then(|| (digest.to_owned(), bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_content_that_was_sent_counts() {
        let log = concat!(
            "127.0.0.1 - - [24/Nov/2026:03:01:06 +0000] \"GET /v2/ HTTP/1.1\" 200 2 \"\" \"x\"\n",
            "127.0.0.1 - - [t] \"HEAD /v2/p/blobs/sha256:a HTTP/1.1\" 200 99 \"\" \"x\"\n",
            "127.0.0.1 - - [t] \"GET /v2/p/blobs/sha256:a HTTP/1.1\" 206 100 \"\" \"x\"\n",
            "127.0.0.1 - - [t] \"GET /v2/p/blobs/sha256:a HTTP/1.1\" 416 33 \"\" \"x\"\n",
            "127.0.0.1 - - [t] \"GET /v2/p/blobs/sha256:a HTTP/1.1\" 200 11 \"\" \"x\"\n",
            "cut off \"GET /v2/p/blobs/sha256:b"
        );
        let served = parse_log(log);
        assert_eq!(served.len(), 1);
        assert_eq!(served["sha256:a"], Served { requests: 2, bytes: 111 });
    }
}
