//! Streams of results: many tasks, one reader.

use std::collections::VecDeque;
use std::task::Waker;

use slab::Slab;

use super::tasks::Ended;

/// The streams that somebody reads, and those whose tasks have not all ended.
#[derive(Debug, Default)]
pub struct Streams {
    slab: Slab<Stream>,
}

#[derive(Debug, Default)]
struct Stream {
    ended: VecDeque<(u64, Ended)>,
    waker: Option<Waker>,
    unfinished: usize,
    is_forgotten: bool,
}

/// The answer to a request for a stream's results.
#[derive(Debug)]
pub enum Taken {
    /// Some.
    Some,
    /// None yet; the waker is kept, and the one that it replaces given back.
    Waiting(Option<Waker>),
    /// None, and none will come: no task of the stream is unfinished.
    Idle,
}

impl Streams {
    /// A new stream's key.
    pub fn open(&mut self) -> usize {
        self.slab.insert(Stream::default())
    }

    /// One more task belongs to the stream.
    pub fn expect(&mut self, key: usize) {
        let stream = self.slab.get_mut(key).expect("who submits for a stream has it open");
        stream.unfinished += 1;
    }

    /// Takes a task's end; returns whom to wake.
    pub fn push(&mut self, key: usize, index: u64, ended: Ended) -> Option<Waker> {
        let stream = self.slab.get_mut(key).expect("a stream stays until its tasks have ended");
        assert!(stream.unfinished > 0, "a task of a stream ends once");
        stream.unfinished -= 1;
        if !stream.is_forgotten {
            stream.ended.push_back((index, ended));
            return stream.waker.take();
        }
        if stream.unfinished == 0 {
            self.slab.remove(key);
        }
        None
    }

    /// Moves what has come to the reader's own queue, which is empty.
    pub fn poll(&mut self, key: usize, into: &mut VecDeque<(u64, Ended)>, waker: &Waker) -> Taken {
        // It is forgotten, and with the end of its last task it was gone.
        let Some(stream) = self.slab.get_mut(key) else { return Taken::Idle };
        if !stream.ended.is_empty() {
            std::mem::swap(&mut stream.ended, into);
            return Taken::Some;
        }
        if stream.unfinished == 0 {
            return Taken::Idle;
        }
        if stream.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            return Taken::Waiting(None);
        }
        Taken::Waiting(stream.waker.replace(waker.clone()))
    }

    /// Nobody reads the stream any longer. What it held is given back.
    pub fn forget(&mut self, key: usize) -> (VecDeque<(u64, Ended)>, Option<Waker>) {
        let Some(stream) = self.slab.get_mut(key) else { return (VecDeque::new(), None) };
        // Its place stays until its last task has ended: the key must not name another stream then.
        stream.is_forgotten = true;
        let left = (std::mem::take(&mut stream.ended), stream.waker.take());
        if stream.unfinished == 0 {
            self.slab.remove(key);
        }
        left
    }
}
