//! Frames: flags, size, body (RFC 37, "Framing").

use bytes::{Buf, BytesMut};

use super::error::ZmtpError;

/// Bytes of the longest frame header: flags, and a size of 64 bits.
pub const FRAME_HEADER_BYTES_MAX: usize = 9;

/// Appends the header of a message frame whose body has `len` bytes; the body comes next. `more`:
/// another frame of the same message follows.
pub fn put_frame_header(out: &mut BytesMut, len: usize, more: bool) {
    put_header(out, if more { Flags::MORE } else { 0 }, len);
}

/// Appends a header: the short form up to 255 bytes, as RFC 37 asks.
pub(super) fn put_header(out: &mut BytesMut, flags: u8, len: usize) {
    if let Ok(short) = u8::try_from(len) {
        out.extend_from_slice(&[flags, short]);
        return;
    }
    let mut header = [flags | Flags::LONG; FRAME_HEADER_BYTES_MAX];
    header[1..].copy_from_slice(&(len as u64).to_be_bytes());
    out.extend_from_slice(&header);
}

/// The first byte of a frame, checked. It says enough to refuse a frame before its size is there.
#[derive(Clone, Copy)]
pub(super) struct Flags(u8);

impl Flags {
    pub(super) const MORE: u8 = 0b001;
    pub(super) const LONG: u8 = 0b010;
    pub(super) const COMMAND: u8 = 0b100;

    /// The flags of the frame at the front of `input`; `None` if `input` is empty.
    pub(super) fn read(input: &[u8]) -> Result<Option<Self>, ZmtpError> {
        let Some(&flags) = input.first() else { return Ok(None) };
        if flags & !(Self::MORE | Self::LONG | Self::COMMAND) != 0 {
            return Err(ZmtpError::ReservedFlags { flags });
        }
        if flags & Self::COMMAND != 0 && flags & Self::MORE != 0 {
            return Err(ZmtpError::CommandWithMore);
        }
        Ok(Some(Self(flags)))
    }

    pub(super) fn is_command(self) -> bool {
        self.0 & Self::COMMAND != 0
    }

    pub(super) fn has_more(self) -> bool {
        self.0 & Self::MORE != 0
    }

    /// The sizes of the frame at the front of `input`, whose flags these are; `None` if they are
    /// not all there.
    pub(super) fn frame(self, input: &[u8]) -> Option<Frame> {
        if self.0 & Self::LONG == 0 {
            return input
                .get(1)
                .map(|&short| Frame { header_bytes: 2, body_bytes: u64::from(short) });
        }
        let size = input.get(1..)?.first_chunk()?;
        Some(Frame { header_bytes: FRAME_HEADER_BYTES_MAX, body_bytes: u64::from_be_bytes(*size) })
    }
}

/// The sizes of a frame, as declared by the peer and not to be trusted.
#[derive(Clone, Copy)]
pub(super) struct Frame {
    header_bytes: usize,
    /// Any 64-bit number: RFC 37's limit of 2^63 - 1 is far above all of ours.
    pub(super) body_bytes: u64,
}

impl Frame {
    /// The frame with its size made a `usize`, if that is no more than `bytes_max`.
    pub(super) fn within(self, bytes_max: usize) -> Option<BoundedFrame> {
        let body_bytes =
            usize::try_from(self.body_bytes).ok().filter(|bytes| *bytes <= bytes_max)?;
        Some(BoundedFrame { header_bytes: self.header_bytes, body_bytes })
    }
}

/// The sizes of a frame whose length was compared with a limit: only [`Frame::within`] makes one,
/// and only this can be taken.
#[derive(Clone, Copy)]
pub(super) struct BoundedFrame {
    header_bytes: usize,
    body_bytes: usize,
}

impl BoundedFrame {
    /// Splits the body from `input`, or sets `bytes_wanted` and leaves `input` as it is.
    pub(super) fn take(self, input: &mut BytesMut, bytes_wanted: &mut usize) -> Option<BytesMut> {
        let missing = (self.header_bytes + self.body_bytes).saturating_sub(input.len());
        if missing > 0 {
            *bytes_wanted = missing;
            return None;
        }
        input.advance(self.header_bytes);
        Some(input.split_to(self.body_bytes))
    }
}
