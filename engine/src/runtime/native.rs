//! The `native` runtime: Rust functions in the engine's binary, one thread a slot.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use bytes::Bytes;
use furlong_wire::call::{Call, CallHeader, Codec, ReplyHeader};
use furlong_wire::limits::PUBLISHED_BYTES_MAX;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{
    AttemptEnd, AttemptOutcome, EventSender, Job, Latest, Published, Report, SlotEvent, SlotIndex,
    SlotJob, Unable, input, marks,
};
use crate::clock;
use crate::job::error;

/// The functions of an engine, by name.
pub type Functions = BTreeMap<String, NativeFunction>;

/// A registered function: buffers in, buffers out, in the call's codec.
pub type NativeFunction =
    Box<dyn Fn(Codec, &[Bytes]) -> Result<(Codec, Vec<Bytes>), FunctionError> + Send + Sync>;

/// The reason why a function did not give a value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FunctionError {
    /// The kind, as an exception's type name.
    pub type_name: String,
    /// The problem.
    pub message: String,
}

impl FunctionError {
    /// An error of a kind.
    pub fn new(type_name: &str, message: impl fmt::Display) -> Self {
        Self { type_name: type_name.to_owned(), message: message.to_string() }
    }
}

/// Something that can be called with arguments that came over the wire: functions of up to six
/// arguments.
pub trait Callable<Arguments, Output>: Send + Sync + 'static {
    /// Decodes the arguments, calls, encodes the value.
    fn call(&self, codec: Codec, data: &[Bytes]) -> Result<(Codec, Vec<Bytes>), FunctionError>;
}

macro_rules! callable {
    ($($argument:ident)*) => {
        impl<F, R, $($argument),*> Callable<($($argument,)*), R> for F
        where
            F: Fn($($argument),*) -> R + Send + Sync + 'static,
            R: Serialize,
            $($argument: DeserializeOwned,)*
        {
            #[allow(non_snake_case, reason = "the type parameters name the arguments too")]
            fn call(
                &self,
                codec: Codec,
                data: &[Bytes],
            ) -> Result<(Codec, Vec<Bytes>), FunctionError> {
                let ($($argument,)*): ($($argument,)*) = decode_arguments(codec, data)?;
                encode_value(codec, &marks::run(data, || self($($argument),*)))
            }
        }
    };
}

callable!(A);
callable!(A B);
callable!(A B C);
callable!(A B C D);
callable!(A B C D E);
callable!(A B C D E G);

impl<F, R> Callable<(), R> for F
where
    F: Fn() -> R + Send + Sync + 'static,
    R: Serialize,
{
    fn call(&self, codec: Codec, data: &[Bytes]) -> Result<(Codec, Vec<Bytes>), FunctionError> {
        // Serde reads `()` from nil, not from an empty array: so an array of any type that must be
        // empty.
        if !data.is_empty()
            && !decode_arguments::<Vec<serde::de::IgnoredAny>>(codec, data)?.is_empty()
        {
            return Err(FunctionError::new("TypeError", "the function takes no arguments"));
        }
        encode_value(codec, &marks::run(data, self))
    }
}

fn decode_arguments<T: DeserializeOwned>(codec: Codec, data: &[Bytes]) -> Result<T, FunctionError> {
    let wrong = |error: &dyn fmt::Display| {
        FunctionError::new("TypeError", format!("the arguments do not fit: {error}"))
    };
    let bytes: &[u8] = data.first().map_or(&[], |buffer| buffer);
    match codec {
        Codec::Msgpack => rmp_serde::from_slice(bytes).map_err(|error| wrong(&error)),
        Codec::Json => {
            let (arguments, named): (
                serde_json::Value,
                serde_json::Map<String, serde_json::Value>,
            ) = serde_json::from_slice(bytes).map_err(|error| wrong(&error))?;
            if !named.is_empty() {
                return Err(wrong(&"a Rust function takes its arguments by position"));
            }
            serde_json::from_value(arguments).map_err(|error| wrong(&error))
        }
        Codec::Pickle => Err(wrong(&"a Rust function takes msgpack or JSON, not pickle")),
        Codec::Raw => {
            Err(wrong(&"this function takes msgpack or JSON; a raw function is registered as such"))
        }
    }
}

fn encode_value<T: Serialize>(
    codec: Codec,
    value: &T,
) -> Result<(Codec, Vec<Bytes>), FunctionError> {
    let wrong = |error: &dyn fmt::Display| {
        FunctionError::new("TypeError", format!("the value cannot be sent: {error}"))
    };
    let bytes = match codec {
        Codec::Json => serde_json::to_vec(value).map_err(|error| wrong(&error))?,
        _ => rmp_serde::to_vec_named(value).map_err(|error| wrong(&error))?,
    };
    let codec = if codec == Codec::Json { Codec::Json } else { Codec::Msgpack };
    Ok((codec, vec![bytes.into()]))
}

