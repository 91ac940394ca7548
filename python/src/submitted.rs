//! Tasks that each thread has submitted lately.
//!
//! A signal's handler may raise in a thread between a submit and the line that notes its task.
//! Whoever made the call has no result then, and what was submitted is cancelled by what is known
//! here.

use std::cell::RefCell;
use std::collections::VecDeque;

use furlong_client::{SessionId, TaskId, TaskSeq};

/// Ranges that are kept of a thread, which submits mostly in turn: one call, and those that it
/// makes, need few.
const RANGES_MAX: usize = 1024;

thread_local! {
    static LATELY: RefCell<VecDeque<Range>> = const { RefCell::new(VecDeque::new()) };
}

struct Range {
    session: SessionId,
    first: TaskSeq,
    last: TaskSeq,
}

/// Notes a task that the calling thread has submitted.
pub fn note(id: TaskId) {
    LATELY.with_borrow_mut(|ranges| match ranges.back_mut() {
        Some(range) if range.session == id.session && range.last + 1 == id.n => range.last = id.n,
        _ => {
            if ranges.len() == RANGES_MAX {
                ranges.pop_front();
            }
            ranges.push_back(Range { session: id.session, first: id.n, last: id.n });
        }
    });
}

/// The numbers of those of a session that the calling thread has submitted after this one.
pub fn since(session: SessionId, before: TaskSeq) -> Vec<(TaskSeq, TaskSeq)> {
    LATELY.with_borrow(|ranges| {
        let later = ranges.iter().filter(|range| range.session == session && range.last > before);
        later.map(|range| (range.first.max(before + 1), range.last)).collect()
    })
}
