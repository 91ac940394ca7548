//! A submit that waits: output in the order of the tasks, a window of them at a time.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};

use anyhow::Result;
use furlong_client::{OsText, Output, OutputStream, TaskFuture, TaskOutcome, TaskState};
use futures_util::StreamExt;
use futures_util::stream::{Fuse, FuturesUnordered};
use indicatif::ProgressBar;

use super::items::Items;
use super::{SubmitArgs, Submitted, Submitter};
use crate::ended::{self, Printed};
use crate::exit::ExitCode;
use crate::patience::Patience;
use crate::print::{self, progress};

/// Tasks that are under way or wait for their turn to be printed: those behind a long one go on
/// meanwhile.
const WINDOW: usize = 10_000;
/// Bytes of output that wait for their turn, with what the tasks under way are likely to write,
/// beyond which no more tasks are submitted.
const HELD_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Submits the tasks, and prints what they write, until all have ended.
pub async fn run(
    submitter: &Submitter<'_>,
    items: &mut Items,
    args: &SubmitArgs,
) -> Result<ExitCode> {
    let bar = progress(items.total(), args.progress);
    let mut submits = pin!(submitter.submits(items).fuse());
    let mut waiting = Waiting::new(args, bar);
    let mut patience = Patience::default();
    loop {
        waiting.print_ended()?;
        let wants_more = waiting.wants_more();
        if waiting.slots.is_empty() && (submits.is_done() || !wants_more) {
            break;
        }
        tokio::select! {
            made = submits.next(), if wants_more && !submits.is_done() => match made {
                Some(Ok(made)) => waiting.add(made),
                Some(Err(error)) => waiting.stop_for(error),
                None => {}
            },
            Some((place, end)) = waiting.under_way.next() => {
                patience.reset();
                waiting.ended(place, end);
            }
            why = patience.why_nothing_comes(submitter.client) => {
                waiting.bar.suspend(|| print::note!("furlong: waiting: {why}"));
            }
            Some(piece) = next_piece(&mut waiting.live) => {
                let name = waiting.slots.front().map(|slot| slot.name.clone()).unwrap_or_default();
                let printed = &mut waiting.printed;
                waiting.bar.suspend(|| printed.piece(&name, &piece))?;
            }
        }
    }
    waiting.finish()
}

async fn next_piece(live: &mut Option<Fuse<OutputStream>>) -> Option<furlong_client::OutputPiece> {
    match live {
        Some(live) => live.next().await,
        None => None,
    }
}

/// The tasks from the first one that is not printed on.
struct Waiting<'a> {
    args: &'a SubmitArgs,
    bar: ProgressBar,
    slots: VecDeque<Slot>,
    /// The place of the first slot, counted from the first task of all.
    first: u64,
    under_way: FuturesUnordered<UnderWay>,
    /// The output of the first slot's task, while it runs.
    live: Option<Fuse<OutputStream>>,
    printed: Printed,
    held_bytes: u64,
    /// Bytes that the tasks which have ended have written.
    written_bytes: u64,
    failures: u64,
    /// Tasks without a part of their output.
    incomplete: u64,
    ended: u64,
    is_cancelled: bool,
    /// The error that ended the submits early.
    error: Option<anyhow::Error>,
    /// The end of the last task that was printed.
    last: Option<ExitCode>,
}

/// A task whose output has not been printed, or not all of it.
struct Slot {
    name: String,
    number: u64,
    item: Option<OsText>,
    task: Rc<RefCell<TaskFuture>>,
    end: Option<TaskOutcome>,
}

/// A task and its place. The slot shares it, to cancel it and to see its output.
struct UnderWay(u64, Rc<RefCell<TaskFuture>>);

impl Future for UnderWay {
    type Output = (u64, TaskOutcome);

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<(u64, TaskOutcome)> {
        Pin::new(&mut *self.1.borrow_mut()).poll(context).map(|end| (self.0, end))
    }
}

impl<'a> Waiting<'a> {
    fn new(args: &'a SubmitArgs, bar: ProgressBar) -> Self {
        Self {
            args,
            bar,
            slots: VecDeque::new(),
            first: 0,
            under_way: FuturesUnordered::new(),
            live: None,
            printed: Printed::default(),
            held_bytes: 0,
            written_bytes: 0,
            failures: 0,
            incomplete: 0,
            ended: 0,
            is_cancelled: false,
            error: None,
            last: None,
        }
    }

