//! Memory files between a peer and the broker of its machine: what is passed beside a connection.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use furlong_link::file::{FileContent, FileId};
use furlong_link::peer::outbox::Chunks;
use furlong_wire::message::Passed;

use crate::dice::Dice;

/// What one side of a connection passes to the other.
#[derive(Default, Debug)]
pub struct FileWay {
    /// None if the two are on different machines.
    dice: Option<Dice>,
    passed: VecDeque<(u64, Bytes)>,
}

impl FileWay {
    /// The way beside a connection, if there is one: of every other peer.
    pub fn new(seed: u64, no: u64, way: u64) -> Self {
        let is_local = Dice::of(seed, &[8, no]).one_in(2);
        Self { dice: is_local.then(|| Dice::of(seed, &[9, no, way])), passed: VecDeque::new() }
    }

    /// Passes a payload, if the socket has room for it: says in which file.
    pub fn pass(&mut self, transfer: u64, chunks: &Chunks) -> Option<FileId> {
        if self.dice.as_mut()?.one_in(3) {
            return None;
        }
        let content = match chunks {
            Chunks::Sealed(payload) => {
                let mut laid_out = BytesMut::zeroed(payload.bytes() as usize);
                for (at, piece) in payload.pieces()? {
                    laid_out[at as usize..][..piece.len()].copy_from_slice(piece);
                }
                laid_out.freeze()
            }
            Chunks::Filed(filed) => match filed.content() {
                FileContent::Copy(content) => content.clone(),
                FileContent::File(_) => unreachable!("nobody here has a real file"),
            },
            Chunks::Stored(_) => return None,
        };
        self.passed.push_back((transfer, content));
        Some(FileId { device: 1, inode: transfer })
    }

    /// Takes the file that a message names.
    pub fn take(&mut self, passed: &Passed) -> Bytes {
        let (transfer, content) = self.passed.pop_front().expect("a file goes before its message");
        assert_eq!(transfer, passed.transfer, "files go in the order of their messages");
        content
    }
}
