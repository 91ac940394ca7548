//! Payloads in memory files, which processes of one machine pass to each other instead of their
//! bytes.
//!
//! A file holds one payload, as it is laid out, and nothing else. It is sealed: whoever has a
//! descriptor knows that its size and content never change, so it can be mapped without fear. What
//! authenticates it is the record that names it ([`FileId`]): a file that its sender holds open
//! while it says so cannot be another one.

use std::any::Any;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use bytes::Bytes;
use furlong_wire::limits::{BUFFER_ALIGNMENT, PAYLOAD_BYTES_MAX};
use furlong_wire::payload::{
    PayloadError, PayloadKey, PayloadSealer, PayloadSource, SealedPayload,
};
use rustix::fs::{
    FileType, MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, ftruncate,
    memfd_create,
};
use rustix::io::{Errno, pread, pwrite};
use rustix::process::{Resource, getrlimit};

use crate::map::map;

/// Payloads of fewer bytes are sent: to pass a file costs several system calls and a page fault.
pub const FILE_BYTES_MIN: u64 = 32 * 1024;
/// A larger file is closed by a thread of its own: where it was the last holder, the system takes
/// 50 ms for 256 MiB.
const CLOSED_APART_BYTES: u64 = 4 * 1024 * 1024;
/// Smaller ones are rather copied than mapped.
const MAPPED_BYTES_MIN: u64 = 128 * 1024;
/// The system counts the place of a file in blocks of so many bytes.
const BLOCK_BYTES: u64 = 512;

/// Which file it is: its device, and its number there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FileId {
    /// The device's number in the system.
    pub device: u64,
    /// The file's number on the device.
    pub inode: u64,
}

/// A sealed memory file with one payload in it. Clones are the same file.
#[derive(Clone, Debug)]
pub struct PayloadFile(Arc<OpenFile>);

/// The content of a memory file that was passed.
#[derive(Clone, Debug)]
pub enum FileContent {
    /// In the file.
    File(PayloadFile),
    /// In memory: there was no descriptor left to hold the file by.
    Copy(Bytes),
}

/// A payload that has come in a memory file: it can be passed on, or sealed chunk by chunk.
#[derive(Clone, Debug)]
pub struct FiledPayload {
    content: FileContent,
    sealed: SealedPayload,
}

#[derive(Debug)]
struct OpenFile {
    /// None once it is being closed.
    descriptor: Option<OwnedFd>,
    bytes: u64,
    id: FileId,
    /// Dropped when the file is closed.
    permit: Option<Box<dyn Any + Send + Sync>>,
}

/// The reason that a file is not taken.
#[derive(Debug, thiserror::Error)]
pub enum UnsoundFile {
    /// A pipe, a folder, a device.
    #[error("it is no file")]
    Kind,
    /// Its sender could still change it.
    #[error("it is not sealed")]
    Seals,
    /// It has holes: reading it would take memory that its sender has not spent.
    #[error("it has holes")]
    Sparse,
    /// Empty, or larger than any payload.
    #[error("it has {bytes} bytes")]
    Size {
        /// Its size.
        bytes: u64,
    },
    /// The system says no.
    #[error(transparent)]
    System(#[from] io::Error),
}

impl PayloadFile {
    /// Writes a payload into a new file. None if it lies somewhere already.
    ///
    /// # Errors
    /// The system's: above all, that there is no memory or no descriptor left.
    pub fn write(payload: &SealedPayload) -> io::Result<Option<Self>> {
        let Some(pieces) = payload.pieces() else { return Ok(None) };
        // Beyond this limit the system does not only refuse: it sends a signal, which ends
        // programs.
        if getrlimit(Resource::Fsize).current.is_some_and(|most| payload.bytes() > most) {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let file = create()?;
        // Once, and not at each write.
        ftruncate(&file, payload.bytes())?;
        for (at, piece) in pieces {
            write_at(&file, at, piece)?;
        }
        Self::seal(file).map(Some).map_err(io::Error::other)
    }

    /// Seals a file that is written, and takes it.
    ///
    /// # Errors
    /// [`UnsoundFile`]; if somebody has mapped it for writing, too.
    pub fn seal(file: OwnedFd) -> Result<Self, UnsoundFile> {
        fcntl_add_seals(&file, seals()).map_err(io::Error::from)?;
        Self::adopt(file)
    }

    /// Takes a file that somebody has passed, if it is what it must be.
    ///
    /// # Errors
    /// [`UnsoundFile`].
    pub fn adopt(file: OwnedFd) -> Result<Self, UnsoundFile> {
        let found = fstat(&file).map_err(io::Error::from)?;
        if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile {
            return Err(UnsoundFile::Kind);
        }
        // A file that is not in memory knows no seals.
        if !fcntl_get_seals(&file).is_ok_and(|has| has.contains(seals())) {
            return Err(UnsoundFile::Seals);
        }
        let bytes = u64::try_from(found.st_size).unwrap_or(0);
        if bytes == 0 || bytes > PAYLOAD_BYTES_MAX {
            return Err(UnsoundFile::Size { bytes });
        }
        if u64::try_from(found.st_blocks).unwrap_or(0).saturating_mul(BLOCK_BYTES) < bytes {
            return Err(UnsoundFile::Sparse);
        }
        let id = FileId { device: found.st_dev, inode: found.st_ino };
        Ok(Self(Arc::new(OpenFile { descriptor: Some(file), bytes, id, permit: None })))
    }

    /// Keeps something until the file is closed: the permit for its descriptor.
    ///
    /// # Panics
    /// If there are clones of it already.
    pub fn with_permit(mut self, permit: impl Any + Send + Sync) -> Self {
        let file = Arc::get_mut(&mut self.0).expect("it was just taken, and nobody else has it");
        file.permit = Some(Box::new(permit));
        self
    }

    /// Which file it is.
    pub fn id(&self) -> FileId {
        self.0.id
    }

    /// Its descriptor, to be passed on.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.0.descriptor().as_fd()
    }

