//! Mappings of sealed memory files.
//!
//! Unsafe, because a mapping of a file that somebody shrinks ends the process that reads it, and
//! one that somebody changes is no `&[u8]`. Both cannot happen here: a file is mapped only when its
//! seals have been seen, and these stay.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use bytes::Bytes;
use memmap2::MmapOptions;

/// Maps a file whose seals forbid to write it and to change its size. Whoever owns the mapping
/// alone may write to it: that copies the page, and nobody else sees it.
pub(crate) fn map(sealed: BorrowedFd<'_>, bytes: u64) -> io::Result<Bytes> {
    let length = usize::try_from(bytes).map_err(io::Error::other)?;
    let mut options = MmapOptions::new();
    // SAFETY: the only caller is `PayloadFile`, which is made only of a file with these seals.
    let mapped = unsafe { options.len(length).map_copy(sealed.as_raw_fd()) }?;
    Ok(Bytes::from_owner(mapped))
}
