//! The listeners for peers: a port, or the local pipes beside it.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use furlong_link::dial::prepare_socket;
use furlong_link::local;
use furlong_link::stream::{ReadHalf, WriteHalf, split};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

/// A listening socket.
#[derive(Debug)]
pub(super) enum Entrance {
    /// At a port.
    Port(TcpListener),
    /// For peers on this machine.
    Local(UnixListener),
}

/// An accepted peer, before anything is said.
#[derive(Debug)]
pub(super) enum Arrival {
    Port(TcpStream),
    Local(UnixStream),
}

/// The address of a peer.
#[derive(Clone, Copy, Debug)]
pub(super) enum Address {
    /// Another machine, or this one.
    Network(SocketAddr),
    /// A process of this machine.
    Local { pid: Option<i32> },
}

/// The origin of unauthenticated peers, which share a limit.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Origin {
    /// An address, or a /64 network of IPv6: whoever has one has all of its addresses.
    Network(IpAddr),
    /// This machine, by pipes: the broker's own user.
    Local,
}

/// After each local arrival the next one waits so long. By TCP the system makes whoever comes too
/// fast wait; here the queue fills, and whoever finds it full goes to the port.
const LOCAL_PAUSE: Duration = Duration::from_millis(1);

impl Entrance {
    /// Descriptors that a connection through here takes.
    pub(super) fn descriptors(&self) -> u32 {
        match self {
            Self::Port(_) => 1,
            // Two pipes, and the socket for memory files.
            Self::Local(_) => 3,
        }
    }

    /// Waits for the next one, but for local ones of other users, who go to the port: pipes are
    /// charged to the broker's user, also if that is root.
    pub(super) async fn accept(&self) -> io::Result<(Arrival, Address)> {
        match self {
            Self::Port(listener) => {
                let (socket, address) = listener.accept().await?;
                Ok((Arrival::Port(socket), Address::Network(address)))
            }
            Self::Local(listener) => loop {
                let (socket, _) = listener.accept().await?;
                tokio::time::sleep(LOCAL_PAUSE).await;
                if local::is_same_user(&socket)? {
                    let address = Address::Local { pid: socket.peer_cred()?.pid() };
                    return Ok((Arrival::Local(socket), address));
                }
            },
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
            Self::Local(socket) => local::give_pipes(socket),
        }
    }
}

impl Origin {
    fn of_network(address: IpAddr) -> Self {
        Self::Network(match address.to_canonical() {
            IpAddr::V6(address) => {
                Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into()
            }
            address @ IpAddr::V4(_) => address,
        })
    }
}

impl Address {
    /// Returns the origin under which its unauthenticated peers are counted.
    pub(super) fn origin(&self) -> Origin {
        match self {
            Self::Network(address) => Origin::of_network(address.ip()),
            Self::Local { .. } => Origin::Local,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_of_ipv6_is_one_origin() {
        let origin = |text: &str| Origin::of_network(text.parse().unwrap());
        assert_eq!(origin("2001:db8:1:2:3::4"), origin("2001:db8:1:2:ffff::"));
        assert_ne!(origin("2001:db8:1:2::"), origin("2001:db8:1:3::"));
        assert_eq!(origin("::ffff:10.0.0.1"), origin("10.0.0.1"), "it is an address of IPv4");
        assert_ne!(origin("10.0.0.1"), origin("10.0.0.2"));
    }
}
