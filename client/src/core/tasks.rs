//! The session's unfinished tasks, and those whose end has not been taken.

use std::collections::VecDeque;
use std::sync::Arc;

use furlong_wire::ids::{EngineId, TaskSeq};
use furlong_wire::message::{
    Finished, Outcome, Payload, Runtime, Stream, TaskOptions, TaskState, TaskTimes,
};
use furlong_wire::numbers::NumberMap;
use furlong_wire::payload::Packed;
use slab::Slab;

use super::Waiter;
use super::completed::Completed;
use super::output::Output;
use super::results::Body;
use super::subscriptions::Piece;
use crate::error::Disconnected;
use crate::outcome::Published;

/// Bytes of output and intermediate data that the unfinished tasks of a session hold together;
/// beyond, output counts as left out, and intermediate data are not kept.
const OUTPUT_BYTES_MAX: usize = 1024 * 1024 * 1024;

/// A task's end, as it came.
#[derive(Debug)]
pub struct Completion {
    /// The task's number in the session.
    pub n: TaskSeq,
    /// The engine that ran it.
    pub engine: Option<EngineId>,
    /// The number of attempts.
    pub attempts: u32,
    /// The times of its events.
    pub times: TaskTimes,
    /// Its output.
    pub outputs: Option<Box<Outputs>>,
    /// Bytes of its result, if that stays at the broker.
    pub stays: Option<u64>,
    /// Its outcome.
    pub end: CompletionKind,
}

/// The end of a task.
#[derive(Debug)]
pub enum CompletionKind {
    /// As the broker said, with this payload.
    Finished(Outcome, Body),
    /// Unknown: the connection was over before.
    Disconnected(Arc<Disconnected>),
}

/// The output and the published data of a task.
#[derive(Clone, Debug, Default)]
pub struct Outputs {
    /// The attempt that wrote it, and the engine that ran that.
    written_by: Option<(u32, EngineId)>,
    /// Standard output.
    pub stdout: Output,
    /// Standard error.
    pub stderr: Output,
    /// The last intermediate data.
    pub published: Option<Published>,
}

/// The listener for a task's end.
#[derive(Debug)]
pub enum Listener<W> {
    /// A future, and what wakes it once it was polled.
    Future(Option<W>),
    /// A stream of results, and the task's place in it.
    Stream(usize, u64),
    /// Nobody any longer.
    Nobody,
}

#[derive(Debug)]
struct Task<W> {
    n: TaskSeq,
    /// True if its end has come and its payload is on the way.
    is_receiving: bool,
    /// The parts that are sent again after a cut.
    sent: Option<Sent>,
    outputs: Option<Box<Outputs>>,
    /// The definition that it needs, if that is large.
    large_definition: Option<u32>,
    /// True if its result is to stay at the broker.
    stays: bool,
    state: State<W>,
}

/// The parts of an unfinished task that the broker has to hear once more if the connection was cut.
#[derive(Clone, Debug)]
pub struct Sent {
    /// The engine that it is for, if it is for one.
    pub target: Option<EngineId>,
    /// The call to run.
    pub call: Arc<SentCall>,
    /// True if it was sent again already: nobody knows whether that has arrived.
    pub repeated: bool,
    /// True if it was cancelled with force, false if without.
    pub cancelled: Option<bool>,
}

/// A call as it was submitted, for one task or several.
#[derive(Debug)]
pub struct SentCall {
    /// Its runtime.
    pub runtime: Runtime,
    /// Its kind.
    pub class: u32,
    /// The definition that it needs.
    pub define: Option<u32>,
    /// The options that differ from the defaults.
    pub options: Option<Box<TaskOptions>>,
    /// Call header and arguments.
    pub packed: Packed,
}

#[derive(Debug)]
enum State<W> {
    Unfinished(Listener<W>),
    /// Its number is no longer known; the end waits for its future.
    Ended(Box<Completion>),
}

/// The one to whom a task's end goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Delivery {
    /// Its future, for which the table is to [keep](Tasks::keep) it.
    Future,
    /// A stream, at that place.
    Stream(usize, u64),
    /// Nobody wants it.
    Nobody,
}

/// The table of tasks. A key names a task until its end was taken.
#[derive(Debug)]
pub struct Tasks<W> {
    slab: Slab<Task<W>>,
    unfinished: NumberMap<TaskSeq, usize>,
    output_bytes: usize,
    /// The ends of tasks that have left the table.
    pub ends: Completed,
}

