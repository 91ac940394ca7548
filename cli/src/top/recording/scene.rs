//! The farm at a look of a recording.

use std::collections::BTreeMap;

use anyhow::Result;
use furlong_client::{Picture, TaskId};
use furlong_wire::message::TaskRecord;

use super::Recording;
use crate::top::pages::Shown;

/// Scenes that are kept for jumps back.
const KEPT_MAX: usize = 32;

/// The farm as it was at a look.
#[derive(Clone, Debug, Default)]
struct Scene {
    picture: Picture,
    /// Tasks that had not ended, each with the time at which it was told.
    queue: BTreeMap<TaskId, (TaskRecord, u64)>,
    endpoint: String,
    /// The number of looks that it has.
    looks: usize,
}

/// A recording that is wound to and fro.
#[derive(Debug)]
pub struct Reel {
    recording: Recording,
    scene: Scene,
    /// Scenes by the number of their looks.
    kept: BTreeMap<usize, Scene>,
    /// The number of looks between two scenes that are kept.
    spacing: usize,
}

impl Reel {
    /// A recording, before its first look.
    pub fn new(recording: Recording) -> Self {
        Self { recording, scene: Scene::default(), kept: BTreeMap::new(), spacing: 64 }
    }

    /// Winds to a look.
    ///
    /// # Errors
    /// A record that is needed for it cannot be read.
    pub fn wind(&mut self, look: usize) -> Result<()> {
        let whole = self.recording.whole_before(look);
        if self.scene.looks > look + 1 || self.scene.looks <= whole {
            let kept =
                self.kept.range(..=look + 1).next_back().filter(|(looks, _)| **looks > whole);
            self.scene = match kept {
                Some((_, scene)) => scene.clone(),
                None => Scene { looks: whole, ..Scene::default() },
            };
        }
        while self.scene.looks <= look {
            self.scene.add(&self.recording)?;
            self.keep();
        }
        Ok(())
    }

    /// Keeps the scene if it is time for one. With too many, every second one goes.
    fn keep(&mut self) {
        let looks = self.scene.looks;
        if !looks.is_multiple_of(self.spacing) {
            return;
        }
        self.kept.entry(looks).or_insert_with(|| self.scene.clone());
        if self.kept.len() > KEPT_MAX {
            self.spacing *= 2;
            self.kept.retain(|looks, _| looks.is_multiple_of(self.spacing));
        }
    }

    /// The farm at the look, as the pages show it.
    pub fn shown(&self) -> Shown {
        let unix_ms = self.unix_ms();
        let record = |(record, told_ms): &(TaskRecord, u64)| {
            let mut record = record.clone();
            let later_us = unix_ms.saturating_sub(*told_ms).saturating_mul(1_000);
            record.times.now_us = record.times.now_us.saturating_add(later_us);
            record
        };
        let queue = self.scene.queue.values().map(record).collect();
        Shown { picture: self.scene.picture.clone(), queue }
    }

    /// The time of the look: milliseconds since 1970.
    pub fn unix_ms(&self) -> u64 {
        self.recording.unix_ms(self.scene.looks.saturating_sub(1))
    }

    /// The broker's endpoint at the look.
    pub fn endpoint(&self) -> &str {
        &self.scene.endpoint
    }
}

impl Scene {
    /// Takes the next look.
    fn add(&mut self, recording: &Recording) -> Result<()> {
        let body = recording.read(self.looks)?;
        if recording.whole_before(self.looks) == self.looks {
            self.queue.clear();
        }
        for seen in body.seen {
            self.picture.update(seen);
        }
        for id in body.left {
            self.queue.remove(&id);
        }
        let unix_ms = recording.unix_ms(self.looks);
        let told = body.queue.into_iter().map(|record| (record.id, (record, unix_ms)));
        self.queue.extend(told);
        self.endpoint = body.endpoint;
        self.looks += 1;
        Ok(())
    }
}

#[cfg(test)]
impl Reel {
    /// The looks of the scenes that are kept.
    pub fn kept(&self) -> impl Iterator<Item = usize> {
        self.kept.keys().copied()
    }
}
