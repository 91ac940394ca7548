//! Streams of results: many tasks, one reader.

use std::collections::VecDeque;

use slab::Slab;

use super::Waiter;
use super::tasks::Completion;

/// The streams that somebody reads, and those whose tasks have not all ended.
#[derive(Debug)]
pub struct Streams<W> {
    slab: Slab<Stream<W>>,
}

#[derive(Debug)]
struct Stream<W> {
    ended: VecDeque<(u64, Completion)>,
    waiter: Option<W>,
    unfinished: usize,
    is_forgotten: bool,
}

/// The answer to a request for a stream's results.
#[derive(Debug)]
pub enum Taken<W> {
    /// Some.
    Some,
    /// None yet; the waiter is kept, and the one that it replaces given back.
    Waiting(Option<W>),
    /// None, and none will come: no task of the stream is unfinished.
    Idle,
}

impl<W> Default for Streams<W> {
    fn default() -> Self {
        Self { slab: Slab::new() }
    }
}

impl<W: Waiter> Streams<W> {
    /// A new stream's key.
    pub fn open(&mut self) -> usize {
        self.slab.insert(Stream {
            ended: VecDeque::new(),
            waiter: None,
            unfinished: 0,
            is_forgotten: false,
        })
    }

    /// One more task belongs to the stream.
    pub fn expect(&mut self, key: usize) {
        let stream = self.slab.get_mut(key).expect("who submits for a stream has it open");
        stream.unfinished += 1;
    }

    /// Takes a task's end; returns whom to wake.
    pub fn push(&mut self, key: usize, index: u64, ended: Completion) -> Option<W> {
        let stream = self.slab.get_mut(key).expect("a stream stays until its tasks have ended");
        assert!(stream.unfinished > 0, "a task of a stream ends once");
        stream.unfinished -= 1;
        if !stream.is_forgotten {
            stream.ended.push_back((index, ended));
            return stream.waiter.take();
        }
        if stream.unfinished == 0 {
            self.slab.remove(key);
        }
        None
    }

    /// Moves what has come to the reader's own queue, which is empty.
    pub fn poll(
        &mut self,
        key: usize,
        into: &mut VecDeque<(u64, Completion)>,
        waiter: &W,
    ) -> Taken<W> {
        // It is forgotten, and with the end of its last task it was gone.
        let Some(stream) = self.slab.get_mut(key) else { return Taken::Idle };
        if !stream.ended.is_empty() {
            std::mem::swap(&mut stream.ended, into);
            return Taken::Some;
        }
        if stream.unfinished == 0 {
            return Taken::Idle;
        }
        if stream.waiter.as_ref().is_some_and(|known| known.is_same(waiter)) {
            return Taken::Waiting(None);
        }
        Taken::Waiting(stream.waiter.replace(waiter.clone()))
    }

    /// Nobody reads the stream any longer. What it held is given back.
    pub fn forget(&mut self, key: usize) -> (VecDeque<(u64, Completion)>, Option<W>) {
        let Some(stream) = self.slab.get_mut(key) else { return (VecDeque::new(), None) };
        // Its place stays until its last task has ended: the key must not name another stream then.
        stream.is_forgotten = true;
        let left = (std::mem::take(&mut stream.ended), stream.waiter.take());
        if stream.unfinished == 0 {
            self.slab.remove(key);
        }
        left
    }
}