impl Completion {
    /// The end that a message tells, and its payload. What the task wrote is added at its delivery.
    pub fn of(finished: Finished) -> (Self, Option<Payload>) {
        let Finished { n, outcome, engine, attempts, times, payload } = finished;
        let end = CompletionKind::Finished(outcome, Body::None);
        (Self { n, engine, attempts, times, outputs: None, stays: None, end }, payload)
    }

    /// Returns true if it has succeeded.
    pub fn has_succeeded(&self) -> bool {
        let CompletionKind::Finished(outcome, _) = &self.end else { return false };
        outcome.state == TaskState::Succeeded
    }
}

impl<W> Default for Tasks<W> {
    fn default() -> Self {
        Self {
            slab: Slab::new(),
            unfinished: NumberMap::default(),
            output_bytes: 0,
            ends: Completed::default(),
        }
    }
}

impl<W: Waiter> Tasks<W> {
    /// Adds a task, with the large definition that it needs, and whether its result is to stay at
    /// the broker. Returns its key.
    pub fn insert(
        &mut self,
        n: TaskSeq,
        listener: Listener<W>,
        sent: Option<Sent>,
        (large_definition, stays): (Option<u32>, bool),
    ) -> usize {
        let state = State::Unfinished(listener);
        let task =
            Task { n, is_receiving: false, sent, outputs: None, large_definition, stays, state };
        let key = self.slab.insert(task);
        let before = self.unfinished.insert(n, key);
        assert!(before.is_none(), "a number is one task's");
        key
    }

    /// The key of a task whose end has just come for the first time. None for unknown tasks and
    /// repeated ends.
    pub fn begin_end(&mut self, n: TaskSeq) -> Option<usize> {
        let key = *self.unfinished.get(&n)?;
        let task = self.slab.get_mut(key).expect(UNFINISHED_HAS_TASK);
        // A broker that was cut off while it delivered an end begins with it anew.
        (!std::mem::replace(&mut task.is_receiving, true)).then_some(key)
    }

    /// The definition that a task needs, if that is large.
    pub fn large_definition(&self, key: usize) -> Option<u32> {
        self.slab.get(key).expect(UNFINISHED_HAS_TASK).large_definition
    }

    /// Returns true if the result of a task that has not ended is to stay at the broker.
    pub fn stays(&self, key: usize) -> bool {
        self.slab.get(key).expect(UNFINISHED_HAS_TASK).stays
    }

    /// The result of an unfinished task is not to stay. Returns true if it was to.
    pub fn let_go(&mut self, n: TaskSeq) -> bool {
        let Some(key) = self.unfinished.get(&n) else { return false };
        let task = self.slab.get_mut(*key).expect(UNFINISHED_HAS_TASK);
        std::mem::replace(&mut task.stays, false)
    }

    /// Ends a task.
    pub fn end(&mut self, key: usize, ended: &mut Completion) -> Delivery {
        let task = self.slab.get_mut(key).expect(UNFINISHED_HAS_TASK);
        let known = self.unfinished.remove(&task.n);
        assert!(known == Some(key), "task {} ends twice", task.n);
        if let CompletionKind::Finished(outcome, _) = &ended.end {
            self.ends.note(task.n, outcome.state == TaskState::Succeeded);
        }
        task.sent = None;
        ended.outputs = task.outputs.take();
        let kept = ended.outputs.as_ref().map_or(0, |outputs| outputs.kept_bytes());
        assert!(kept <= self.output_bytes, "what a task has written is counted as it comes");
        self.output_bytes -= kept;
        let delivery = match &task.state {
            State::Unfinished(Listener::Future(_)) => return Delivery::Future,
            State::Unfinished(Listener::Stream(stream, index)) => Delivery::Stream(*stream, *index),
            State::Unfinished(Listener::Nobody) => Delivery::Nobody,
            State::Ended(_) => unreachable!("what has ended is not unfinished"),
        };
        self.slab.remove(key);
        delivery
    }

