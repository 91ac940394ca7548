//! The farm as it is seen: a picture that each look brings up to date.
//!
//! A look costs its viewer one question and one answer, which has what has changed since the last
//! one. A farm of ten thousand engines is told in several looks.

pub mod json;
mod notes;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use furlong_wire::ids::{BrokerStart, EngineId};
use furlong_wire::message::{
    EndSeen, EngineSeen, EngineState, FailureSeen, FarmSeen, KindSeen, Look, LookPlace, Note,
    OwnerSeen, Query, ReplyBody, Seen, SeriesRow, SeriesStep,
};

use crate::Client;
use crate::error::ClientError;
use crate::request::{query, refused};

pub use notes::sentence;

/// Ends of tasks that a picture keeps.
const ENDS_KEPT: usize = 10_000;

/// Figures of machines that are so old are asked for anew.
const FRESH_LOAD_US: u64 = 5_000_000;
/// Looks for figures of machines, and the time between two of them.
const LOAD_LOOKS: u32 = 16;
const BETWEEN_LOAD_LOOKS: Duration = Duration::from_millis(50);

/// What is known of a farm.
#[derive(Clone, Debug, Default)]
pub struct Picture {
    /// The broker's time of the last look: microseconds since its start.
    pub at_us: u64,
    /// The farm as a whole.
    pub farm: FarmSeen,
    /// Kinds of tasks, by the broker's number.
    pub kinds: BTreeMap<u32, KindSeen>,
    /// Engines.
    pub engines: BTreeMap<EngineId, EngineSeen>,
    /// Owners of tasks.
    pub owners: Vec<OwnerSeen>,
    /// What the broker's rules have found.
    pub notes: Vec<Note>,
    /// The last ended tasks, if they were asked for: the latest last.
    pub ends: VecDeque<EndSeen>,
    /// The number of ended tasks that were told, those that are no longer kept with them.
    pub ends_told: u64,
    /// The number of ended tasks that could not be told.
    pub ends_missed: u64,
    /// Failures by type and place, if they were asked for: the latest first.
    pub failures: Vec<FailureSeen>,
    /// The series that was asked for last, the oldest step first.
    pub series: Vec<SeriesRow>,
    place: Option<LookPlace>,
}

/// The parts of a picture that are not always wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Wanted {
    /// Ended tasks one by one, from the first look on.
    pub ends: bool,
    /// Failures by type and place.
    pub failures: bool,
    /// The distributions of durations, and not only their percentiles.
    pub ranges: bool,
    /// A series.
    pub series: Option<SeriesStep>,
    /// Figures of engines' machines, which those are asked for as long as somebody wants them.
    /// From the first look on: later ones tell only what has changed.
    pub loads: bool,
}

impl Picture {
    /// The next look, which brings this picture up to date.
    pub fn next_look(&self, wanted: Wanted) -> Look {
        let Wanted { ends, failures, ranges, series, loads } = wanted;
        Look { since: self.place, ends, failures, ranges, series, loads }
    }

    /// The start of the broker that this is a picture of; none before the first look.
    pub fn start(&self) -> Option<BrokerStart> {
        self.place.map(|place| place.start)
    }

    /// Begins anew with ended tasks: the next look tells all that the broker remembers, and not
    /// only those that end from the first look on.
    pub fn rewind_ends(&mut self) {
        self.continue_ends(0);
    }

    /// Continues with the ended tasks from this number on, which [`Picture::next_end`] gave for the
    /// same start of the broker: also one of an earlier process.
    pub fn continue_ends(&mut self, number: u64) {
        self.place.iter_mut().for_each(|place| place.ends = number);
        (self.ends_told, self.ends_missed) = (0, 0);
        self.ends.clear();
    }

    /// The number of the next ended task that is to be told.
    pub fn next_end(&self) -> u64 {
        self.place.map_or(0, |place| place.ends)
    }

    /// Takes an answer. Returns true if there is more to tell at once.
    pub fn update(&mut self, seen: Seen) -> bool {
        if seen.is_new {
            *self = Self::default();
        }
        // An engine that goes on with a task has not changed, and is not told again.
        let later_us = seen.at_us.saturating_sub(self.at_us);
        let running = self.engines.values_mut().filter_map(|engine| engine.running.as_mut());
        running.for_each(|running| running.for_us = running.for_us.saturating_add(later_us));
        (self.at_us, self.farm, self.place) = (seen.at_us, seen.farm, Some(seen.place));
        self.kinds.extend(seen.kinds.into_iter().map(|kind| (kind.id, kind)));
        seen.gone.iter().for_each(|id| _ = self.engines.remove(id));
        self.engines.extend(seen.engines.into_iter().map(|engine| (engine.id, engine)));
        (self.owners, self.notes) = (seen.owners, seen.notes);
        (self.failures, self.series) = (seen.failures, seen.series);
        self.ends_told += seen.ends.len() as u64;
        self.ends.extend(seen.ends);
        self.ends_missed = self.ends_missed.saturating_add(seen.ends_missed);
        let surplus = self.ends.len().saturating_sub(ENDS_KEPT);
        self.ends.drain(..surplus);
        seen.has_more
    }

