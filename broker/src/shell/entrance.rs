//! Where peers come in: a port, or the pipes beside it.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use furlong_link::dial::prepare_socket;
use furlong_link::local;
use furlong_link::stream::{ReadHalf, WriteHalf, split};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

/// What listens.
#[derive(Debug)]
pub(super) enum Entrance {
    /// At a port.
    Port(TcpListener),
    /// For peers on this machine.
    Local(UnixListener),
}

/// Who has come, before anything is said.
#[derive(Debug)]
pub(super) enum Arrival {
    Port(TcpStream),
    Local(UnixStream),
}

/// Where a peer comes from.
#[derive(Clone, Copy, Debug)]
pub(super) enum Address {
    /// Another machine, or this one.
    Network(SocketAddr),
    /// A process of this machine.
    Local { pid: Option<i32> },
}

impl Entrance {
    /// Descriptors that a connection through here takes.
    pub(super) fn descriptors(&self) -> u32 {
        match self {
            Self::Port(_) => 1,
            Self::Local(_) => 2,
        }
    }

    /// Waits for the next one.
    pub(super) async fn accept(&self) -> io::Result<(Arrival, Address)> {
        match self {
            Self::Port(listener) => {
                let (socket, address) = listener.accept().await?;
                Ok((Arrival::Port(socket), Address::Network(address)))
            }
            Self::Local(listener) => {
                let (socket, _) = listener.accept().await?;
                let pid = socket.peer_cred().ok().and_then(|peer| peer.pid());
                Ok((Arrival::Local(socket), Address::Local { pid }))
            }
        }
    }
}

impl Arrival {
    /// Makes a connection of it.
    pub(super) fn open(self) -> io::Result<(ReadHalf, WriteHalf)> {
        match self {
            Self::Port(socket) => {
                prepare_socket(&socket)?;
                Ok(split(socket))
            }
            Self::Local(socket) => local::give_pipes(&socket),
        }
    }
}

impl Address {
    /// Those with the same one share what strangers of one address may have.
    pub(super) fn ip(&self) -> IpAddr {
        match self {
            Self::Network(address) => address.ip(),
            Self::Local { .. } => Ipv4Addr::LOCALHOST.into(),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network(address) => address.fmt(f),
            Self::Local { pid: Some(pid) } => write!(f, "local process {pid}"),
            Self::Local { pid: None } => f.write_str("a local process"),
        }
    }
}