    /// Its content, in place: nothing is copied, and what is not looked at is not even mapped.
    ///
    /// # Errors
    /// The system's: no address space, or too many mappings.
    pub fn map(&self) -> io::Result<Bytes> {
        map(self.descriptor(), self.0.bytes)
    }

    /// Its content, aligned: in place if it is large, else copied, which is less work. Copied, too,
    /// if the system has no mapping left.
    ///
    /// # Errors
    /// There is no memory for it.
    pub fn open(&self) -> Result<Bytes, PayloadError> {
        let mapped = if self.0.bytes >= MAPPED_BYTES_MIN { self.map().ok() } else { None };
        mapped.map_or_else(|| self.copy(), Ok)
    }

    /// Its content, copied, and aligned.
    ///
    /// # Errors
    /// There is no memory for it.
    pub fn copy(&self) -> Result<Bytes, PayloadError> {
        let bytes = self.0.bytes as usize;
        let no_memory = PayloadError::Memory { bytes: self.0.bytes };
        let mut copy: Vec<u8> = Vec::new();
        copy.try_reserve_exact(bytes + BUFFER_ALIGNMENT).map_err(|_| no_memory)?;
        let front = copy.as_ptr().addr().wrapping_neg() % BUFFER_ALIGNMENT;
        copy.resize(front + bytes, 0);
        self.read_at(0, &mut copy[front..]).map_err(|_| no_memory)?;
        Ok(Bytes::from(copy).slice(front..))
    }
}

impl FileContent {
    /// Bytes of the payload.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::File(file) => file.bytes(),
            Self::Copy(bytes) => bytes.len() as u64,
        }
    }
}

impl FiledPayload {
    /// A payload that its sender has announced with this counter, under this key.
    pub fn new(content: FileContent, key: PayloadKey, counter: u64) -> Self {
        let source: Arc<dyn PayloadSource> = match &content {
            FileContent::File(file) => Arc::new(file.clone()),
            FileContent::Copy(bytes) => Arc::new(bytes.clone()),
        };
        Self { content, sealed: key.into_sealed(counter, source) }
    }

    /// A payload that is sealed here, once it is in a file.
    pub fn seal(file: PayloadFile, sealer: &mut PayloadSealer) -> Self {
        let payload = sealer.seal_source(Arc::new(file.clone()));
        Self { content: FileContent::File(file), sealed: payload }
    }

    /// Its content.
    pub fn content(&self) -> &FileContent {
        &self.content
    }

    /// The file, if it is held.
    pub fn file(&self) -> Option<&PayloadFile> {
        match &self.content {
            FileContent::File(file) => Some(file),
            FileContent::Copy(_) => None,
        }
    }

    /// The payload, to be sealed chunk by chunk.
    pub fn sealed(&self) -> &SealedPayload {
        &self.sealed
    }
}

impl PartialEq for FiledPayload {
    fn eq(&self, other: &Self) -> bool {
        self.file().map(PayloadFile::id) == other.file().map(PayloadFile::id)
            && self.sealed.counter() == other.sealed.counter()
    }
}

impl PayloadSource for PayloadFile {
    fn bytes(&self) -> u64 {
        self.0.bytes
    }

    fn read_at(&self, start: u64, part: &mut [u8]) -> io::Result<()> {
        let mut read = 0;
        while read < part.len() {
            match pread(self.descriptor(), &mut part[read..], start + read as u64)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                bytes => read += bytes,
            }
        }
        Ok(())
    }
}

impl OpenFile {
    fn descriptor(&self) -> &OwnedFd {
        self.descriptor.as_ref().expect("it is taken only when this is dropped")
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        let descriptor = (self.descriptor.take(), self.permit.take());
        if self.bytes >= CLOSED_APART_BYTES {
            // If there is no thread to be had, it is closed here.
            let _ = std::thread::Builder::new().spawn(move || drop(descriptor));
        }
    }
}

