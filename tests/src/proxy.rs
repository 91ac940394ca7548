//! A TCP connection that breaks in the middle in the ways that networks do, while both ends live.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use furlong_wire::capability::{Capability, Endpoint};

/// Stands between a broker and those who come by its own port.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

/// One end of a connection.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Side {
    /// The peer that came by the proxy's port.
    Peer,
    /// The broker.
    Broker,
}

#[derive(Debug)]
struct Shared {
    line: Mutex<Line>,
    /// The line is in another state.
    changed: Condvar,
}

/// The connections that go through, and their state.
#[derive(Debug, Default)]
struct Line {
    state: State,
    /// The added delay of bytes, beside their own travel time.
    delay: Duration,
    connections: Vec<Connection>,
    /// After how many bytes connections are cut, in turn; none are if this is empty.
    lives_bytes: Vec<i64>,
    /// The number of connections made so far.
    made: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
enum State {
    /// Bytes pass.
    #[default]
    Open,
    /// Incoming connections are closed.
    Cut,
    /// Bytes wait.
    Held,
    /// Incoming connections are let in, and nothing that they say arrives.
    Swallowing,
    /// The proxy ends.
    Over,
}

/// Two sockets.
#[derive(Debug)]
struct Connection {
    peer: TcpStream,
    broker: TcpStream,
    fate: Arc<Fate>,
}

/// The fate of one connection.
#[derive(Debug)]
struct Fate {
    /// The number of bytes it lives for, in both directions together.
    left_bytes: AtomicI64,
    /// True if nothing of it arrives any longer, not even its end.
    is_lost: AtomicBool,
}

impl Proxy {
    /// Begins to pass connections on to a port of this machine.
    ///
    /// # Panics
    /// If there is no port for it.
    pub fn start(to: u16) -> Self {
        Self::start_mortal(to, &[])
    }

    /// The same with connections that are cut after so many bytes in both directions together: the
    /// first one after the first number, and so on in turn.
    ///
    /// # Panics
    /// If there is no port for it.
    pub fn start_mortal(to: u16, lives_bytes: &[i64]) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("there is a free port");
        let port = listener.local_addr().expect("a listener has an address").port();
        let line = Mutex::new(Line { lives_bytes: lives_bytes.to_vec(), ..Line::default() });
        let shared = Arc::new(Shared { line, changed: Condvar::new() });
        let of_thread = Arc::clone(&shared);
        let accepting = std::thread::spawn(move || {
            for from in listener.incoming() {
                let mut line = of_thread.lock();
                match line.state {
                    State::Over => return,
                    // Who came is closed.
                    State::Cut => {}
                    // An error closes him as well.
                    _ => _ = from.and_then(|from| line.join(from, to, &of_thread)),
                }
            }
        });
        Self { port, shared, accepting: Some(accepting) }
    }

    /// A capability for the way through the proxy.
    ///
    /// # Panics
    /// If it cannot be made.
    pub fn capability(&self, direct: Capability) -> Capability {
        let endpoint =
            Endpoint::new("127.0.0.1", self.port).expect("an address and a port are an endpoint");
        direct.at(vec![endpoint]).expect("one endpoint is enough")
    }

    /// Cuts all connections, and lets nobody through.
    pub fn cut(&self) {
        let mut line = self.shared.lock();
        self.shared.set(&mut line, State::Cut);
        line.close();
    }

    /// Keeps what comes, until [`Proxy::mend`]: both ends see silence, and then all of it.
    pub fn hold(&self) {
        self.shared.set(&mut self.shared.lock(), State::Held);
    }

    /// Swallows what comes, and keeps all connections open. After [`Proxy::mend`] new connections
    /// pass, and the old ones stay dead: their ends are not told.
    pub fn swallow(&self) {
        let mut line = self.shared.lock();
        line.connections
            .iter()
            .for_each(|connection| connection.fate.is_lost.store(true, Ordering::Relaxed));
        self.shared.set(&mut line, State::Swallowing);
    }

