//! The way to a broker on the same machine: a pipe for each direction.
//!
//! A small message costs about half of what it costs by TCP over loopback, and wakes nobody but who
//! reads it. The broker listens at an abstract Unix socket whose name says the cluster and the
//! port; who connects is given the ends of two fresh pipes. What goes through the pipes is the same
//! as by TCP, from the first byte of the handshake on. The socket stays beside them: large payloads
//! are passed over it as memory files ([`crate::pass`]), once the peer has said that it takes them.
//! Whatever keeps a peer from coming in here, it goes to the port instead.
//!
//! The name is in the network namespace, as loopback is: containers do not see each other's, and it
//! needs no file that could be left over. Anybody may take a name, and the kernel charges a pipe to
//! the user who made it. So a peer and a broker of different users pass each other by, whoever they
//! are.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use furlong_wire::ids::ClusterId;
use rustix::fs::{FileType, Mode, OFlags, fstat, open};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, recvmsg, sendmsg,
    socket_with,
};
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::io::Interest;
use tokio::net::unix::pipe;
use tokio::net::{UnixListener, UnixStream};

use crate::pass::{FilePasser, TAKES_FILES};
use crate::stream::{ReadHalf, WriteHalf, WritePipe};

/// Peers that may stand in line. A short one: who finds it full goes to the port at once, and
/// nobody stands long behind those who only come to fill it.
const QUEUE: i32 = 128;

/// Listens for peers of a cluster's broker, beside its port.
///
/// # Errors
/// The system's: above all, that somebody else has the name.
pub fn bind(cluster: &ClusterId, port: u16) -> io::Result<UnixListener> {
    let listener = socket()?;
    rustix::net::bind(
        &listener,
        &SocketAddrUnix::new_abstract_name(name(cluster, port).as_bytes())?,
    )?;
    rustix::net::listen(&listener, QUEUE)?;
    UnixListener::from_std(listener.into())
}

/// Gives an accepted peer the ends of two pipes, and keeps the others.
///
/// # Errors
/// The system's: the peer has left, or descriptors are used up.
pub fn give_pipes(socket: UnixStream) -> io::Result<(ReadHalf, WriteHalf)> {
    let flags = PipeFlags::CLOEXEC | PipeFlags::NONBLOCK;
    let (their_read, our_write) = pipe_with(flags)?;
    let (our_read, their_write) = pipe_with(flags)?;
    let files = [their_read.as_fd(), their_write.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&files));
    // Not by tokio: nobody waits for this socket.
    let socket = OwnedFd::from(socket.into_std()?);
    sendmsg(
        &socket,
        &[IoSlice::new(&[TAKES_FILES])],
        &mut control,
        SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
    )?;
    halves(our_read, our_write, FilePasser::new(socket, false))
}

/// Connects to the broker of a cluster, if it is on this machine and gives out pipes beside that
/// port.
///
/// # Errors
/// The reason that it failed; there is still the port.
pub async fn connect(cluster: &ClusterId, port: u16) -> io::Result<(ReadHalf, WriteHalf)> {
    if is_ended_by_sigpipe() {
        return Err(io::Error::other("a pipe whose other end is gone would end this process"));
    }
    // Not a moment is waited for a place in somebody's queue.
    let socket = socket()?;
    rustix::net::connect(
        &socket,
        &SocketAddrUnix::new_abstract_name(name(cluster, port).as_bytes())?,
    )?;
    let socket = UnixStream::from_std(socket.into())?;
    if !is_same_user(&socket)? {
        return Err(io::Error::other("another user listens there"));
    }
    let (said, [read, write]) =
        socket.async_io(Interest::READABLE, || receive_files(&socket)).await?;
    let socket = OwnedFd::from(socket.into_std()?);
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    // A broker that has left meanwhile is found out by the pipes.
    let takes_files =
        said == TAKES_FILES && rustix::net::send(&socket, &[TAKES_FILES], flags).is_ok();
    let files =
        if takes_files { FilePasser::new(socket, true) } else { FilePasser::closed(socket) };
    halves(own(&read, OFlags::RDONLY)?, own(&write, OFlags::WRONLY)?, files)
}

/// Returns true if the other end of a socket has the user of this process.
///
/// # Errors
/// The system's.
pub fn is_same_user(socket: &UnixStream) -> io::Result<bool> {
    let user = socket.peer_cred()?.uid();
    Ok(user == rustix::process::geteuid().as_raw() && user != UNKNOWN_USER)
}

/// Opens the end of a pipe anew. That it does not block is said of an open file, which whoever has
/// sent it shares: they could say otherwise, and a read would hold this process for ever.
fn own(end: &OwnedFd, direction: OFlags) -> io::Result<OwnedFd> {
    if FileType::from_raw_mode(fstat(end)?.st_mode) != FileType::Fifo {
        return Err(io::Error::other("what came is no pipe"));
    }
    let path = format!("/proc/self/fd/{}", end.as_raw_fd());
    Ok(open(path, direction | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?)
}

fn socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?)
}

fn halves(read: OwnedFd, write: OwnedFd, files: FilePasser) -> io::Result<(ReadHalf, WriteHalf)> {
    let (read, write) = (pipe::Receiver::from_owned_fd(read)?, pipe::Sender::from_owned_fd(write)?);
    Ok((ReadHalf::Pipe(read), WriteHalf::Pipe(WritePipe::new(write, files))))
}