/// A new memory file, which can be sealed.
///
/// # Errors
/// The system's.
pub fn create() -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Some systems allow no other files; before Linux 6.3 there is no such flag.
    let sealed = memfd_create("furlong-payload", flags | MemfdFlags::NOEXEC_SEAL);
    match sealed {
        Err(Errno::INVAL) => Ok(memfd_create("furlong-payload", flags)?),
        created => Ok(created?),
    }
}

/// Writes all of a piece at its place.
///
/// # Errors
/// The system's.
pub fn write_at(file: &OwnedFd, mut at: u64, mut piece: &[u8]) -> io::Result<()> {
    while !piece.is_empty() {
        let written = pwrite(file, piece, at)?;
        piece = &piece[written..];
        at += written as u64;
    }
    Ok(())
}

fn seals() -> SealFlags {
    SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL
}

#[cfg(test)]
mod tests {
    use furlong_wire::ids::SessionId;
    use furlong_wire::payload::{Packed, PayloadOpener, PayloadSecret, places_in};

    use super::*;

    fn payload(buffers: &[&'static [u8]]) -> SealedPayload {
        let key = PayloadSecret::new([1; 32]).request_key(&SessionId([2; 16]));
        let buffers = buffers.iter().map(|buffer| Bytes::from_static(buffer)).collect();
        let Ok(Packed::Chunked(payload)) = key.into_sealer().pack(buffers) else {
            panic!("it is large")
        };
        payload
    }

    static LARGE: [u8; 5_000] = [7; 5_000];

    #[test]
    fn a_payload_lies_in_its_file_as_its_chunks_have_it() {
        let sent = payload(&[b"header", &LARGE, b"", b"more"]);
        let file = PayloadFile::write(&sent).unwrap().unwrap();
        let content = file.map().unwrap();
        let buffers: Vec<&[u8]> =
            places_in(&content).unwrap().map(|place| &content[place]).collect();
        assert_eq!(buffers, [&b"header"[..], &LARGE, b"", b"more"]);
        assert!(content.as_ptr().addr().is_multiple_of(64));
        let key = PayloadSecret::new([1; 32]).request_key(&SessionId([2; 16]));
        let again = key.clone().into_sealed(sent.counter(), Arc::new(file.clone()));
        assert_eq!(again.chunk(0), sent.chunk(0), "sealed from the file it is the same");
        let mut opener = PayloadOpener::new(key, sent.counter(), again.bytes()).unwrap();
        opener.handle_chunk(&again.chunk(0)).unwrap();
        assert_eq!(opener.into_buffers().unwrap().len(), 4);
        assert!(PayloadFile::write(&again).unwrap().is_none(), "it lies in a file already");
    }

    #[test]
    fn what_could_change_or_costs_its_sender_nothing_is_not_taken() {
        let file = create().unwrap();
        write_at(&file, 0, &LARGE).unwrap();
        assert!(matches!(PayloadFile::adopt(file.try_clone().unwrap()), Err(UnsoundFile::Seals)));
        fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW).unwrap();
        assert!(matches!(PayloadFile::adopt(file.try_clone().unwrap()), Err(UnsoundFile::Seals)));
        assert!(PayloadFile::seal(file.try_clone().unwrap()).is_ok());
        assert!(write_at(&file, 0, b"x").is_err() && ftruncate(&file, 1).is_err());
        let sparse = create().unwrap();
        ftruncate(&sparse, 1 << 30).unwrap();
        assert!(matches!(PayloadFile::seal(sparse), Err(UnsoundFile::Sparse)));
        assert!(matches!(
            PayloadFile::seal(create().unwrap()),
            Err(UnsoundFile::Size { bytes: 0 })
        ));
        let huge = create().unwrap();
        ftruncate(&huge, PAYLOAD_BYTES_MAX + 1).unwrap();
        assert!(matches!(PayloadFile::seal(huge), Err(UnsoundFile::Size { .. })));
        let pipe = rustix::pipe::pipe().unwrap().0;
        assert!(matches!(PayloadFile::adopt(pipe), Err(UnsoundFile::Kind)));
        let ordinary = std::fs::File::open("/proc/self/exe").unwrap();
        assert!(matches!(PayloadFile::adopt(ordinary.into()), Err(UnsoundFile::Seals)));
    }

    #[test]
    fn another_file_is_told_from_the_one_that_was_said() {
        let one = PayloadFile::write(&payload(&[&LARGE])).unwrap().unwrap();
        let other = PayloadFile::write(&payload(&[&LARGE])).unwrap().unwrap();
        assert_ne!(one.id(), other.id());
        let again = PayloadFile::adopt(one.descriptor().try_clone_to_owned().unwrap()).unwrap();
        assert_eq!(one.id(), again.id());
    }
}
