//! The way of reports from the slots' threads to the engine's shell: one queue, of which the shell
//! takes all that is there at once. A short task costs a lock that nobody else wants, and seldom a
//! wake.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::{Report, SlotIndex};

/// The queue, and who reads it.
#[derive(Debug, Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    news: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    reports: VecDeque<(SlotIndex, Report)>,
    is_closed: bool,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Reports are put in and taken out whole.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A slot's end of the queue. It is bounded by the work that the broker gives, and the output kept
/// of it.
#[derive(Clone, Debug)]
pub struct EventSender(Arc<Queue>);

/// The shell's end of the queue.
#[derive(Debug)]
pub struct EventReceiver {
    queue: Arc<Queue>,
    /// Those that were taken from the queue and not yet given.
    taken: VecDeque<(SlotIndex, Report)>,
}

/// Nobody reads reports any more: the engine ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the engine ends")]
pub struct NobodyListens;

/// A queue of reports, and its two ends.
pub fn channel() -> (EventSender, EventReceiver) {
    let queue = Arc::new(Queue::default());
    (EventSender(queue.clone()), EventReceiver { queue, taken: VecDeque::new() })
}

impl EventSender {
    /// Adds a report.
    ///
    /// # Errors
    /// The engine ends: nobody listens any more.
    pub fn send(&self, slot: SlotIndex, report: impl Into<Report>) -> Result<(), NobodyListens> {
        let mut waiting = self.0.lock();
        if waiting.is_closed {
            return Err(NobodyListens);
        }
        let is_first = waiting.reports.is_empty();
        waiting.reports.push_back((slot, report.into()));
        drop(waiting);
        // Who takes one takes all: those behind the first are seen without another word.
        if is_first {
            self.0.news.notify_one();
        }
        Ok(())
    }
}

impl EventReceiver {
    /// The next report. It loses nothing when it is dropped before its end.
    pub async fn recv(&mut self) -> (SlotIndex, Report) {
        loop {
            if let Some(report) = self.poll() {
                return report;
            }
            self.queue.news.notified().await;
        }
    }

    /// The next report, if there is one.
    pub fn poll(&mut self) -> Option<(SlotIndex, Report)> {
        if self.taken.is_empty() {
            std::mem::swap(&mut self.taken, &mut self.queue.lock().reports);
        }
        self.taken.pop_front()
    }

    /// The next report, on a thread without a runtime.
    #[cfg(test)]
    pub fn blocking_recv(&mut self) -> (SlotIndex, Report) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(self.recv())
    }
}

impl Drop for EventReceiver {
    fn drop(&mut self) {
        self.queue.lock().is_closed = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::SlotEvent;

    #[tokio::test]
    async fn reports_come_in_their_order_and_none_is_missed() {
        const OF_EACH: u32 = 10_000;
        let (sender, mut receiver) = channel();
        let threads = [0, 1].map(|slot| {
            let sender = sender.clone();
            std::thread::spawn(move || {
                for number in 0..OF_EACH {
                    let cause = number.to_string();
                    sender.send(slot, SlotEvent::Down { cause }).unwrap();
                }
            })
        });
        let mut next = [0; 2];
        while next != [OF_EACH; 2] {
            let (slot, report) = receiver.recv().await;
            let Report::Event(SlotEvent::Down { cause }) = report else { panic!("{report:?}") };
            assert_eq!(cause, next[slot as usize].to_string());
            next[slot as usize] += 1;
        }
        for thread in threads {
            thread.join().unwrap();
        }
        assert!(receiver.poll().is_none());
        drop(receiver);
        assert_eq!(sender.send(0, SlotEvent::Up), Err(NobodyListens));
    }
}
