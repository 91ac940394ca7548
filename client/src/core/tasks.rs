//! The session's unfinished tasks, and those whose end has not been taken.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Waker;

use furlong_wire::ids::EngineId;
use furlong_wire::message::{Finished, Outcome, Payload, Stream, TaskTimes};
use furlong_wire::numbers::NumberMap;
use slab::Slab;

use super::output::Output;
use super::results::Body;
use crate::error::Disconnected;

/// Bytes of output that the unfinished tasks of a session hold together; beyond, output counts as left out.
const OUTPUT_BYTES_MAX: usize = 256 * 1024 * 1024;

/// A task's end, as it came.
#[derive(Debug)]
pub struct Ended {
    /// The task's number in the session.
    pub n: u64,
    /// The engine that ran it.
    pub engine: Option<EngineId>,
    /// How often it was tried.
    pub attempts: u32,
    /// When things happened.
    pub times: TaskTimes,
    /// What it wrote.
    pub outputs: Option<Box<Outputs>>,
    /// How it ended.
    pub end: End,
}

/// How a task ended.
#[derive(Debug)]
pub enum End {
    /// As the broker said, with this payload.
    Finished(Outcome, Body),
    /// Unknown: the connection was over before.
    Disconnected(Arc<Disconnected>),
}

/// The two streams of a task.
#[derive(Clone, Debug, Default)]
pub struct Outputs {
    /// The engine that wrote it.
    engine: Option<EngineId>,
    /// Standard output.
    pub stdout: Output,
    /// Standard error.
    pub stderr: Output,
}

/// Who waits for a task's end.
#[derive(Debug)]
pub enum Listener {
    /// A future, and what wakes it once it was polled.
    Future(Option<Waker>),
    /// A stream of results, and the task's place in it.
    Stream(usize, u64),
    /// Nobody any longer.
    Nobody,
}

#[derive(Debug)]
struct Task {
    n: u64,
    /// Whether its end has come and its payload is on the way.
    is_receiving: bool,
    outputs: Option<Box<Outputs>>,
    state: State,
}

#[derive(Debug)]
enum State {
    Unfinished(Listener),
    /// Its number is no longer known; the end waits for its future.
    Ended(Box<Ended>),
}

/// What is to be done after a task's end.
#[derive(Debug)]
pub enum Delivery {
    /// The end is kept for its future, which is to be woken if it was polled.
    Kept(Option<Waker>),
    /// The end belongs to a stream, at that place.
    Stream(usize, u64, Ended),
    /// Nobody wants it.
    Dropped,
}

/// The table of tasks. A key names a task until its end was taken.
#[derive(Debug, Default)]
pub struct Tasks {
    slab: Slab<Task>,
    unfinished: NumberMap<u64, usize>,
    output_bytes: usize,
}

impl Ended {
    /// The end that a message tells, and its payload. What the task wrote is added at its delivery.
    pub fn of(finished: Finished) -> (Self, Option<Payload>) {
        let Finished { n, outcome, engine, attempts, times, payload } = finished;
        let end = End::Finished(outcome, Body::None);
        (Self { n, engine, attempts, times, outputs: None, end }, payload)
    }
}

impl Tasks {
    /// Adds a task and returns its key.
    pub fn insert(&mut self, n: u64, listener: Listener) -> usize {
        let task = Task { n, is_receiving: false, outputs: None, state: State::Unfinished(listener) };
        let key = self.slab.insert(task);
        self.unfinished.insert(n, key);
        key
    }

    /// The key of a task whose end has just come for the first time. None for unknown tasks and repeated ends.
    pub fn begin_end(&mut self, n: u64) -> Option<usize> {
        let key = *self.unfinished.get(&n)?;
        let task = self.slab.get_mut(key)?;
        (!std::mem::replace(&mut task.is_receiving, true)).then_some(key)
    }

    /// Ends a task.
    pub fn end(&mut self, key: usize, mut ended: Ended) -> Delivery {
        let Some(task) = self.slab.get_mut(key) else { return Delivery::Dropped };
        self.unfinished.remove(&task.n);
        ended.outputs = task.outputs.take();
        self.output_bytes -= ended.outputs.as_ref().map_or(0, |outputs| outputs.kept_bytes());
        match &mut task.state {
            State::Unfinished(Listener::Future(waker)) => {
                let waker = waker.take();
                task.state = State::Ended(Box::new(ended));
                return Delivery::Kept(waker);
            }
            State::Unfinished(Listener::Stream(stream, index)) => {
                let (stream, index) = (*stream, *index);
                self.slab.remove(key);
                return Delivery::Stream(stream, index, ended);
            }
            State::Unfinished(Listener::Nobody) | State::Ended(_) => {}
        }
        self.slab.remove(key);
        Delivery::Dropped
    }

