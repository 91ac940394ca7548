//! A TCP connection that can be cut in the middle, while both ends live.

use std::io;
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
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
}

impl Proxy {
    /// Begins to pass connections on to a port of this machine.
    ///
    /// # Panics
    /// If there is no port for it.
    pub fn start(to: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("there is a free port");
        let port = listener.local_addr().expect("a listener has an address").port();
        let line = Arc::<Mutex<Line>>::default();
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
        for (source, sink) in [(from.try_clone()?, to.try_clone()?), (to.try_clone()?, from.try_clone()?)] {
            source.set_nodelay(true)?;
            std::thread::spawn(move || pass(source, sink));
        }
        self.sockets.extend([from, to]);
        Ok(())
    }

    fn close(&mut self) {
        // An error says that it is closed already.
        self.sockets.drain(..).for_each(|socket| _ = socket.shutdown(Shutdown::Both));
    }
}

/// Passes bytes on in one direction, and the end of them.
fn pass(mut source: TcpStream, mut sink: TcpStream) {
    let _ = io::copy(&mut source, &mut sink);
    let _ = sink.shutdown(Shutdown::Both);
}