    /// Keeps an end for its future, which is to be woken if it was polled.
    pub fn keep(&mut self, key: usize, ended: Completion) -> Option<W> {
        let task = self.slab.get_mut(key).expect("a task with a future stays until that has it");
        match std::mem::replace(&mut task.state, State::Ended(Box::new(ended))) {
            State::Unfinished(Listener::Future(waiter)) => waiter,
            State::Unfinished(_) | State::Ended(_) => unreachable!("a task without a future"),
        }
    }

    /// Returns true if a task of that number is unfinished.
    pub fn knows(&self, n: TaskSeq) -> bool {
        self.unfinished.contains_key(&n)
    }

    /// Returns what is to be sent again of an unfinished task.
    pub fn sent_mut(&mut self, n: TaskSeq) -> Option<&mut Sent> {
        let key = *self.unfinished.get(&n)?;
        self.slab.get_mut(key).expect(UNFINISHED_HAS_TASK).sent.as_mut()
    }

    /// The connection is gone: ends whose payload was on the way come again.
    pub fn handle_cut(&mut self) {
        for key in self.unfinished.values() {
            self.slab.get_mut(*key).expect(UNFINISHED_HAS_TASK).is_receiving = false;
        }
    }

    /// Takes a piece of output, unless the task is unknown.
    pub fn handle_output(&mut self, n: TaskSeq, piece: &Piece) {
        let Some(task) = self.unfinished.get(&n).and_then(|key| self.slab.get_mut(*key)) else {
            return;
        };
        task.outputs.get_or_insert_default().handle_piece(&mut self.output_bytes, piece);
    }

    /// Takes intermediate data, unless the task is unknown, or later ones have come.
    pub fn handle_published(&mut self, n: TaskSeq, published: &Published) {
        let Some(task) = self.unfinished.get(&n).and_then(|key| self.slab.get_mut(*key)) else {
            return;
        };
        task.outputs.get_or_insert_default().handle_published(&mut self.output_bytes, published);
    }

    /// Returns the retained output of a task, as pieces.
    pub fn kept_output(&self, key: usize) -> Vec<Piece> {
        self.outputs(key).map_or_else(Vec::new, Outputs::pieces)
    }

    /// A task's last intermediate data.
    pub fn published(&self, key: usize) -> Option<Published> {
        self.outputs(key)?.published.clone()
    }

    /// Returns what a task has written so far.
    pub fn written(&self, key: usize, stream: Stream) -> Output {
        let written = self.outputs(key).map(|outputs| match stream {
            Stream::Stdout => &outputs.stdout,
            Stream::Stderr => &outputs.stderr,
        });
        written.cloned().unwrap_or_default()
    }

    fn outputs(&self, key: usize) -> Option<&Outputs> {
        let task = self.slab.get(key)?;
        match &task.state {
            State::Ended(ended) => ended.outputs.as_deref(),
            State::Unfinished(_) => task.outputs.as_deref(),
        }
    }

    /// Takes a task's end, if it has come. Else `waiter` is kept for then, and the one before is
    /// given back.
    pub fn poll(&mut self, key: usize, waiter: &W) -> Result<Box<Completion>, Option<W>> {
        match self.slab.get_mut(key).map(|task| &mut task.state) {
            Some(State::Unfinished(Listener::Future(Some(known)))) if known.is_same(waiter) => {
                return Err(None);
            }
            Some(State::Unfinished(Listener::Future(known))) => {
                // The one before is dropped without the lock: that may run code of somebody else.
                return Err(known.replace(waiter.clone()));
            }
            Some(State::Ended(_)) => {}
            Some(State::Unfinished(_)) | None => return Err(None),
        }
        match self.slab.remove(key).state {
            State::Ended(ended) => Ok(ended),
            State::Unfinished(_) => unreachable!("the state was looked at a moment ago"),
        }
    }

    /// Returns true if a task's end waits to be taken.
    pub fn has_ended(&self, key: usize) -> bool {
        self.slab.get(key).is_some_and(|task| matches!(task.state, State::Ended(_)))
    }

    /// Nobody waits for a task any longer. What it left is given back, to be dropped by the caller.
    pub fn forget(&mut self, key: usize) -> Option<Forgotten<W>> {
        let task = self.slab.get_mut(key)?;
        match &mut task.state {
            State::Unfinished(listener) => {
                Some(Forgotten::Listener(std::mem::replace(listener, Listener::Nobody)))
            }
            State::Ended(_) => match self.slab.remove(key).state {
                State::Ended(ended) => Some(Forgotten::Ended(ended)),
                State::Unfinished(listener) => Some(Forgotten::Listener(listener)),
            },
        }
    }

