//! Ctrl-C: what a command has begun is ended, and the exit code says so.

use std::time::Duration;

use anyhow::Result;
use furlong_client::Client;
use furlong_host::stop::{Reason, Stop};
use tokio::signal::unix::{SignalKind, signal};

use crate::exit::ExitCode;

/// As a shell says of a program that SIGINT has ended.
pub const INTERRUPTED: u8 = 130;
/// The same for SIGHUP.
const HUNG_UP: u8 = 129;

/// The time after which tasks that have not stopped are said to go on.
const MOMENT: Duration = Duration::from_millis(1500);
/// The time that the broker has to take a cancel.
const ANSWER: Duration = Duration::from_secs(5);
/// The time to wait for a second Ctrl-C.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs a command's work until it is done or somebody interrupts it. Then all of its tasks that
/// have not ended are cancelled, and Ctrl-C waits until they have stopped; a second one ends by
/// force what does not.
pub async fn or_cancel(
    client: &Client,
    work: impl Future<Output = Result<ExitCode>>,
) -> Result<ExitCode> {
    let mut stop = Stop::new(false);
    let outcome = tokio::select! {
        outcome = work => outcome,
        reason = stop.next() => {
            crate::print::note!("furlong: {reason}: what had not ended is cancelled");
            if reason == Reason::Interrupted {
                cancel_all(client, &mut stop).await;
            }
            end_at_once_if_asked_again();
            Ok(ExitCode::from(INTERRUPTED))
        }
        () = hung_up() => Ok(ExitCode::from(HUNG_UP)),
    };
    client.clone().close().await;
    outcome
}

/// Cancels the session's tasks, and returns when they have stopped, when nobody has asked for
/// force, when somebody has asked for an end thrice, or when the broker does not answer.
async fn cancel_all(client: &Client, stop: &mut Stop) {
    client.cancel_all(false);
    // Any answer says that the broker has taken what went before the question.
    let mut heard = std::pin::pin!(client.engines());
    let mut answer = std::pin::pin!(tokio::time::sleep(ANSWER));
    let mut is_heard = false;
    let mut moment = std::pin::pin!(tokio::time::sleep(MOMENT));
    let mut patience = std::pin::pin!(tokio::time::sleep(PATIENCE));
    let (mut is_told, mut is_forced) = (false, false);
    loop {
        tokio::select! {
            // An error says that nobody can tell.
            _ = client.all_stopped() => return,
            _ = &mut heard, if !is_heard => is_heard = true,
            () = &mut answer, if !is_heard => {
                crate::print::note!(
                    "furlong: the broker does not answer: what runs ends when it finds that this command has left"
                );
                return;
            }
            () = &mut moment, if !is_told && is_heard => {
                is_told = true;
                if !is_forced {
                    crate::print::note!(
                        "furlong: it has not stopped yet; press Ctrl-C again to end it by force: then the variables of \
                         its interpreter are lost"
                    );
                }
            }
            () = &mut patience => {
                crate::print::note!(
                    "furlong: it goes on; `furlong restart` ends it, with the variables there"
                );
                return;
            }
            _ = stop.next() => {
                if std::mem::replace(&mut is_forced, true) {
                    return;
                }
                crate::print::note!("furlong: ending it by force");
                client.cancel_all(true);
            }
        }
    }
}

/// Runs a command's work, whose tasks are all kept, until it is done or somebody interrupts it.
pub async fn or_go_on(
    client: &Client,
    work: impl Future<Output = Result<ExitCode>>,
) -> Result<ExitCode> {
    or_end(
        client,
        work,
        ": what was handed over goes on; `furlong queue` lists it, `furlong cancel` ends it",
    )
    .await
}

/// Runs a command's work, which began no tasks, until it is done or somebody interrupts it.
pub async fn or_leave(
    client: &Client,
    work: impl Future<Output = Result<ExitCode>>,
) -> Result<ExitCode> {
    or_end(client, work, "").await
}

async fn or_end(
    client: &Client,
    work: impl Future<Output = Result<ExitCode>>,
    then: &str,
) -> Result<ExitCode> {
    let mut stop = std::pin::pin!(furlong_host::stop::requested(false));
    let outcome = tokio::select! {
        outcome = work => outcome,
        why = &mut stop => {
            crate::print::note!("furlong: {why}{then}");
            end_at_once_if_asked_again();
            Ok(ExitCode::from(INTERRUPTED))
        }
        () = hung_up() => Ok(ExitCode::from(HUNG_UP)),
    };
    client.clone().close().await;
    outcome
}

/// Returns when the terminal is gone, unless the command was started so as not to care, as by
/// `nohup`.
async fn hung_up() {
    // Looked at before the handler is there.
    if is_hangup_ignored() {
        return std::future::pending().await;
    }
    match signal(SignalKind::hangup()) {
        Ok(mut hangup) => _ = hangup.recv().await,
        Err(_) => std::future::pending().await,
    }
}

/// Returns true if SIGHUP is ignored, as at the start of this process: the mask has a bit for each
/// signal, from 1 on.
fn is_hangup_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask & 1 == 1)
}

/// From now on a second Ctrl-C ends the process without regard to anything.
fn end_at_once_if_asked_again() {
    tokio::spawn(async {
        furlong_host::stop::requested(false).await;
        std::process::exit(i32::from(INTERRUPTED));
    });
}
