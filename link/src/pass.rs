//! The way for memory files between two processes of one machine: a socket beside the connection.
//!
//! A file goes before the record that names it. So whoever reads the record finds the file, and
//! waits for nothing; and whoever finds the socket full sends the payload's chunks instead.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use furlong_wire::message::Passed;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use crate::file::{FILE_BYTES_MIN, FileId, PayloadFile, UnsoundFile};
use crate::peer::outbox::Chunks;

/// The byte by which each side says that it takes files.
pub(crate) const TAKES_FILES: u8 = 1;

/// One end of the way.
#[derive(Debug)]
pub struct FilePasser {
    socket: OwnedFd,
    /// True once the other side has said that it takes files.
    is_welcome: AtomicBool,
    /// True once nothing goes any more.
    is_closed: AtomicBool,
}

/// The reason that a file which a record names is not here.
#[derive(Debug, thiserror::Error)]
pub enum NotPassed {
    /// None has come, or none with this number.
    #[error("a record names a memory file that has not come")]
    Missing,
    /// It is not the one that the record names.
    #[error("a memory file is not the one that the record names")]
    Other,
    /// It is not what it must be.
    #[error("a memory file is unsound: {0}")]
    Unsound(#[from] UnsoundFile),
}

impl FilePasser {
    /// Takes a socket whose other side has said that it takes files, or is still to say so.
    pub fn new(socket: OwnedFd, is_welcome: bool) -> Self {
        Self { socket, is_welcome: AtomicBool::new(is_welcome), is_closed: AtomicBool::new(false) }
    }

    /// Takes a socket whose other side takes no files.
    pub(crate) fn closed(socket: OwnedFd) -> Self {
        Self { socket, is_welcome: AtomicBool::new(false), is_closed: AtomicBool::new(true) }
    }

    /// Returns true if the other side takes files, as far as is known.
    pub fn is_open(&self) -> bool {
        !self.is_closed.load(Ordering::Relaxed) && self.is_welcome()
    }

    fn is_welcome(&self) -> bool {
        if !self.is_welcome.load(Ordering::Relaxed) {
            let mut byte = [0];
            let said = rustix::net::recv(&self.socket, &mut byte, RecvFlags::DONTWAIT);
            match said {
                Ok((1, _)) if byte == [TAKES_FILES] => {
                    self.is_welcome.store(true, Ordering::Relaxed);
                }
                Err(error) if io::Error::from(error).kind() == io::ErrorKind::WouldBlock => {}
                // It is gone, or says something else: a peer that only wants its pipes.
                _ => self.is_closed.store(true, Ordering::Relaxed),
            }
        }
        self.is_welcome.load(Ordering::Relaxed)
    }

    /// Passes a payload in a memory file, if the other side takes files and the payload is worth
    /// one. Says in which; none if its chunks must be sent.
    pub fn pass(&self, transfer: u64, chunks: &Chunks) -> Option<FileId> {
        if !self.is_open() {
            return None;
        }
        let file = match chunks {
            Chunks::Filed(filed) => filed.file()?.clone(),
            Chunks::Sealed(payload) if payload.bytes() >= FILE_BYTES_MIN => {
                // Without memory or a descriptor for it, it goes as it would to another machine.
                PayloadFile::write(payload).ok()??
            }
            Chunks::Sealed(_) | Chunks::Stored(_) => return None,
        };
        self.send(transfer, file.descriptor()).then(|| file.id())
    }

