//! Detection of requests to stop a program, and of their cause.

use std::time::{Duration, Instant};
use std::{fmt, io};

use rustix::process::Signal as Number;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::{Receiver, Sender, channel};

/// The reason to stop a program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    /// SIGINT: a person at the terminal, who waits.
    Interrupted,
    /// SIGTERM: a service manager or a batch system. Grid Engine and LSF say with SIGUSR1, SIGUSR2
    /// or SIGXCPU that it comes.
    Terminated,
    /// The end of standard input: whoever started the program has ended.
    StarterEnded,
    /// It could not be asked, as the system gives it no signals.
    NoSignals,
}

impl Reason {
    /// For people.
    pub fn text(self) -> &'static str {
        match self {
            Self::Interrupted => "interrupted",
            Self::Terminated => "terminated",
            Self::StarterEnded => "its starter has ended",
            Self::NoSignals => "signals cannot be received",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

/// Hears each time that the program is asked to stop.
#[derive(Debug)]
pub struct Stop {
    /// None if the system gives no signals.
    heard: Option<Receiver<Reason>>,
    terminated: Repeats,
    began: Instant,
}

impl Stop {
    /// Hears SIGINT, SIGTERM and what means the same from now on, and, if `with_stdin` is set, the
    /// end of standard input: so a program that was started by another ends with it, however that
    /// one ends. Call it within a tokio runtime.
    pub fn new(with_stdin: bool) -> Self {
        let (hear, heard) = channel(WAITING_MAX);
        if with_stdin {
            let hear = hear.clone();
            // A thread, since tokio's own reader of standard input cannot be cancelled and would
            // keep the process.
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
                let _ = hear.blocking_send(Reason::StarterEnded);
            });
        }
        let heard = Signals::new().ok().map(|signals| {
            // A task of its own: a program that waits for many things looks at one of these only.
            tokio::spawn(signals.tell(hear));
            heard
        });
        Self { heard, terminated: Repeats::default(), began: Instant::now() }
    }

    /// Waits until somebody asks, and says what it was. Nothing is lost if it is called anew.
    pub async fn next(&mut self) -> Reason {
        loop {
            let reason = self.next_signal().await;
            let is_terminated = reason == Reason::Terminated;
            if !is_terminated || !self.terminated.note_and_compare(self.began.elapsed()) {
                return reason;
            }
        }
    }

    async fn next_signal(&mut self) -> Reason {
        match &mut self.heard {
            Some(heard) => heard.recv().await.unwrap_or(Reason::NoSignals),
            None => Reason::NoSignals,
        }
    }
}

/// The signals that are heard.
#[derive(Debug)]
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    user1: Signal,
    user2: Signal,
    processor_time: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            user1: signal(SignalKind::user_defined1())?,
            user2: signal(SignalKind::user_defined2())?,
            processor_time: signal(SignalKind::from_raw(Number::XCPU.as_raw()))?,
        })
    }

    /// Tells of each of them, until nobody listens.
    async fn tell(self, hear: Sender<Reason>) {
        let Self { mut interrupt, mut terminate, mut user1, mut user2, mut processor_time } = self;
        loop {
            let reason = tokio::select! {
                _ = interrupt.recv() => Reason::Interrupted,
                _ = terminate.recv() => Reason::Terminated,
                _ = user1.recv() => Reason::Terminated,
                _ = user2.recv() => Reason::Terminated,
                _ = processor_time.recv() => Reason::Terminated,
                () = hear.closed() => return,
            };
            if hear.send(reason).await.is_err() {
                return;
            }
        }
    }
}

/// Signals that repeat an earlier one: Slurm sends SIGTERM twice within milliseconds, which is one
/// wish.
#[derive(Debug, Default)]
struct Repeats {
    first: Option<Duration>,
}

impl Repeats {
    /// A signal comes; true if it is the same as one that came shortly before.
    fn note_and_compare(&mut self, now: Duration) -> bool {
        if self.first.is_some_and(|first| now.saturating_sub(first) < SAME_WITHIN) {
            return true;
        }
        self.first = Some(now);
        false
    }
}

/// So many requests may wait to be heard: others come later.
const WAITING_MAX: usize = 8;
/// The time within which signals are the same one.
const SAME_WITHIN: Duration = Duration::from_secs(2);

/// Waits for the first of what [`Stop`] hears, and returns why.
pub async fn requested(with_stdin: bool) -> &'static str {
    Stop::new(with_stdin).next().await.text()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_within_two_seconds_of_the_first_are_the_same_one() {
        let mut repeats = Repeats::default();
        let at = [0, 8, 1_999, 2_000, 2_001, 3_999, 4_000].map(Duration::from_millis);
        let repeated: Vec<bool> = at.into_iter().map(|now| repeats.note_and_compare(now)).collect();
        assert_eq!(repeated, [false, true, true, false, true, true, false]);
    }
}
