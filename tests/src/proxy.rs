//! A TCP connection that can be cut in the middle, while both ends live.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use furlong_wire::capability::{Capability, Endpoint};

/// Stands between a broker and those who come by its own port.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    line: Arc<Mutex<Line>>,
    accepting: Option<JoinHandle<()>>,
}

/// What goes through.
#[derive(Debug, Default)]
struct Line {
    is_cut: bool,
    is_over: bool,
    /// Both sockets of each connection.
    sockets: Vec<TcpStream>,
    /// After how many bytes connections are cut, in turn; none are if this is empty.
    lives_bytes: Vec<i64>,
    /// How many connections there have been.
    made: usize,
}

impl Proxy {
    /// Begins to pass connections on to a port of this machine.
    ///
    /// # Panics
    /// If there is no port for it.
    pub fn start(to: u16) -> Self {
        Self::start_mortal(to, &[])
    }

    /// The same with connections that are cut after so many bytes in both directions together: the first one after the
    /// first number, and so on in turn.
    ///
    /// # Panics
    /// If there is no port for it.
    pub fn start_mortal(to: u16, lives_bytes: &[i64]) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("there is a free port");
        let port = listener.local_addr().expect("a listener has an address").port();
        let line = Arc::new(Mutex::new(Line { lives_bytes: lives_bytes.to_vec(), ..Line::default() }));
        let of_thread = Arc::clone(&line);
        let accepting = std::thread::spawn(move || {
            for from in listener.incoming() {
                let mut line = of_thread.lock().expect("nobody panics with the line");
                if line.is_over {
                    return;
                }
                // An error, or a line that is cut: who came is closed.
                if !line.is_cut {
                    let _ = from.and_then(|from| line.join(from, to));
                }
            }
        });
        Self { port, line, accepting: Some(accepting) }
    }

    /// A capability for the way through the proxy.
    ///
    /// # Panics
    /// If it cannot be made.
    pub fn capability(&self, direct: Capability) -> Capability {
        let endpoint = Endpoint::new("127.0.0.1", self.port).expect("an address and a port are an endpoint");
        direct.at(vec![endpoint]).expect("one endpoint is enough")
    }

    /// Cuts all connections, and lets nobody through.
    pub fn cut(&self) {
        let mut line = self.lock();
        line.is_cut = true;
        line.close();
    }

    /// How many connections there have been.
    pub fn connections_made(&self) -> usize {
        self.lock().made
    }

    /// Lets peers through again.
    pub fn mend(&self) {
        self.lock().is_cut = false;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Line> {
        self.line.lock().expect("nobody panics with the line")
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let mut line = self.lock();
        line.is_over = true;
        line.close();
        drop(line);
        // Whoever comes wakes the thread.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
        self.accepting.take().into_iter().for_each(|thread| _ = thread.join());
    }
}

impl Line {
    fn join(&mut self, from: TcpStream, to: u16) -> io::Result<()> {
        let to = TcpStream::connect((Ipv4Addr::LOCALHOST, to))?;
        let life = self.lives_bytes.get(self.made % self.lives_bytes.len().max(1)).copied().unwrap_or(i64::MAX);
        self.made += 1;
        let left = Arc::new(AtomicI64::new(life));
        for (source, sink) in [(from.try_clone()?, to.try_clone()?), (to.try_clone()?, from.try_clone()?)] {
            source.set_nodelay(true)?;
            let left = Arc::clone(&left);
            std::thread::spawn(move || pass(source, sink, &left));
        }
        self.sockets.extend([from, to]);
        Ok(())
    }

    fn close(&mut self) {
        // An error says that it is closed already.
        self.sockets.drain(..).for_each(|socket| _ = socket.shutdown(Shutdown::Both));
    }
}

/// Passes bytes on in one direction until they end, or as many have gone both ways as the connection lives for: then it
/// is cut in the middle of what goes.
fn pass(mut source: TcpStream, mut sink: TcpStream, left: &AtomicI64) {
    let mut buffer = [0; 16 * 1024];
    loop {
        let Ok(bytes @ 1..) = source.read(&mut buffer) else {
            let _ = sink.shutdown(Shutdown::Write);
            return;
        };
        let before = left.fetch_sub(bytes as i64, Ordering::Relaxed);
        let goes = (bytes as i64).min(before.max(0)) as usize;
        if sink.write_all(&buffer[..goes]).is_err() || goes < bytes {
            // An error says that it is closed already.
            let _ = (source.shutdown(Shutdown::Both), sink.shutdown(Shutdown::Both));
            return;
        }
    }
}
