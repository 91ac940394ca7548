//! Output while it comes, of one engine.

use std::pin::pin;
use std::time::Duration;

use anyhow::Result;
use furlong_client::{OutputPiece, TaskFuture, TaskOutcome};
use futures_util::StreamExt;

use crate::ended::Printed;
use crate::print;

/// The duration below which a task's output is printed as if it were not live: nobody has waited
/// for it.
const MOMENT: Duration = Duration::from_millis(300);

/// Waits for the end of a task. If that takes longer than a moment, what it writes is printed while
/// it comes; then what was printed is told with the end.
pub async fn until_end(task: TaskFuture, code: &str) -> Result<(TaskOutcome, Option<Printed>)> {
    let engine = task.engine().map_or("?".to_owned(), |id| id.to_string());
    let mut output = pin!(task.output().fuse());
    let mut task = pin!(task);
    let mut moment = pin!(tokio::time::sleep(MOMENT));
    let mut early: Vec<OutputPiece> = Vec::new();
    let mut printed: Option<Printed> = None;
    let name = format!("engine {engine}");
    loop {
        tokio::select! {
            end = &mut task => return Ok((end, printed)),
            Some(piece) = output.next() => match &mut printed {
                Some(printed) => printed.piece(&name, &piece)?,
                None => early.push(piece),
            },
            () = &mut moment, if printed.is_none() => {
                print::lines(format!("[{engine}] In [*]: {}", code.trim_end_matches('\n')))?;
                let printed = printed.insert(Printed::default());
                early.drain(..).try_for_each(|piece| printed.piece(&name, &piece))?;
            }
        }
    }
}