    /// Passes a file under a number. False if it must be sent in another way: the socket
    /// is full, or the system allows no more descriptors on their way.
    pub fn send(&self, number: u64, file: BorrowedFd<'_>) -> bool {
        let number = number.to_le_bytes();
        let files = [file];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&files));
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        match sendmsg(&self.socket, &[IoSlice::new(&number)], &mut control, flags) {
            Ok(sent) if sent == number.len() => true,
            Err(error)
                if [rustix::io::Errno::AGAIN, rustix::io::Errno::TOOMANYREFS].contains(&error) =>
            {
                false
            }
            _ => {
                self.is_closed.store(true, Ordering::Relaxed);
                false
            }
        }
    }

    /// Takes the next file and the number under which it was passed. Nothing is waited for, and
    /// nothing is known of the file.
    ///
    /// # Errors
    /// The system's, and what is no such pair.
    pub fn receive_any(&self) -> io::Result<(u64, OwnedFd)> {
        receive(&self.socket)
    }

    /// Takes the file that a record has named. Nothing is waited for.
    ///
    /// # Errors
    /// [`NotPassed`]: the connection is to be closed.
    pub fn receive(&self, passed: &Passed) -> Result<PayloadFile, NotPassed> {
        if !self.is_welcome() {
            return Err(NotPassed::Missing);
        }
        let (number, file) = receive(&self.socket).map_err(|_| NotPassed::Missing)?;
        if number != passed.transfer {
            return Err(NotPassed::Missing);
        }
        let file = PayloadFile::adopt(file)?;
        let said = FileId { device: passed.device, inode: passed.inode };
        if file.id() == said { Ok(file) } else { Err(NotPassed::Other) }
    }
}