    /// A kind's name for people.
    pub fn kind_name(&self, id: u32) -> String {
        let Some(kind) = self.kinds.get(&id) else { return "others".to_owned() };
        match (&kind.name, kind.owner) {
            (Some(name), _) => name.clone(),
            (None, Some(_)) => format!("({})", kind.runtime),
            (None, None) => format!("(another owner's {})", kind.runtime),
        }
    }

    /// The time since an engine has answered last, in microseconds; none if it was not asked.
    pub fn silent_us(&self, engine: &EngineSeen) -> Option<u64> {
        engine.load.map(|load| self.at_us.saturating_sub(load.heard_us))
    }

    /// Returns true if each engine that is here has told figures lately.
    fn has_fresh_loads(&self) -> bool {
        let mut online = self.engines.values().filter(|it| it.state != EngineState::Away);
        online.all(|engine| self.silent_us(engine).is_some_and(|it| it < FRESH_LOAD_US))
    }

    /// Tasks of a kind that wait: for others, for an engine, or at one.
    pub fn waiting(kind: &KindSeen) -> u64 {
        kind.submitted.saturating_sub(kind.ended).saturating_sub(u64::from(kind.running))
    }
}

impl Client {
    /// Looks at the farm, and brings a picture of it up to date. One look shows a few hundred
    /// engines; `true` says that there is more to see at once.
    ///
    /// # Errors
    /// The connection is gone, or the broker refuses.
    ///
    /// ```no_run
    /// # use furlong_client::{Client, ClientError};
    /// # async fn watch(client: &Client) -> Result<(), ClientError> {
    /// use furlong_client::{Picture, Wanted};
    ///
    /// let mut picture = Picture::default();
    /// while client.look(&mut picture, Wanted::default()).await? {}
    /// println!("{} tasks wait", picture.farm.tasks_waiting);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn look(&self, picture: &mut Picture, wanted: Wanted) -> Result<bool, ClientError> {
        Ok(picture.update(self.seen(picture.next_look(wanted)).await?))
    }

    /// The broker's answer to a look, for one who keeps it: [`Picture::update`] takes it.
    ///
    /// # Errors
    /// The connection is gone, or the broker refuses.
    pub async fn seen(&self, look: Look) -> Result<Seen, ClientError> {
        match query(&self.handle, Query::Look(Box::new(look))).await? {
            ReplyBody::Seen(seen) => Ok(*seen),
            body => Err(refused(body)),
        }
    }

    /// Goes on to look until all engines that are online have told fresh figures of their machines,
    /// or for most of a second: engines answer the first question after a moment, and those of an
    /// older Furlong never.
    ///
    /// # Errors
    /// The connection is gone, or the broker refuses.
    pub async fn look_for_loads(
        &self,
        picture: &mut Picture,
        wanted: Wanted,
    ) -> Result<(), ClientError> {
        let wanted = Wanted { loads: true, ..wanted };
        for _ in 0..LOAD_LOOKS {
            while self.look(picture, wanted).await? {}
            if picture.has_fresh_loads() {
                break;
            }
            tokio::time::sleep(BETWEEN_LOAD_LOOKS).await;
        }
        Ok(())
    }

    /// Looks at the farm as a whole: kinds, engines, owners, notes, failures, and the last ended
    /// tasks that the broker remembers, 10 000 at most.
    ///
    /// # Errors
    /// The connection is gone, or the broker refuses.
    pub async fn look_whole(&self) -> Result<Picture, ClientError> {
        let mut picture = Picture::default();
        while self.look(&mut picture, Wanted::default()).await? {}
        let start = picture.start();
        picture.rewind_ends();
        let wanted = Wanted { ends: true, failures: true, ..Wanted::default() };
        let until_us = picture.at_us;
        while self.look(&mut picture, wanted).await? {
            // On a busy farm ends come faster than they are told; a new broker has told all.
            let is_late = picture.ends.back().is_some_and(|end| end.at_us > until_us);
            if is_late || picture.start() != start {
                break;
            }
        }
        Ok(picture)
    }
}