/// One slot: a queue and the thread that works on it.
#[derive(Debug)]
pub struct NativeSlot {
    pub(super) slot: SlotIndex,
    shared: Arc<Shared>,
    events: EventSender,
    /// Jobs that go to the thread together: the two threads then seldom meet at the lock.
    gathered: Vec<Job>,
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    work: Condvar,
    /// The engine's integer; `u32::MAX` until it is known.
    engine_id: AtomicU32,
}

#[derive(Debug, Default)]
struct Queue {
    jobs: VecDeque<Job>,
    running: Option<SlotJob>,
    /// The request to the running job: one of the constants below.
    asked: Arc<AtomicU8>,
    closed: bool,
}

impl NativeSlot {
    /// Starts the slot's thread.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn new(
        slot: SlotIndex,
        functions: Arc<Functions>,
        events: EventSender,
    ) -> std::io::Result<Self> {
        let engine_id = AtomicU32::new(u32::MAX);
        let shared = Arc::new(Shared { queue: Mutex::default(), work: Condvar::new(), engine_id });
        let (of_thread, from_thread) = (shared.clone(), events.clone());
        let name = format!("slot {slot}");
        std::thread::Builder::new()
            .name(name)
            .spawn(move || work(slot, &of_thread, &functions, &from_thread))?;
        Ok(Self { slot, shared, events, gathered: Vec::new() })
    }

    /// Takes a job for the next [`NativeSlot::start_gathered`].
    pub(super) fn gather(&mut self, job: Job) {
        self.gathered.push(job);
    }

    /// Lets the thread run what was gathered.
    pub(super) fn start_gathered(&mut self) {
        if !self.gathered.is_empty() {
            self.shared.start(self.gathered.drain(..));
        }
    }

    /// Lets the thread run jobs, after those that it has.
    pub fn start(&self, jobs: impl IntoIterator<Item = Job>) {
        self.shared.start(jobs);
    }

    /// Takes a job back. False if it has begun.
    pub fn recall(&self, job: SlotJob) -> bool {
        let mut queue = self.shared.lock();
        let before = queue.jobs.len();
        queue.jobs.retain(|waiting| waiting.attempt != job);
        queue.jobs.len() < before
    }

    /// Ends a waiting job, and asks a running one to end ([`is_cancelled`]). A thread cannot be
    /// killed: the function must look.
    pub fn cancel(&self, job: SlotJob) {
        if self.recall(job) {
            let end = SlotEvent::Finished {
                attempt: job,
                reply: AttemptEnd::cancelled_before_it_began(),
            };
            // Nobody listens any more when the engine ends.
            let _ = self.events.send(self.slot, end);
        } else {
            self.ask(job, CANCELLED);
        }
    }

    /// Asks a running job to end, as SIGINT does: its error, if it returns one, is a failure and
    /// not a cancel.
    pub fn interrupt(&self, job: SlotJob) {
        self.ask(job, INTERRUPTED);
    }

    /// Sets what [`engine_id`] gives.
    pub fn set_engine_id(&self, id: u32) {
        self.shared.engine_id.store(id, Ordering::Relaxed);
    }

    fn ask(&self, job: SlotJob, what: u8) {
        let queue = self.shared.lock();
        if queue.running == Some(job) {
            queue.asked.fetch_max(what, Ordering::Relaxed);
        }
    }
}

/// Nothing is asked of the running job.
const UNASKED: u8 = 0;
/// It got a SIGINT.
const INTERRUPTED: u8 = 1;
/// It is cancelled.
const CANCELLED: u8 = 2;

impl Drop for NativeSlot {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.work.notify_one();
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Queue> {
        // User code never runs under this lock, so a poisoned one is whole.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(&self, jobs: impl IntoIterator<Item = Job>) {
        let mut queue = self.lock();
        let idle = queue.running.is_none() && queue.jobs.is_empty();
        queue.jobs.extend(jobs);
        drop(queue);
        if idle {
            self.work.notify_one();
        }
    }