/// Returns true if this process has reset SIGPIPE to its default, as scripts do for the sake of `|
/// head`: a socket can be written to without it, a pipe cannot. By `proc_pid_status(5)`.
fn is_ended_by_sigpipe() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let has = |line: &str| {
        let mask = status.lines().find_map(|text| text.strip_prefix(line)).map(str::trim);
        mask.and_then(|mask| u64::from_str_radix(mask, 16).ok())
            .is_some_and(|mask| mask & SIGPIPE_BIT != 0)
    };
    !status.is_empty() && !has("SigIgn:") && !has("SigCgt:")
}

/// In the masks of `/proc/self/status`: signal 13.
const SIGPIPE_BIT: u64 = 1 << 12;
/// The kernel's number for a user who has no number in this user namespace.
const UNKNOWN_USER: u32 = 65534;

/// The byte that comes with the pipes, and the pipes.
fn receive_files(socket: &UnixStream) -> io::Result<(u8, [OwnedFd; 2])> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut byte)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT,
    )?;
    let files: Vec<OwnedFd> = control
        .drain()
        .filter_map(|message| {
            if let RecvAncillaryMessage::ScmRights(files) = message { Some(files) } else { None }
        })
        .flatten()
        .collect();
    let pipes = files.try_into().map_err(|_| io::Error::other("no pipes came"))?;
    Ok((byte[0], pipes))
}

fn name(cluster: &ClusterId, port: u16) -> String {
    format!("furlong/{cluster}/{port}")
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// A cluster of this test alone.
    fn cluster() -> ClusterId {
        ClusterId(crate::dial::random_bytes())
    }

    #[tokio::test]
    async fn both_sides_get_pipes_to_each_other_and_hear_when_the_other_leaves() {
        let cluster = cluster();
        let listener = bind(&cluster, 7).unwrap();
        assert!(connect(&cluster, 8).await.is_err(), "another port");
        let give = async { give_pipes(listener.accept().await.unwrap().0).unwrap() };
        let ((mut broker_read, mut broker_write), peer) = tokio::join!(give, connect(&cluster, 7));
        let (mut peer_read, mut peer_write) = peer.unwrap();
        peer_write.write_all(b"question").await.unwrap();
        broker_write.write_all(b"the answer").await.unwrap();
        let (mut question, mut answer) = ([0; 8], [0; 10]);
        broker_read.read_exact(&mut question).await.unwrap();
        peer_read.read_exact(&mut answer).await.unwrap();
        assert_eq!((&question, &answer), (b"question", b"the answer"));
        drop((broker_read, broker_write));
        assert_eq!(peer_read.read(&mut answer).await.unwrap(), 0);
        assert_eq!(peer_write.try_write(b"more").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[tokio::test]
    async fn a_name_that_is_taken_cannot_be_bound_and_who_gives_no_pipes_is_an_error() {
        let cluster = cluster();
        let listener = bind(&cluster, 7).unwrap();
        assert_eq!(bind(&cluster, 7).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        let leave = async { drop(listener.accept().await) };
        let ((), peer) = tokio::join!(leave, connect(&cluster, 7));
        assert_eq!(peer.unwrap_err().to_string(), "no pipes came");
    }

    #[tokio::test]
    async fn who_has_given_the_pipes_cannot_make_them_block() {
        let cluster = cluster();
        let listener = bind(&cluster, 7).unwrap();
        let flags = PipeFlags::CLOEXEC | PipeFlags::NONBLOCK;
        let (read, write) = (pipe_with(flags).unwrap(), pipe_with(flags).unwrap());
        let give = async {
            let socket = listener.accept().await.unwrap().0;
            let files = [read.0.as_fd(), write.1.as_fd()];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            control.push(SendAncillaryMessage::ScmRights(&files));
            sendmsg(&socket, &[IoSlice::new(&[0])], &mut control, SendFlags::empty()).unwrap();
        };
        let ((), peer) = tokio::join!(give, connect(&cluster, 7));
        let (ReadHalf::Pipe(peer_read), WriteHalf::Pipe(_)) = peer.unwrap() else {
            panic!("these are pipes")
        };
        rustix::fs::fcntl_setfl(&read.0, OFlags::empty()).unwrap();
        assert!(rustix::fs::fcntl_getfl(&peer_read).unwrap().contains(OFlags::NONBLOCK));
        assert_eq!(peer_read.try_read(&mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    #[tokio::test]
    async fn a_pipe_that_is_full_becomes_wide_and_says_so() {
        let cluster = cluster();
        let listener = bind(&cluster, 7).unwrap();
        let give = async { give_pipes(listener.accept().await.unwrap().0).unwrap() };
        let ((mut read, _), peer) = tokio::join!(give, connect(&cluster, 7));
        let write = peer.unwrap().1;
        let bytes = vec![1; 1 << 20];
        let mut taken = 0;
        while taken < 512 * 1024 {
            write.writable().await.unwrap();
            taken += write.try_write(&bytes[taken..]).unwrap_or(0);
        }
        assert_eq!(write.try_write(&bytes).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let mut back = vec![0; taken];
        read.read_exact(&mut back).await.unwrap();
        write.writable().await.unwrap();
        assert!(write.try_write(&bytes).is_ok());
    }

    #[tokio::test]
    async fn a_queue_that_is_full_is_not_waited_for() {
        let cluster = cluster();
        let (listener, first) = (socket().unwrap(), socket().unwrap());
        let address = SocketAddrUnix::new_abstract_name(name(&cluster, 7).as_bytes()).unwrap();
        rustix::net::bind(&listener, &address).unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        rustix::net::connect(&first, &address).unwrap();
        assert_eq!(connect(&cluster, 7).await.unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
}