/// Takes the next number and its file, if they are here.
///
/// # Errors
/// The system's, and what is no such pair.
fn receive(socket: impl AsFd) -> io::Result<(u64, OwnedFd)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut number = [0; 8];
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let mut slices = [IoSliceMut::new(&mut number)];
    let received = recvmsg(socket, &mut slices, &mut control, flags)?.bytes;
    let file = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut files) => files.next(),
        _ => None,
    });
    let no_pair = || io::Error::other("what came is no number with a file");
    let file = file.filter(|_| received == number.len()).ok_or_else(no_pair)?;
    Ok((u64::from_le_bytes(number), file))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::MetadataExt;

    use bytes::Bytes;
    use furlong_wire::ids::SessionId;
    use furlong_wire::payload::{Packed, PayloadSecret};
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    use super::*;
    use crate::file::{FiledPayload, create, write_at};

    /// Two ends: of one that gave the pipes and waits for the other's word, and of that.
    fn ends() -> (FilePasser, OwnedFd) {
        let flags = SocketFlags::CLOEXEC;
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap();
        (FilePasser::new(ours, false), theirs)
    }

    fn welcome(theirs: &OwnedFd) {
        rustix::net::send(theirs, &[TAKES_FILES], SendFlags::empty()).unwrap();
    }

    fn payload(bytes: usize) -> Chunks {
        let key = PayloadSecret::new([1; 32]).request_key(&SessionId([2; 16]));
        let Ok(Packed::Chunked(payload)) =
            key.into_sealer().pack(vec![Bytes::from(vec![7; bytes])])
        else {
            panic!("it is large")
        };
        Chunks::from(payload)
    }

    fn said(transfer: u64, FileId { device, inode }: FileId) -> Passed {
        Passed { transfer, device, inode }
    }

    #[test]
    fn a_large_payload_is_passed_once_the_other_side_takes_files() {
        let (ours, theirs) = ends();
        let large = payload(FILE_BYTES_MIN as usize);
        assert_eq!(ours.pass(1, &large), None, "nothing was said yet");
        welcome(&theirs);
        assert_eq!(ours.pass(2, &payload(2_000)), None, "it is small");
        let theirs = FilePasser::new(theirs, true);
        for transfer in [3, 4] {
            let id = ours.pass(transfer, &large).unwrap();
            let file = theirs.receive(&said(transfer, id)).unwrap();
            assert!(file.id() == id && file.open().unwrap().ends_with(&[7; 100]));
        }
        let Chunks::Sealed(sealed) = &large else { unreachable!() };
        let file = PayloadFile::write(sealed).unwrap().unwrap();
        let key = PayloadSecret::new([1; 32]).request_key(&SessionId([2; 16]));
        let filed = FiledPayload::new(crate::file::FileContent::File(file.clone()), key, 0);
        let passed_on = ours.pass(5, &Chunks::Filed(Box::new(filed)));
        assert_eq!(passed_on, Some(file.id()), "it is the same file");
        drop(theirs);
        assert_eq!(ours.pass(6, &large), None);
        assert!(!ours.is_open());
    }

    #[test]
    fn who_says_something_else_or_leaves_gets_no_files() {
        let (ours, theirs) = ends();
        rustix::net::send(&theirs, &[7], SendFlags::empty()).unwrap();
        assert_eq!(ours.pass(1, &payload(100_000)), None);
        let (ours, theirs) = ends();
        drop(theirs);
        assert_eq!(ours.pass(1, &payload(100_000)), None);
        assert!(!ours.is_open());
    }

    #[test]
    fn who_takes_nothing_out_costs_no_more_than_the_socket_holds() {
        let (ours, theirs) = ends();
        welcome(&theirs);
        let large = payload(FILE_BYTES_MIN as usize);
        let sent = (0..10_000).take_while(|n| ours.pass(*n, &large).is_some()).count();
        assert!(sent > 10 && sent < 2_000, "{sent}");
        assert!(ours.is_open(), "it may take files again later");
        receive(&theirs).unwrap();
    }

    #[test]
    fn what_a_record_does_not_mean_is_not_taken() {
        let file = || {
            let file = create().unwrap();
            write_at(&file, 0, &[7; 5_000]).unwrap();
            file
        };
        let sealed = PayloadFile::seal(file()).unwrap();
        let (ours, theirs) = ends();
        welcome(&theirs);
        assert!(matches!(ours.receive(&said(1, sealed.id())), Err(NotPassed::Missing)));
        let theirs = FilePasser::new(theirs, true);
        assert!(theirs.send(2, sealed.descriptor()));
        assert!(matches!(ours.receive(&said(1, sealed.id())), Err(NotPassed::Missing)));
        let other = PayloadFile::seal(file()).unwrap();
        assert!(theirs.send(3, other.descriptor()));
        assert!(matches!(ours.receive(&said(3, sealed.id())), Err(NotPassed::Other)));
        let open = file();
        assert!(theirs.send(4, open.as_fd()));
        assert!(matches!(ours.receive(&said(4, sealed.id())), Err(NotPassed::Unsound(_))));
        assert!(theirs.send(5, sealed.descriptor()));
        assert_eq!(ours.receive(&said(5, sealed.id())).unwrap().id(), sealed.id());
    }

    #[test]
    fn a_number_without_a_file_is_none_and_many_files_are_one() {
        let (ours, theirs) = ends();
        welcome(&theirs);
        assert!(!ours.is_closed.load(Ordering::Relaxed) && ours.is_welcome());
        rustix::net::send(&theirs, &7u64.to_le_bytes(), SendFlags::empty()).unwrap();
        assert!(ours.receive_any().is_err());
        let open = create().unwrap();
        let many = [open.as_fd(); 20];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(20))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&many));
        let number = 8u64.to_le_bytes();
        sendmsg(&theirs, &[IoSlice::new(&number)], &mut control, SendFlags::empty()).unwrap();
        // Of this file alone: other tests open some meanwhile.
        let id = |path: &std::path::Path| {
            std::fs::metadata(path).ok().map(|it| (MetadataExt::dev(&it), MetadataExt::ino(&it)))
        };
        let of_file = id(format!("/proc/self/fd/{}", open.as_raw_fd()).as_ref()).unwrap();
        let descriptors = || {
            let open = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
            open.filter(|it| id(&it.path()) == Some(of_file)).count()
        };
        let taken = ours.receive_any();
        assert!(descriptors() <= 2, "the system closes what there is no room for");
        drop(taken);
        assert_eq!(descriptors(), 1);
    }
}