    /// The numbers of a stream's unfinished tasks, as sorted ranges.
    pub fn ranges_of_stream(&self, stream: usize) -> Vec<(TaskSeq, TaskSeq)> {
        let mut ranges: Vec<(TaskSeq, TaskSeq)> = Vec::new();
        for (n, key) in self.unfinished() {
            let state = &self.slab.get(key).expect(UNFINISHED_HAS_TASK).state;
            if !matches!(state, State::Unfinished(Listener::Stream(of, _)) if *of == stream) {
                continue;
            }
            match ranges.last_mut() {
                Some((_, last)) if *last + 1 == n => *last = n,
                _ => ranges.push((n, n)),
            }
        }
        ranges
    }

    /// Returns the number of unfinished tasks.
    pub fn unfinished_count(&self) -> usize {
        self.unfinished.len()
    }

    /// The unfinished ones by their numbers, ascending.
    pub fn unfinished(&self) -> VecDeque<(TaskSeq, usize)> {
        let mut unfinished: Vec<(TaskSeq, usize)> =
            self.unfinished.iter().map(|(n, key)| (*n, *key)).collect();
        unfinished.sort_unstable();
        unfinished.into()
    }
}

/// The remains of a forgotten task: dropped by the caller when no lock is held, as they may hold
/// code of others.
#[derive(Debug)]
pub enum Forgotten<W> {
    /// The waiter.
    Listener(Listener<W>),
    /// The end that nobody took.
    Ended(Box<Completion>),
}

/// An unfinished task leaves the table with its number.
const UNFINISHED_HAS_TASK: &str = "a number that is unfinished has its task";

impl Outputs {
    /// Takes a piece of output. `held_bytes` is what all tasks hold together.
    pub fn handle_piece(&mut self, held_bytes: &mut usize, piece: &Piece) {
        assert!(self.kept_bytes() <= *held_bytes, "what one task holds is counted in all");
        *held_bytes -= self.kept_bytes();
        let written_by = Some((piece.attempt, piece.engine));
        if self.written_by != written_by {
            // Another attempt, whose output replaces that of the one before.
            *self = Self { written_by, published: self.published.take(), ..Self::default() };
        }
        let output = match piece.stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        if *held_bytes + piece.bytes.len() > OUTPUT_BYTES_MAX {
            output.skip_to(piece.offset.saturating_add(piece.bytes.len() as u64));
        } else {
            output.handle_piece(piece.offset, &piece.bytes);
        }
        *held_bytes += self.kept_bytes();
    }

    fn handle_published(&mut self, held_bytes: &mut usize, published: &Published) {
        let is_late = self.published.as_ref().is_some_and(|last| last.number > published.number);
        assert!(self.kept_bytes() <= *held_bytes, "what one task holds is counted in all");
        *held_bytes -= self.kept_bytes();
        // They come in chunks of different lengths: a later value may be here before an earlier
        // one.
        if !is_late && *held_bytes + published.bytes() <= OUTPUT_BYTES_MAX {
            self.published = Some(published.clone());
        }
        *held_bytes += self.kept_bytes();
    }

    /// Returns the retained output, as pieces of the two streams.
    fn pieces(&self) -> Vec<Piece> {
        let Some((attempt, engine)) = self.written_by else { return Vec::new() };
        let streams = [(Stream::Stdout, &self.stdout), (Stream::Stderr, &self.stderr)];
        let parts = streams.into_iter().flat_map(|(stream, output)| {
            let end = output.end();
            let end_offset = output.total_bytes() - end.len() as u64;
            [(stream, 0, output.start().to_vec()), (stream, end_offset, end)]
        });
        let parts = parts.filter(|(_, _, bytes)| !bytes.is_empty());
        parts
            .map(|(stream, offset, bytes)| Piece {
                attempt,
                engine,
                stream,
                offset,
                bytes: bytes.into(),
            })
            .collect()
    }

    /// Bytes that are held here.
    pub fn kept_bytes(&self) -> usize {
        let published = self.published.as_ref().map_or(0, Published::bytes);
        self.stdout.kept_bytes() + self.stderr.kept_bytes() + published
    }
}
