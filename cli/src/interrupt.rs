//! Ctrl-C: what a command has begun is ended, and the exit code says so.

use std::process::ExitCode;

use anyhow::Result;
use furlong_client::Client;

/// As a shell says of a program that SIGINT has ended.
pub const INTERRUPTED: u8 = 130;

/// Runs a command's work until it is done or somebody interrupts it. Then the session ends, and with it all of its
/// tasks that have not ended, except such as are kept.
pub async fn or_cancel(client: &Client, work: impl Future<Output = Result<ExitCode>>) -> Result<ExitCode> {
    or_end(client, work, ": what had not ended is cancelled").await
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
            eprintln!("furlong: {why}{then}");
            end_at_once_if_asked_again();
            Ok(ExitCode::from(INTERRUPTED))
        }
    };
    client.clone().close().await;
    outcome
}

/// From now on a second Ctrl-C ends the process without regard to anything.
fn end_at_once_if_asked_again() {
    tokio::spawn(async {
        furlong_link::stop::requested(false).await;
        std::process::exit(i32::from(INTERRUPTED));
    });
}
