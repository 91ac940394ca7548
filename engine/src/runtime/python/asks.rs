//! Requests from code in an interpreter to its engine: a pass for a client of its own, and that its
//! slot be lent while it waits.
//!
//! It asks on a socket of its own, from whichever thread, and is answered there: neither an
//! interrupt nor the frames of jobs come between. `furlong_worker/farm.py` is the other side. Each
//! packet is one message:
//!
//! ```text
//! to the engine   "P" | attempt u64 | key 32            let this key in
//!                 "W" | attempt u64 | session 16, ...   it waits for tasks of these sessions
//!                 "B" | attempt u64                     it goes on
//! to the worker   key 32 | 0 or 1 | UTF-8               0: the cluster's door, as JSON; 1: why not
//! ```

use std::future::{pending, poll_fn};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram as StdUnixDatagram;

use furlong_wire::ids::{PassKey, SessionId};
use furlong_wire::limits::LENT_SESSIONS_MAX;
use tokio::net::UnixDatagram;

use crate::runtime::{Ask, SlotJob};

/// Our end of the socket.
#[derive(Debug)]
pub(super) struct Asks {
    socket: UnixDatagram,
    is_closed: bool,
}

impl Asks {
    /// Our end, and the interpreter's.
    pub(super) fn pair() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = StdUnixDatagram::pair()?;
        ours.set_nonblocking(true)?;
        Ok((Self { socket: UnixDatagram::from_std(ours)?, is_closed: false }, theirs.into()))
    }

    /// Waits until something may be asked; forever once nothing will be.
    pub(super) async fn readable(&self) {
        let ready = poll_fn(|cx| self.socket.poll_recv_ready(cx));
        if self.is_closed || ready.await.is_err() {
            pending::<()>().await;
        }
    }

    /// The next thing that is asked, and by which attempt. What cannot be read is user code's, and
    /// is passed over.
    pub(super) fn poll(&mut self) -> Option<(SlotJob, Ask)> {
        // On the heap: who asks does so seldom.
        let mut packet = vec![0; PACKET_BYTES_MAX];
        loop {
            match self.socket.try_recv(&mut packet) {
                Ok(bytes) => {
                    if let Some(ask) = read(&packet[..bytes]) {
                        return Some(ask);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                Err(_) => {
                    self.is_closed = true;
                    return None;
                }
            }
        }
    }

    /// Answers who has asked for a pass. It waits for that: there is room, or it is gone.
    pub(super) fn answer(&self, key: PassKey, answer: &Result<String, String>) {
        let (code, text) = match answer {
            Ok(door) => (0, door),
            Err(why) => (1, why),
        };
        let packet = [&key.0[..], &[code], text.as_bytes()].concat();
        let _ = self.socket.try_send(&packet);
    }
}

fn read(packet: &[u8]) -> Option<(SlotJob, Ask)> {
    let (kind, rest) = packet.split_first()?;
    let (attempt, rest) = rest.split_first_chunk()?;
    let ask = match kind {
        b'P' => Ask::Pass(PassKey(rest.try_into().ok()?)),
        b'W' => {
            let (sessions, rest) = rest.as_chunks();
            Ask::Waits(rest.is_empty().then(|| sessions.iter().map(|id| SessionId(*id)).collect())?)
        }
        b'B' => rest.is_empty().then_some(Ask::GoesOn)?,
        _ => return None,
    };
    Some((SlotJob(u64::from_le_bytes(*attempt)), ask))
}

const PACKET_BYTES_MAX: usize = 9 + 16 * LENT_SESSIONS_MAX;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn packets_are_read_whole_and_what_is_none_is_passed_over() {
        let (mut ours, theirs) = Asks::pair().unwrap();
        let theirs = StdUnixDatagram::from(theirs);
        let packet = |kind: u8, attempt: u64, rest: &[u8]| {
            [&[kind][..], &attempt.to_le_bytes(), rest].concat()
        };
        for packet in [
            packet(b'P', 7, &[1; 32]),
            packet(b'P', 7, &[1; 31]),
            packet(b'W', 8, &[2; 33]),
            packet(b'?', 8, &[]),
            vec![],
            packet(b'W', 8, &[2; 32]),
            packet(b'B', 9, &[]),
        ] {
            theirs.send(&packet).unwrap();
        }
        let mut asked = Vec::new();
        while asked.len() < 3 {
            ours.readable().await;
            asked.extend(ours.poll());
        }
        let sessions = vec![SessionId([2; 16]); 2];
        assert_eq!(
            asked,
            [
                (SlotJob(7), Ask::Pass(PassKey([1; 32]))),
                (SlotJob(8), Ask::Waits(sessions)),
                (SlotJob(9), Ask::GoesOn)
            ]
        );
        ours.answer(PassKey([1; 32]), &Err("no".to_owned()));
        let mut answer = [0; 64];
        let bytes = theirs.recv(&mut answer).unwrap();
        assert_eq!(answer[..bytes], [&[1; 32][..], b"\x01no"].concat());
    }
}
