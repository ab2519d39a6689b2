//! Stands between a client and a registry, and loses patience with long answers.
use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread,
};

use anyhow::Result;

/// What becomes of an answer that is too long.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing more comes.
    Stall,
    /// The connection breaks.
    Cut,
}

/// A relay that forwards until one connection brought `limit` bytes.
pub(crate) struct Relay {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    registry: String,
    limit: usize,
    fault: Fault,
    faults: AtomicU32,
    ended: AtomicBool,
    connections: Mutex<Vec<TcpStream>>,
}

impl Relay {
    pub(crate) fn start(registry: &str, limit: usize, fault: Fault) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            registry: registry.to_owned(),
            limit,
            fault,
            faults: AtomicU32::new(0),
            ended: AtomicBool::new(false),
            connections: Mutex::default(),
        });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if accepting.ended.load(Ordering::SeqCst) {
                    return;
                }
                let shared = Arc::clone(&accepting);
                // A connection that breaks ends its own thread.
                thread::spawn(move || shared.serve(client).ok());
            }
        });
        Ok(Self { address, shared })
    }

    pub(crate) fn host(&self) -> String {
        self.address.to_string()
    }

    /// Answers that were cut or stalled.
    pub(crate) fn faults(&self) -> u32 {
        self.shared.faults.load(Ordering::SeqCst)
    }
}

impl Shared {
    fn serve(&self, client: TcpStream) -> Result<()> {
        let registry = TcpStream::connect(&self.registry)?;
        let mut open = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        open.extend([client.try_clone()?, registry.try_clone()?]);
        drop(open);
        let (mut up, mut down) = (client.try_clone()?, registry.try_clone()?);
        thread::spawn(move || {
            let _ = std::io::copy(&mut up, &mut down);
            let _ = down.shutdown(Shutdown::Write);
        });
        self.answer(registry, client)
    }

    fn answer(&self, mut registry: TcpStream, mut client: TcpStream) -> Result<()> {
        let mut buffer = vec![0; 16 << 10];
        let mut sent = 0;
        loop {
            let read = registry.read(&mut buffer)?;
            if read == 0 {
                client.shutdown(Shutdown::Write)?;
                return Ok(());
            }
            let rest = read.min(self.limit - sent);
            client.write_all(&buffer[..rest])?;
            sent += rest;
            if sent == self.limit {
                self.faults.fetch_add(1, Ordering::SeqCst);
                if self.fault == Fault::Cut {
                    client.shutdown(Shutdown::Both)?;
                    registry.shutdown(Shutdown::Both)?;
                }
                return Ok(());
            }
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.address);
        let open = self.shared.connections.lock().unwrap_or_else(PoisonError::into_inner);
        for connection in open.iter() {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }
}
