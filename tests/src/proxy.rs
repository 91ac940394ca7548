//! A relay of bytes in front of a broker, which cuts connections.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Relays TCP connections to a port of this machine until it is dropped.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// How many bytes a connection lives for, one connection after the other.
    lives_bytes: Vec<i64>,
    /// Both ends of what is relayed now.
    pairs: Mutex<Vec<[TcpStream; 2]>>,
    made: AtomicUsize,
}

impl Proxy {
    /// Starts a relay to a port. Each connection is cut after so many bytes in both directions together, the first one
    /// after the first number, and so on in turn.
    ///
    /// # Panics
    /// If it can have no port of its own.
    pub fn start(to: u16, lives_bytes: &[i64]) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
        let port = listener.local_addr().expect("a bound socket has an address").port();
        let shared = Arc::new(Shared { lives_bytes: lives_bytes.to_vec(), ..Shared::default() });
        let of_thread = Arc::downgrade(&shared);
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let Some(shared) = of_thread.upgrade() else { return };
                // A broker that is away: the peer sees its connection end.
                if let Ok(far) = TcpStream::connect((Ipv4Addr::LOCALHOST, to)) {
                    shared.relay(near, far);
                }
            }
        });
        Self { port, shared }
    }

    /// Where it listens, on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// How many connections were made through it.
    pub fn connections_made(&self) -> usize {
        self.shared.made.load(Ordering::Relaxed)
    }

    /// Cuts every connection. What was on its way through here is lost.
    pub fn cut(&self) {
        self.shared.cut();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.cut();
        let Self { port, shared } = self;
        *shared = Arc::default();
        // Wakes the listener, which finds that nobody needs it.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, *port));
    }
}

impl Shared {
    fn cut(&self) {
        for stream in self.pairs.lock().unwrap_or_else(PoisonError::into_inner).drain(..).flatten() {
            // An error says that it is closed already.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn relay(&self, near: TcpStream, far: TcpStream) {
        let clones = || Some([near.try_clone().ok()?, far.try_clone().ok()?]);
        let (Some(kept), Some([near_out, far_out])) = (clones(), clones()) else { return };
        self.pairs.lock().unwrap_or_else(PoisonError::into_inner).push(kept);
        let made = self.made.fetch_add(1, Ordering::Relaxed);
        let life = Arc::new(AtomicI64::new(self.lives_bytes[made % self.lives_bytes.len()]));
        let of_answers = life.clone();
        let _ = (near.set_nodelay(true), far.set_nodelay(true));
        std::thread::spawn(move || copy(near, far_out, &life));
        std::thread::spawn(move || copy(far, near_out, &of_answers));
    }
}

/// Copies until one side is closed, or until the connection has lived long enough, and then closes both.
fn copy(mut from: TcpStream, mut to: TcpStream, life_bytes: &AtomicI64) {
    let mut bytes = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from.read(&mut bytes) {
        let left = life_bytes.fetch_sub(read as i64, Ordering::Relaxed);
        let relayed = read.min(usize::try_from(left).unwrap_or(0));
        if to.write_all(&bytes[..relayed]).is_err() || relayed < read {
            break;
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}
