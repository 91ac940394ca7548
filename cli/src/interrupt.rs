//! Ctrl-C: what a command has begun is ended, and the exit code says so.

use std::process::ExitCode;

use anyhow::Result;
use furlong_client::Client;
use tokio::signal::unix::{SignalKind, signal};

/// As a shell says of a program that SIGINT has ended.
pub const INTERRUPTED: u8 = 130;
/// The same for SIGHUP.
const HUNG_UP: u8 = 129;

/// Runs a command's work until it is done or somebody interrupts it. Then the session ends, and with it all of its
/// tasks that have not ended, except such as are kept.
pub async fn or_cancel(client: &Client, work: impl Future<Output = Result<ExitCode>>) -> Result<ExitCode> {
    or_end(client, work, ": what had not ended is cancelled").await
}

/// Runs a command's work, whose tasks are all kept, until it is done or somebody interrupts it.
pub async fn or_go_on(client: &Client, work: impl Future<Output = Result<ExitCode>>) -> Result<ExitCode> {
    or_end(client, work, ": what was handed over goes on; `furlong queue` lists it, `furlong cancel` ends it").await
}

/// Runs a command's work, which began no tasks, until it is done or somebody interrupts it.
pub async fn or_leave(client: &Client, work: impl Future<Output = Result<ExitCode>>) -> Result<ExitCode> {
    or_end(client, work, "").await
}

async fn or_end(client: &Client, work: impl Future<Output = Result<ExitCode>>, then: &str) -> Result<ExitCode> {
    let mut stop = std::pin::pin!(furlong_link::stop::requested(false));
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

/// Returns when the terminal is gone, unless the command was started so as not to care, as by `nohup`.
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

/// Whether SIGHUP is ignored, as it was when this process was started: the mask has a bit for each signal, from 1 on.
fn is_hangup_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}

/// From now on a second Ctrl-C ends the process without regard to anything.
fn end_at_once_if_asked_again() {
    tokio::spawn(async {
        furlong_link::stop::requested(false).await;
        std::process::exit(i32::from(INTERRUPTED));
    });
}
