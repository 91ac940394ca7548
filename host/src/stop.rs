//! Detection of requests to stop a program, and of their cause.

use std::fmt;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

/// The reason to stop a program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    /// SIGINT: a person at the terminal, who waits.
    Interrupted,
    /// SIGTERM: a service manager or a batch system.
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
    signals: Option<(Signal, Signal)>,
    stdin: Option<oneshot::Receiver<()>>,
}

impl Stop {
    /// Hears SIGINT and SIGTERM from now on, and, if `with_stdin` is set, the end of standard
    /// input: so a program that was started by another ends with it, however that one ends. Call it
    /// within a tokio runtime.
    pub fn new(with_stdin: bool) -> Self {
        let signals = signal(SignalKind::interrupt())
            .and_then(|it| Ok((it, signal(SignalKind::terminate())?)));
        let stdin = with_stdin.then(|| {
            let (ended, end) = oneshot::channel();
            // A thread, since tokio's own reader of standard input cannot be cancelled and would
            // keep the process.
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
                let _ = ended.send(());
            });
            end
        });
        Self { signals: signals.ok(), stdin }
    }

    /// Waits until somebody asks, and says what it was. Nothing is lost if it is called anew.
    pub async fn next(&mut self) -> Reason {
        let Some((interrupt, terminate)) = &mut self.signals else { return Reason::NoSignals };
        let stdin = async {
            match &mut self.stdin {
                Some(end) => drop(end.await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = interrupt.recv() => Reason::Interrupted,
            _ = terminate.recv() => Reason::Terminated,
            () = stdin => {
                self.stdin = None;
                Reason::StarterEnded
            }
        }
    }
}

/// Waits for the first of what [`Stop`] hears, and returns why.
pub async fn requested(with_stdin: bool) -> &'static str {
    Stop::new(with_stdin).next().await.text()
}