    fn next(&self) -> Option<Job> {
        let mut queue = self.lock();
        queue.running = None;
        loop {
            if queue.closed {
                return None;
            }
            if let Some(job) = queue.jobs.pop_front() {
                queue.asked.store(UNASKED, Ordering::Relaxed);
                queue.running = Some(job.attempt);
                return Some(job);
            }
            queue = self.work.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// The context within reach of a thread's running job.
struct Context {
    slot: SlotIndex,
    shared: Arc<Shared>,
    asked: Arc<AtomicU8>,
    events: EventSender,
    attempt: Cell<SlotJob>,
    codec: Cell<Codec>,
    latest: RefCell<Option<Latest>>,
}

thread_local! {
    static CONTEXT: RefCell<Option<Rc<Context>>> = const { RefCell::new(None) };
}

/// Returns true if this thread's task was cancelled or interrupted: a long function checks now and
/// then, and returns early.
pub fn is_cancelled() -> bool {
    let is_asked = |context: &Rc<Context>| context.asked.load(Ordering::Relaxed) != UNASKED;
    CONTEXT.with_borrow(|context| context.as_ref().is_some_and(is_asked))
}

/// The integer of the engine that runs this thread's task. None on other threads, and until the
/// broker has given it.
pub fn engine_id() -> Option<u32> {
    let id = |context: &Rc<Context>| context.shared.engine_id.load(Ordering::Relaxed);
    CONTEXT.with_borrow(|context| context.as_ref().map(id)).filter(|id| *id != u32::MAX)
}

/// Sends a value to the client while the task of this thread runs. It sees the latest one: a value
/// replaces those before it that have not been sent yet.
///
/// # Errors
/// [`FunctionError`] on a thread that runs no task, if the value cannot be encoded, and if it has
/// more than 16 MiB.
pub fn publish<T: Serialize>(value: &T) -> Result<(), FunctionError> {
    let context = CONTEXT.with_borrow(Option::clone);
    let outside =
        || FunctionError::new("RuntimeError", "publish() is for the thread that runs a task");
    let context = context.ok_or_else(outside)?;
    let (codec, buffers) = encode_value(context.codec.get(), value)?;
    let bytes: usize = buffers.iter().map(Bytes::len).sum();
    if bytes as u64 > PUBLISHED_BYTES_MAX - PUBLISHED_OVERHEAD_BYTES {
        let text = format!(
            "the published value has {bytes} bytes, over the limit of {PUBLISHED_BYTES_MAX}"
        );
        return Err(FunctionError::new("ValueError", text));
    }
    let latest = context.latest.borrow_mut().get_or_insert_default().clone();
    if latest.put(Published { codec, buffers }) {
        // Nobody listens any more when the engine ends.
        let _ = context
            .events
            .send(context.slot, Report::Published { attempt: context.attempt.get(), latest });
    }
    Ok(())
}

/// An upper bound on what a payload adds to its one buffer.
const PUBLISHED_OVERHEAD_BYTES: u64 = 1024;

fn work(slot: SlotIndex, shared: &Arc<Shared>, functions: &Functions, events: &EventSender) {
    let asked = shared.lock().asked.clone();
    let context = Rc::new(Context {
        slot,
        shared: shared.clone(),
        asked: asked.clone(),
        events: events.clone(),
        attempt: Cell::new(SlotJob(0)),
        codec: Cell::new(Codec::Msgpack),
        latest: RefCell::new(None),
    });
    CONTEXT.set(Some(context.clone()));
    while let Some(job) = shared.next() {
        context.attempt.set(job.attempt);
        context.codec.set(job.header.codec);
        let has_inputs = job.inputs.is_some();
        if let Some(inputs) = job.inputs {
            input::replace(inputs.into_vec());
        }
        let began = clock::now_us();
        let result = find(functions, &job.header).and_then(|function| {
            call(function, job.header.codec, &job.data)
                .map_err(|failure| (AttemptOutcome::Failed, failure))
        });
        let times = marks::measured(began);
        context.latest.take();
        if has_inputs {
            input::replace(Vec::new());
        }
        let (outcome, header, data) = match result {
            Ok((codec, data)) => (AttemptOutcome::Succeeded, ReplyHeader::Returned { codec }, data),
            Err((_, failure)) if asked.load(Ordering::Relaxed) == CANCELLED => {
                (AttemptOutcome::Cancelled, raised(failure), Vec::new())
            }
            Err((outcome, failure)) => (outcome, raised(failure), Vec::new()),
        };
        let reply = AttemptEnd { data, times, ..AttemptEnd::without_data(outcome, header) };
        let end = SlotEvent::Finished { attempt: job.attempt, reply };
        if events.send(slot, end).is_err() {
            return;
        }
    }
}

fn raised(failure: FunctionError) -> ReplyHeader {
    ReplyHeader::Raised(error(&failure.type_name, &failure.message))
}

fn find<'a>(
    functions: &'a Functions,
    header: &CallHeader,
) -> Result<&'a NativeFunction, (AttemptOutcome, FunctionError)> {
    let Call::Named { function: name } = &header.call else {
        let text = "a native task names a function; source code is for Python tasks";
        return Err((AttemptOutcome::Failed, FunctionError::new("TypeError", text)));
    };
    functions.get(name).ok_or_else(|| {
        let known: Vec<&str> = functions.keys().map(String::as_str).collect();
        let text =
            format!("this engine has no native function `{name}`; it has: {}", known.join(", "));
        (AttemptOutcome::NotBegun(Unable::Kind), FunctionError::new("NameError", text))
    })
}

fn call(
    function: &NativeFunction,
    codec: Codec,
    data: &[Bytes],
) -> Result<(Codec, Vec<Bytes>), FunctionError> {
    catch_unwind(AssertUnwindSafe(|| function(codec, data)))
        .unwrap_or_else(|panic| Err(FunctionError::new("panic", panic_text(&*panic))))
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("the function panicked")
}

#[cfg(test)]
mod tests;
