//! `furlong cancel` and `furlong purge`.

use anyhow::Result;
use serde_json::json;

use crate::connect::ConnectArgs;
use crate::exit::ExitCode;
use crate::print;
use crate::selected::{ASKING, SelectArgs};

/// Ranges of tasks in one request, as the broker takes them.
const RANGES_PER_REQUEST: usize = 1000;

const AFTER_CANCEL: &str = "\
A task that waits is gone at once. One that runs is interrupted: a command gets SIGTERM and is killed after a second,
Python code gets KeyboardInterrupt. With --force an interpreter that does not respond to it is killed after a second too, and
its namespace goes with it. With --waiting what runs goes on. Tasks of other sessions of the same owner can be cancelled
as well.

Exit codes: 0 also if the tasks had ended before; 1 no such task is known, or an error; 2 wrong usage.

Examples:
  furlong cancel last
  furlong cancel k3f9a2:5-10,15
  furlong cancel --label 'night-*' --force
  furlong cancel last --waiting";

const AFTER_PURGE: &str = "\
Results and output of ended tasks are kept for an hour when their submit asked for it, as `furlong submit` does without
--wait. Tasks that have not ended are passed over.

Exit codes: 0 purged; 1 no such task is known, or an error; 2 wrong usage.

Examples:
  furlong purge last
  furlong purge --label 'night-*'";

/// Flags of `cancel`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = AFTER_CANCEL, after_help = "`--help` says more, with examples.")]
pub struct CancelArgs {
    #[command(flatten)]
    select: SelectArgs,
    /// Kill an interpreter that does not respond to the interrupt
    #[arg(long)]
    force: bool,
    /// Cancel only what has not begun
    #[arg(long, conflicts_with = "force")]
    waiting: bool,
    /// Print a JSON document
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// Cancels tasks, and says how many.
pub async fn cancel(args: CancelArgs) -> Result<ExitCode> {
    let client = args.connect.connect(ASKING).await?;
    let (ranges, known) = args.select.ranges(&client, None).await?;
    let mut cancelled = 0;
    for ranges in ranges.chunks(RANGES_PER_REQUEST) {
        let ended = if args.waiting {
            client.take_back(ranges).await?
        } else {
            client.cancel_tasks(ranges, args.force).await?
        };
        cancelled += ended.cancelled;
    }
    client.close().await;
    // Of kept tasks the broker does not count those that ended long ago.
    let finished = known.saturating_sub(cancelled);
    if args.json {
        print::json_line(&json!({ "cancelled": cancelled, "finished": finished }))?;
    } else {
        let before = if finished > 0 {
            format!(", {} had ended before", print::grouped(finished))
        } else {
            String::new()
        };
        print::line(format!("{} cancelled{before}", print::counted(cancelled, "task")))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Flags of `purge`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = AFTER_PURGE, after_help = "`--help` says more, with examples.")]
pub struct PurgeArgs {
    #[command(flatten)]
    select: SelectArgs,
    /// Print a JSON document
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// Forgets kept results, and says how many.
pub async fn purge(args: PurgeArgs) -> Result<ExitCode> {
    let client = args.connect.connect(ASKING).await?;
    let (ranges, purged) = args.select.ranges(&client, Some(true)).await?;
    for ranges in ranges.chunks(RANGES_PER_REQUEST) {
        client.purge(ranges).await?;
    }
    client.close().await;
    if args.json {
        print::json_line(&json!({ "purged": purged }))?;
    } else {
        print::line(format!("{} purged", print::counted(purged, "result")))?;
    }
    Ok(ExitCode::SUCCESS)
}