    /// Closes all connections at one end. The other end is not told, and what it says is swallowed.
    pub fn half_open(&self, closed: Side) {
        for connection in self.shared.lock().connections.drain(..) {
            connection.fate.is_lost.store(true, Ordering::Relaxed);
            let socket = if closed == Side::Peer { &connection.peer } else { &connection.broker };
            // An error says that it is closed already.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    /// Cuts all connections when so many bytes more have passed, most often in the middle of a
    /// record.
    pub fn cut_after(&self, bytes: u32) {
        let line = self.shared.lock();
        line.connections.iter().for_each(|connection| {
            connection.fate.left_bytes.store(i64::from(bytes), Ordering::Relaxed);
        });
    }

    /// Lets what comes wait for so long, 16 KiB at a time: a slow line.
    pub fn delay(&self, delay: Duration) {
        self.shared.lock().delay = delay;
    }

    /// The number of connections made so far.
    pub fn connections_made(&self) -> usize {
        self.shared.lock().made
    }

    /// Lets peers through again, and without delay.
    pub fn mend(&self) {
        let mut line = self.shared.lock();
        line.delay = Duration::ZERO;
        self.shared.set(&mut line, State::Open);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let mut line = self.shared.lock();
        self.shared.set(&mut line, State::Over);
        line.close();
        drop(line);
        // Whoever comes wakes the thread.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
        if let Some(thread) = self.accepting.take() {
            drop(thread.join());
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Line> {
        self.line.lock().expect("nobody panics with the line")
    }

    fn set(&self, line: &mut Line, state: State) {
        line.state = state;
        self.changed.notify_all();
    }

    /// Waits as long as bytes wait.
    fn wait(&self) {
        let delay = self.lock().delay;
        if !delay.is_zero() {
            std::thread::sleep(delay);
        }
        let waits = self.changed.wait_while(self.lock(), |line| line.state == State::Held);
        drop(waits.expect("nobody panics with the line"));
    }
}

impl Line {
    fn join(&mut self, peer: TcpStream, to: u16, shared: &Arc<Shared>) -> io::Result<()> {
        let broker = TcpStream::connect((Ipv4Addr::LOCALHOST, to))?;
        let life = self
            .lives_bytes
            .get(self.made % self.lives_bytes.len().max(1))
            .copied()
            .unwrap_or(i64::MAX);
        self.made += 1;
        let is_lost = AtomicBool::new(self.state == State::Swallowing);
        let fate = Arc::new(Fate { left_bytes: AtomicI64::new(life), is_lost });
        for (source, sink) in
            [(peer.try_clone()?, broker.try_clone()?), (broker.try_clone()?, peer.try_clone()?)]
        {
            source.set_nodelay(true)?;
            let (fate, shared) = (Arc::clone(&fate), Arc::clone(shared));
            std::thread::spawn(move || pass(source, sink, &fate, &shared));
        }
        self.connections.push(Connection { peer, broker, fate });
        Ok(())
    }

    fn close(&mut self) {
        for Connection { peer, broker, .. } in self.connections.drain(..) {
            // An error says that it is closed already.
            let _ = (peer.shutdown(Shutdown::Both), broker.shutdown(Shutdown::Both));
        }
    }
}

/// Passes bytes on in one direction until they end, or as many have gone both ways as the
/// connection lives for: then it is cut in the middle of what goes.
fn pass(mut source: TcpStream, mut sink: TcpStream, fate: &Fate, shared: &Shared) {
    let mut buffer = [0; 16 * 1024];
    loop {
        let read = source.read(&mut buffer);
        shared.wait();
        if fate.is_lost.load(Ordering::Relaxed) {
            match read {
                Ok(1..) => continue,
                _ => return,
            }
        }
        let Ok(bytes @ 1..) = read else {
            let _ = sink.shutdown(Shutdown::Write);
            return;
        };
        let before = fate.left_bytes.fetch_sub(bytes as i64, Ordering::Relaxed);
        let goes = (bytes as i64).min(before.max(0)) as usize;
        if sink.write_all(&buffer[..goes]).is_err() || goes < bytes {
            // An error says that it is closed already.
            let _ = (source.shutdown(Shutdown::Both), sink.shutdown(Shutdown::Both));
            return;
        }
    }
}