    /// Takes a piece of output, unless the task is unknown.
    pub fn handle_output(&mut self, n: u64, engine: EngineId, stream: Stream, offset: u64, bytes: &[u8]) {
        let Some(task) = self.unfinished.get(&n).and_then(|key| self.slab.get_mut(*key)) else { return };
        let outputs = task.outputs.get_or_insert_default();
        self.output_bytes -= outputs.kept_bytes();
        if outputs.engine != Some(engine) {
            // Another attempt, whose output replaces that of the one that was lost.
            **outputs = Outputs { engine: Some(engine), ..Outputs::default() };
        }
        let output = match stream {
            Stream::Stdout => &mut outputs.stdout,
            Stream::Stderr => &mut outputs.stderr,
        };
        if self.output_bytes + bytes.len() > OUTPUT_BYTES_MAX {
            output.skip_to(offset.saturating_add(bytes.len() as u64));
        } else {
            output.handle_piece(offset, bytes);
        }
        self.output_bytes += outputs.kept_bytes();
    }

    /// Takes a task's end, if it has come. Else `waker` is kept for then, and the one before is given back.
    pub fn poll(&mut self, key: usize, waker: &Waker) -> Result<Box<Ended>, Option<Waker>> {
        match self.slab.get_mut(key).map(|task| &mut task.state) {
            Some(State::Unfinished(Listener::Future(Some(known)))) if known.will_wake(waker) => return Err(None),
            Some(State::Unfinished(Listener::Future(known))) => return Err(known.replace(waker.clone())),
            Some(State::Ended(_)) => {}
            Some(State::Unfinished(_)) | None => return Err(None),
        }
        match self.slab.remove(key).state {
            State::Ended(ended) => Ok(ended),
            State::Unfinished(_) => unreachable!("the state was looked at a moment ago"),
        }
    }

    /// Whether a task's end waits to be taken.
    pub fn has_ended(&self, key: usize) -> bool {
        self.slab.get(key).is_some_and(|task| matches!(task.state, State::Ended(_)))
    }

    /// Nobody waits for a task any longer. What it left is given back, to be dropped by the caller.
    pub fn forget(&mut self, key: usize) -> Option<Forgotten> {
        let task = self.slab.get_mut(key)?;
        match &mut task.state {
            State::Unfinished(listener) => Some(Forgotten::Listener(std::mem::replace(listener, Listener::Nobody))),
            State::Ended(_) => match self.slab.remove(key).state {
                State::Ended(ended) => Some(Forgotten::Ended(ended)),
                State::Unfinished(listener) => Some(Forgotten::Listener(listener)),
            },
        }
    }

    /// The numbers of a stream's unfinished tasks, as sorted ranges.
    pub fn ranges_of_stream(&self, stream: usize) -> Vec<(u64, u64)> {
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        for (n, key) in self.unfinished() {
            let state = self.slab.get(key).map(|task| &task.state);
            if !matches!(state, Some(State::Unfinished(Listener::Stream(of, _))) if *of == stream) {
                continue;
            }
            match ranges.last_mut() {
                Some((_, last)) if *last + 1 == n => *last = n,
                _ => ranges.push((n, n)),
            }
        }
        ranges
    }

    /// The keys and numbers of all unfinished tasks, in order.
    pub fn unfinished(&self) -> VecDeque<(u64, usize)> {
        let mut unfinished: Vec<(u64, usize)> = self.unfinished.iter().map(|(n, key)| (*n, *key)).collect();
        unfinished.sort_unstable();
        unfinished.into()
    }
}

/// What a forgotten task left: dropped by the caller when no lock is held, as it may hold code of others.
#[derive(Debug)]
#[expect(dead_code, reason = "it is there to be dropped")]
pub enum Forgotten {
    /// The waker.
    Listener(Listener),
    /// The end that nobody took.
    Ended(Box<Ended>),
}

impl Outputs {
    fn kept_bytes(&self) -> usize {
        self.stdout.kept_bytes() + self.stderr.kept_bytes()
    }
}
