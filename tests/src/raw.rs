//! A bare TCP connection, for bytes that no honest peer sends.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpStream};
use std::time::{Duration, Instant};

use bytes::{BufMut, BytesMut};
use furlong_wire::zmtp::{Connection, Event, Message, Role, put_frame_header};
use rustix::net::{AddressFamily, SocketType, bind, connect, socket};

/// A TCP connection to a broker. Reading and writing block, with deadlines; a connection that the
/// other side closes is no error here, since that is what the tests want to see.
#[derive(Debug)]
pub struct RawPeer {
    stream: TcpStream,
    input: BytesMut,
    zmtp: Connection,
    patience: Duration,
}

/// The greeting of an honest peer: ZMTP 3.1, NULL, not as-server.
pub fn greeting() -> [u8; 64] {
    let mut greeting = [0; 64];
    (greeting[0], greeting[9], greeting[10], greeting[11]) = (0xFF, 0x7F, 3, 1);
    greeting[12..16].copy_from_slice(b"NULL");
    greeting
}

/// A command frame: its name and its data, with the header that its length asks for.
pub fn command(name: &[u8], data: &[u8]) -> Vec<u8> {
    let body = [&[name.len() as u8], name, data].concat();
    let mut frame = match u8::try_from(body.len()) {
        Ok(short) => vec![0x04, short],
        Err(_) => [&[0x06], &(body.len() as u64).to_be_bytes()[..]].concat(),
    };
    frame.extend_from_slice(&body);
    frame
}

/// A property of READY.
pub fn property(name: &[u8], value: &[u8]) -> Vec<u8> {
    [&[name.len() as u8], name, &(value.len() as u32).to_be_bytes(), value].concat()
}

/// The READY of an honest peer.
pub fn ready() -> Vec<u8> {
    command(b"READY", &property(b"Socket-Type", b"DEALER"))
}

/// One message of these frames.
pub fn message(frames: &[&[u8]]) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    for (index, frame) in frames.iter().enumerate() {
        put_frame_header(&mut bytes, frame.len(), index + 1 < frames.len());
        bytes.put_slice(frame);
    }
    bytes.to_vec()
}

/// The header of a long frame with these flags, which declares so many bytes.
pub fn long_header(flags: u8, declared: u64) -> [u8; 9] {
    let mut header = [flags; 9];
    header[1..].copy_from_slice(&declared.to_be_bytes());
    header
}

impl RawPeer {
    /// Connects, and sends nothing.
    ///
    /// # Panics
    /// If nobody listens.
    pub fn connect(port: u16) -> Self {
        Self::new(TcpStream::connect(("127.0.0.1", port)).expect("the broker listens"))
    }

    /// Connects from another address of this machine than honest peers have, and sends nothing.
    ///
    /// # Panics
    /// If nobody listens.
    pub fn connect_from_elsewhere(port: u16) -> Self {
        let socket =
            socket(AddressFamily::INET, SocketType::STREAM, None).expect("there can be a socket");
        bind(&socket, &SocketAddrV4::new(ELSEWHERE, 0))
            .expect("all of 127.0.0.0/8 is this machine's");
        connect(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))
            .expect("the broker listens");
        Self::new(TcpStream::from(socket))
    }

    fn new(stream: TcpStream) -> Self {
        stream.set_nodelay(true).expect("a TCP socket can be told not to wait");
        stream.set_write_timeout(Some(WRITE)).expect("the time is not zero");
        Self { stream, input: BytesMut::new(), zmtp: Connection::new(Role::Peer), patience: ANSWER }
    }

    /// Connects, and exchanges greeting and READY.
    ///
    /// # Errors
    /// If the broker closes the connection.
    pub fn connect_ready(port: u16) -> Result<Self, Closed> {
        let mut peer = Self::connect(port);
        peer.send(&[&greeting()[..], &ready()].concat());
        peer.receive_ready().map(|()| peer)
    }

    /// Waits for the broker's greeting and READY.
    ///
    /// # Errors
    /// If the broker closes the connection, or sends none in ten seconds.
    pub fn receive_ready(&mut self) -> Result<(), Closed> {
        match self.event(self.patience)? {
            Event::Ready => Ok(()),
            Event::Message(_) => Err(Closed),
        }
    }

    /// Sends bytes. False if they were not all taken: the connection is closed, or the broker does
    /// not read.
    pub fn send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    /// The next message.
    ///
    /// # Errors
    /// If the broker closes the connection, or sends none in ten seconds.
    pub fn receive(&mut self) -> Result<Message, Closed> {
        match self.event(self.patience)? {
            Event::Message(message) => Ok(message),
            Event::Ready => Err(Closed),
        }
    }

    /// Reads, and drops what comes, until the broker closes the connection. False if it does not
    /// before the deadline.
    pub fn is_closed_within(&mut self, deadline: Duration) -> bool {
        let end = Instant::now() + deadline;
        loop {
            match self.read(end) {
                Progress::Bytes => self.input.clear(),
                Progress::End => return true,
                Progress::Deadline => return false,
            }
        }
    }

    /// Waits no longer than this, neither for the broker to read nor for a message of it.
    ///
    /// # Panics
    /// If the time is zero.
    pub fn give_up_after(&mut self, patience: Duration) {
        self.stream.set_write_timeout(Some(patience)).expect("the time is not zero");
        self.patience = patience;
    }

    /// Says that no more will be sent, and still reads.
    pub fn shut_down_write(&self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// The limits of a proved peer, in this side's reading.
    pub fn peer_proved(&mut self) {
        self.zmtp.peer_proved();
    }

    fn event(&mut self, deadline: Duration) -> Result<Event, Closed> {
        let end = Instant::now() + deadline;
        loop {
            if let Some(event) = self.zmtp.handle_input(&mut self.input).map_err(|_| Closed)? {
                return Ok(event);
            }
            // The codec's own greeting and READY are not sent: the test has sent some.
            let _ = self.zmtp.poll_output();
            match self.read(end) {
                Progress::Bytes => {}
                Progress::End | Progress::Deadline => return Err(Closed),
            }
        }
    }

    fn read(&mut self, end: Instant) -> Progress {
        let mut bytes = [0; 16 * 1024];
        let left = end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        self.stream.set_read_timeout(Some(left)).expect("the time is not zero");
        match self.stream.read(&mut bytes) {
            Ok(0) => Progress::End,
            Ok(count) => {
                self.input.extend_from_slice(&bytes[..count]);
                Progress::Bytes
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                Progress::Deadline
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => Progress::Bytes,
            Err(_) => Progress::End,
        }
    }
}

/// The broker closed the connection, or gave no answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Closed;

enum Progress {
    Bytes,
    End,
    Deadline,
}

const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const WRITE: Duration = Duration::from_secs(20);
const ANSWER: Duration = Duration::from_secs(10);
