//! The timeline: a row for each engine, and a box for each task, as far as they can be told apart.

use std::collections::BTreeMap;

use furlong_wire::message::{EndSeen, TaskState};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::view::EngineNow;

/// Engines that one answer has at most.
const ROWS_MAX: usize = 100;
/// Pixels of a row at most.
const WIDTH_MAX: u64 = 4_000;

/// The part of the timeline that a page shows.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct TimelineAsked {
    /// Its beginning: microseconds since the broker's start.
    pub from_us: u64,
    /// Its end.
    pub to_us: u64,
    /// Its width in pixels.
    pub width: u64,
    /// The number of engines that are left out at the top.
    #[serde(default)]
    pub skip: usize,
}

/// A task on an engine, or several that are too short to be told apart.
#[derive(Clone, PartialEq, Debug)]
struct Block {
    from_us: u64,
    to_us: u64,
    kind: u32,
    /// The time of the longest of them, which gives them its kind.
    longest_us: u64,
    is_failed: bool,
    is_running: bool,
    count: u64,
    task: Option<String>,
}

/// The boxes of tasks that have ended and that run.
pub fn timeline<'a>(
    asked: TimelineAsked,
    at_us: u64,
    ends: impl Iterator<Item = &'a EndSeen>,
    engines: impl Iterator<Item = &'a EngineNow>,
) -> Value {
    let width = asked.width.clamp(1, WIDTH_MAX);
    let span_us = asked.to_us.saturating_sub(asked.from_us).max(width);
    let mut rows: BTreeMap<u32, (String, Vec<Block>)> = BTreeMap::new();
    let mut running = Vec::new();
    for EngineNow { seen, since_us } in engines {
        rows.insert(seen.id.0, (seen.host.clone(), Vec::new()));
        running.extend(seen.running.zip(*since_us).map(|(it, since_us)| (seen.id.0, it, since_us)));
    }
    let mut tasks = 0_u64;
    for end in ends {
        let Some(block) =
            ended(end).filter(|it| it.to_us > asked.from_us && it.from_us < asked.to_us)
        else {
            continue;
        };
        tasks += 1;
        let engine = end.engine.map_or(u32::MAX, |id| id.0);
        rows.entry(engine).or_default().1.push(block);
    }
    for (engine, it, from_us) in running {
        let block = Block {
            from_us,
            to_us: at_us,
            kind: it.kind,
            longest_us: at_us.saturating_sub(from_us),
            is_failed: false,
            is_running: true,
            count: 1,
            task: it.task.map(|task| task.to_string()),
        };
        if block.to_us > asked.from_us && block.from_us < asked.to_us {
            rows.entry(engine).or_default().1.push(block);
        }
    }
    let all = rows.len();
    let shown = rows.into_iter().skip(asked.skip).take(ROWS_MAX);
    let shown = shown.map(|(engine, (host, blocks))| {
        let blocks: Vec<Value> = merge(blocks, span_us / width).iter().map(as_json).collect();
        json!({ "engine": engine, "host": host, "blocks": blocks })
    });
    json!({ "rows": shown.collect::<Vec<_>>(), "engines": all, "tasks": tasks, "at_us": at_us })
}

/// The box of a task that an engine has ended.
fn ended(end: &EndSeen) -> Option<Block> {
    end.engine?;
    let run = end.phases.run;
    let took_us = run.load_us + run.run_us + run.store_us;
    Some(Block {
        from_us: end.at_us.saturating_sub(took_us),
        to_us: end.at_us,
        kind: end.kind,
        longest_us: took_us,
        is_failed: end.state != TaskState::Succeeded,
        is_running: false,
        count: 1,
        task: Some(end.task.to_string()),
    })
}

/// Makes one of what lies within one pixel, or closer together than one.
fn merge(mut blocks: Vec<Block>, pixel_us: u64) -> Vec<Block> {
    blocks.sort_by_key(|block| block.from_us);
    let mut merged: Vec<Block> = Vec::new();
    for block in blocks {
        let is_small = |it: &Block| it.to_us.saturating_sub(it.from_us) < pixel_us;
        match merged.last_mut() {
            Some(last)
                if block.to_us.saturating_sub(last.from_us) < pixel_us
                    || (is_small(&block)
                        && last.count > 1
                        && block.from_us < last.to_us + pixel_us / 2) =>
            {
                last.add(block);
            }
            _ => merged.push(block),
        }
    }
    merged
}

impl Block {
    fn add(&mut self, other: Self) {
        self.to_us = self.to_us.max(other.to_us);
        if other.longest_us > self.longest_us {
            (self.longest_us, self.kind) = (other.longest_us, other.kind);
        }
        self.is_failed |= other.is_failed;
        self.is_running |= other.is_running;
        self.count += other.count;
        self.task = None;
    }
}

/// As few characters as there can be: there are thousands of them.
fn as_json(block: &Block) -> Value {
    let state = u8::from(block.is_failed) + 2 * u8::from(block.is_running);
    json!([block.from_us, block.to_us, block.kind, state, block.count, block.task])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ends::tests::end;

    fn asked(from_us: u64, to_us: u64) -> TimelineAsked {
        TimelineAsked { from_us, to_us, width: 1_000, skip: 0 }
    }

    #[test]
    fn a_hundred_thousand_short_tasks_are_a_few_boxes_that_count_all_of_them() {
        let ends: Vec<EndSeen> = (0..100_000)
            .map(|n| {
                let state = if n == 70_000 { TaskState::Failed } else { TaskState::Succeeded };
                end(n, (n % 4) as u32, n * 100 + 90, 90, state)
            })
            .collect();
        let shown = timeline(asked(0, 10_000_000), 10_000_000, ends.iter(), std::iter::empty());
        let rows = shown["rows"].as_array().unwrap();
        assert_eq!((rows.len(), &shown["tasks"]), (4, &100_000.into()));
        let blocks: Vec<&Value> =
            rows.iter().flat_map(|row| row["blocks"].as_array().unwrap()).collect();
        assert!(blocks.len() <= 4 * 1_000, "{} boxes", blocks.len());
        assert_eq!(blocks.iter().map(|it| it[4].as_u64().unwrap()).sum::<u64>(), 100_000);
        assert_eq!(blocks.iter().filter(|it| it[3] == 1).count(), 1, "a failure is not lost");
    }

    #[test]
    fn tasks_that_can_be_told_apart_are_and_those_outside_are_left_out() {
        let ends = [
            end(1, 0, 200_000, 100_000, TaskState::Succeeded),
            end(2, 0, 400_000, 100_000, TaskState::Failed),
            end(3, 0, 9_000_000, 10, TaskState::Succeeded),
        ];
        let shown = timeline(asked(0, 1_000_000), 1_000_000, ends.iter(), std::iter::empty());
        let blocks = shown["rows"][0]["blocks"].as_array().unwrap();
        assert_eq!(blocks.len(), 2);
        assert_eq!((&blocks[0][0], &blocks[0][1]), (&100_000.into(), &200_000.into()));
        assert_eq!((&blocks[1][3], &blocks[1][5]), (&1.into(), &ends[1].task.to_string().into()));
    }
}