    fn wants_more(&self) -> bool {
        let mean_bytes = self.written_bytes / self.ended.max(1);
        let coming_bytes = self.under_way.len() as u64 * mean_bytes;
        let has_room = self.slots.len() < WINDOW && self.held_bytes + coming_bytes < HELD_BYTES_MAX;
        has_room && !self.is_cancelled && self.error.is_none()
    }

    fn add(&mut self, submitted: Submitted) {
        for task in submitted.tasks {
            let (name, task) = (task.id().to_string(), Rc::new(RefCell::new(task)));
            self.under_way.push(UnderWay(self.first + self.slots.len() as u64, Rc::clone(&task)));
            let item = submitted.item.clone();
            self.slots.push_back(Slot { name, number: submitted.number, item, task, end: None });
        }
    }

    /// An item is wrong, or the connection is over: what was submitted goes on to its end.
    fn stop_for(&mut self, error: anyhow::Error) {
        self.error = Some(error);
    }

    fn ended(&mut self, place: u64, end: TaskOutcome) {
        self.ended += 1;
        self.bar.inc(1);
        self.held_bytes += held_bytes(&end);
        self.written_bytes += held_bytes(&end);
        self.incomplete += u64::from(ended::left_out_bytes(&end) > 0);
        self.failures += u64::from(end.is_err() && !(self.is_cancelled && is_cancelled(&end)));
        let place =
            usize::try_from(place - self.first).expect("a slot stays until its task has ended");
        self.slots[place].end = Some(end);
        if self.args.max_fails.is_some_and(|most| self.failures >= most) && !self.is_cancelled {
            self.is_cancelled = true;
            self.slots
                .iter()
                .filter(|slot| slot.end.is_none())
                .for_each(|slot| slot.task.borrow().cancel());
        }
    }

    /// Prints the tasks that have ended, up to the first one that has not; its output comes live
    /// from now on.
    fn print_ended(&mut self) -> Result<()> {
        while self.slots.front().is_some_and(|slot| slot.end.is_some()) {
            let slot = self.slots.pop_front().expect("there is one");
            let end = slot.end.as_ref().expect("it has ended");
            self.first += 1;
            self.held_bytes -= held_bytes(end);
            let (bar, printed, args) = (&self.bar, &mut self.printed, self.args);
            let tells = !self.is_cancelled || !is_cancelled(end);
            bar.suspend(|| print_end(&slot, end, printed, args, tells))?;
            self.last = Some(ended::exit_code(end));
            (self.live, self.printed) = (None, Printed::default());
        }
        if self.live.is_none() && !self.args.json {
            self.live = self.slots.front().map(|slot| slot.task.borrow().output().fuse());
        }
        Ok(())
    }

    fn finish(self) -> Result<ExitCode> {
        self.bar.finish_and_clear();
        if let Some(error) = self.error {
            return Err(error);
        }
        if let Some(code) = self.last.filter(|_| self.ended == 1) {
            return Ok(code);
        }
        if self.failures == 0 {
            return Ok(ended::exit_code_of_all(0, self.incomplete));
        }
        let tasks = print::counted(self.ended, "task");
        let rest =
            if self.is_cancelled { "; the rest is cancelled, as --max-fails says" } else { "" };
        print::note!("furlong: {} of {tasks} failed{rest}", print::grouped(self.failures));
        Ok(ExitCode::FAILURE)
    }
}

fn held_bytes(end: &TaskOutcome) -> u64 {
    let report = ended::report(end);
    let kept = |output: &Output| output.total_bytes() - output.left_out_bytes();
    kept(&report.stdout) + kept(&report.stderr)
}

fn is_cancelled(end: &TaskOutcome) -> bool {
    end.as_ref().is_err_and(|failure| failure.state() == Some(TaskState::Cancelled))
}

fn print_end(
    slot: &Slot,
    end: &TaskOutcome,
    printed: &mut Printed,
    args: &SubmitArgs,
    tells: bool,
) -> Result<()> {
    if args.json {
        let mut document = ended::as_json(end);
        document.set("number", slot.number);
        document.set_os_text("item", slot.item.as_ref());
        return document.print();
    }
    printed.rest(&slot.name, ended::report(end))?;
    match end {
        // A lone command that fails speaks for itself, as it would without a farm.
        Err(failure) if tells && !(args.is_single() && ended::is_exit(failure)) => {
            ended::print_failure(&slot.name, failure);
        }
        _ => {}
    }
    Ok(())
}

impl SubmitArgs {
    /// Returns true if it makes one task.
    fn is_single(&self) -> bool {
        let source = &self.source;
        source.array.is_none()
            && source.each_line.is_none()
            && source.from_json.is_none()
            && self.targets.is_none()
    }
}
