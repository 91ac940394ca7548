//! Looks at a running farm, which may be written down.

use anyhow::Result;
use furlong_client::{Client, TaskQuery, Wanted};

use super::pages::{QUEUE_MAX, Shown};
use super::recording::Recorder;
use super::screen::Source;
use super::state::{Page, State};

/// Looks after which a farm is shown, though there is more of it.
const LOOKS_AT_ONCE: usize = 200;

/// A farm that is looked at.
#[derive(Debug)]
pub struct Feed<'a> {
    client: &'a Client,
    recorder: Option<Recorder>,
}

impl<'a> Feed<'a> {
    /// A farm, and the recording of it, if there is one.
    pub fn new(client: &'a Client, recorder: Option<Recorder>) -> Self {
        Self { client, recorder }
    }

    /// Brings what is shown up to date, with what a page needs; with all, if it is recorded.
    ///
    /// # Errors
    /// The connection is gone, the broker refuses, or the recording cannot be written.
    pub async fn look(&mut self, shown: &mut Shown, state: &State) -> Result<()> {
        let is_recorded = self.recorder.is_some();
        let wanted = Wanted {
            ends: is_recorded || state.page == Page::Tasks,
            failures: is_recorded || state.page == Page::Failures,
            // An engine is told when it has changed: who wants its figures wants them always.
            loads: true,
            ..Wanted::default()
        };
        let mut answers = Vec::new();
        for _ in 0..LOOKS_AT_ONCE {
            let seen = self.client.seen(shown.picture.next_look(wanted)).await?;
            if is_recorded {
                answers.push(seen.clone());
            }
            if !shown.picture.update(seen) {
                break;
            }
        }
        if is_recorded || state.page == Page::Queue {
            let open = TaskQuery { ended: Some(false), limit: QUEUE_MAX, ..TaskQuery::default() };
            shown.queue = self.client.query_tasks(open).all().await?;
        }
        if let Some(recorder) = &mut self.recorder {
            let unix_ms = jiff::Timestamp::now().as_millisecond().unsigned_abs();
            recorder.add(unix_ms, answers, &shown.queue)?;
        }
        Ok(())
    }

    /// Where the farm is, and the time of the day.
    pub fn source(&self) -> Source {
        Source {
            endpoint: self.client.endpoint().to_string(),
            clock: jiff::Timestamp::now().strftime("%H:%M:%SZ").to_string(),
            replay: String::new(),
            is_recorded: self.recorder.is_some(),
        }
    }
}
