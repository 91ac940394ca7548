//! What the page knows of the farm, and what has changed of it since a page was told last.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use furlong_client::{Picture, watch_json};
use furlong_wire::ids::{BrokerStart, EngineId};
use furlong_wire::message::{EngineSeen, KindSeen, SeriesRow, SeriesStep};
use serde_json::{Value, json};

use crate::ends::Ends;

/// What is known.
#[derive(Debug)]
pub struct View {
    /// Of this process: places of another one are void.
    process: u32,
    /// Counted up when all that was told before is void.
    picture: u64,
    number: u64,
    start: Option<BrokerStart>,
    told: u64,
    at_us: u64,
    /// What is told whole each time, as fields of a JSON object.
    head: String,
    kinds: Rows<u32, KindSeen>,
    engines: Rows<EngineId, EngineNow>,
    /// The reason why nothing is heard of the broker.
    cut: Option<String>,
    /// Ended tasks.
    pub ends: Ends,
    series: BTreeMap<SeriesStep, Vec<SeriesRow>>,
}

/// An engine, and the moment at which its task was given to it. One that goes on with a task stays
/// as it is, and is told once.
#[derive(Clone, PartialEq, Debug)]
pub struct EngineNow {
    /// The engine, without the time for which its task has run.
    pub seen: EngineSeen,
    /// The moment, in microseconds since the broker's start.
    pub since_us: Option<u64>,
}

/// The place that a page has come to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ViewPlace {
    process: u32,
    picture: u64,
    number: u64,
}

/// Rows of a table, and the number of the look that changed each last.
#[derive(Debug)]
struct Rows<K, T> {
    rows: BTreeMap<K, Row<T>>,
    /// The look in which rows went.
    gone: u64,
}

#[derive(Debug)]
struct Row<T> {
    seen: T,
    text: String,
    changed: u64,
}

impl View {
    /// Nothing is known yet.
    pub fn new() -> Self {
        Self {
            process: rand::random(),
            picture: 0,
            number: 0,
            start: None,
            told: 0,
            at_us: 0,
            head: fields(&json!({ "farm": null })),
            kinds: Rows::new(),
            engines: Rows::new(),
            cut: None,
            ends: Ends::default(),
            series: BTreeMap::new(),
        }
    }

    /// Takes what a look has brought.
    pub fn update(&mut self, picture: &Picture) {
        if picture.start() != self.start || picture.ends_told < self.told {
            (self.kinds, self.engines, self.ends) = (Rows::new(), Rows::new(), Ends::default());
            self.series.clear();
            self.picture += 1;
        }
        (self.start, self.told) = (picture.start(), picture.ends_told);
        (self.number, self.at_us) = (self.number + 1, picture.at_us);
        self.cut = None;
        let number = self.number;
        self.kinds.update(number, &picture.kinds, |kind| watch_json::kind(picture, kind));
        let engines = picture.engines.iter();
        let engines = engines.map(|(id, engine)| (*id, EngineNow::of(engine, picture.at_us)));
        self.engines.update(number, &engines.collect(), |it| it.as_json(picture));
        self.ends.add(picture.ends_told, picture.ends_missed, &picture.ends);
        let owners: Vec<Value> = picture.owners.iter().map(watch_json::owner).collect();
        let notes: Vec<Value> =
            picture.notes.iter().map(|it| watch_json::note(picture, it)).collect();
        let failures: Vec<Value> =
            picture.failures.iter().map(|it| watch_json::failure(picture, it)).collect();
        self.head = fields(&json!({
            "at_us": picture.at_us, "farm": watch_json::farm(&picture.farm), "owners": owners,
            "notes": notes, "failures": failures, "ends": self.ends.counts(),
        }));
    }

    /// Takes a series.
    pub fn update_series(&mut self, step: SeriesStep, rows: Vec<SeriesRow>) {
        self.series.insert(step, rows);
    }

    /// Nothing is heard of the broker, for this reason; or it is again.
    pub fn note_cut(&mut self, cut: Option<String>) {
        self.cut = cut;
        self.number += 1;
    }

    /// What has changed since a place, as JSON, and the place after it.
    pub fn since(&self, place: ViewPlace) -> (String, ViewPlace) {
        let here = ViewPlace { process: self.process, picture: self.picture, number: self.number };
        let is_known = (place.process, place.picture) == (here.process, here.picture);
        let since = if is_known { place.number } else { 0 };
        let cut = json!(self.cut);
        let mut text = format!("{{\"whole\":{},\"cut\":{cut},{}", !is_known, self.head);
        self.kinds.write(&mut text, "kinds", since);
        self.engines.write(&mut text, "engines", since);
        text.push('}');
        (text, here)
    }

    /// A series in columns, if there is one of this step.
    pub fn series(&self, step: SeriesStep) -> Value {
        let rows = self.series.get(&step).map_or(&[][..], Vec::as_slice);
        let column = |of: fn(&SeriesRow) -> f32| -> Vec<f32> { rows.iter().map(of).collect() };
        json!({
            "at_s": rows.iter().map(|row| row.at_s).collect::<Vec<_>>(),
            "ended": column(|row| row.ended), "failed": column(|row| row.failed),
            "unfinished": column(|row| row.unfinished), "assigned": column(|row| row.assigned),
            "engines": column(|row| row.engines), "queue_s": column(|row| row.queue_s),
            "way_s": column(|row| row.way_s + row.began_s), "load_s": column(|row| row.load_s),
            "run_s": column(|row| row.run_s), "store_s": column(|row| row.store_s),
        })
    }

    /// The moment of the last look, by the broker's clock.
    pub fn at_us(&self) -> u64 {
        self.at_us
    }

    /// The engines.
    pub fn engines(&self) -> impl Iterator<Item = &EngineNow> {
        self.engines.rows.values().map(|row| &row.seen)
    }
}

impl EngineNow {
    /// An engine as it was seen at a moment.
    pub fn of(engine: &EngineSeen, at_us: u64) -> Self {
        let mut seen = engine.clone();
        let since_us = seen.running.as_mut().map(|running| {
            let for_us = std::mem::take(&mut running.for_us);
            at_us.saturating_sub(for_us)
        });
        Self { seen, since_us }
    }

    fn as_json(&self, picture: &Picture) -> Value {
        let mut value = watch_json::engine(picture, &self.seen);
        if let Some(running) = value["running"].as_object_mut() {
            running.remove("for_us");
            running.insert("since_us".to_owned(), json!(self.since_us));
        }
        value
    }
}

impl ViewPlace {
    /// A place as text, for the browser to give back.
    pub fn to_text(self) -> String {
        format!("{:08x}-{}-{}", self.process, self.picture, self.number)
    }

    /// The place of such a text; any other is as good as none.
    pub fn from_text(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let process = u32::from_str_radix(parts.next()?, 16).ok()?;
        let (picture, number) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        parts.next().is_none().then_some(Self { process, picture, number })
    }
}

impl<K: Ord + Copy + serde::Serialize, T: PartialEq + Clone> Rows<K, T> {
    fn new() -> Self {
        Self { rows: BTreeMap::new(), gone: 0 }
    }

    fn update(&mut self, number: u64, all: &BTreeMap<K, T>, as_json: impl Fn(&T) -> Value) {
        let before = self.rows.len();
        self.rows.retain(|key, _| all.contains_key(key));
        if self.rows.len() < before {
            self.gone = number;
        }
        for (key, seen) in all {
            if self.rows.get(key).is_some_and(|row| row.seen == *seen) {
                continue;
            }
            let (seen, text) = (seen.clone(), as_json(seen).to_string());
            self.rows.insert(*key, Row { seen, text, changed: number });
        }
    }

    /// Writes rows that have changed since then; and which are left, if some are gone.
    fn write(&self, text: &mut String, name: &str, since: u64) {
        let changed = self.rows.values().filter(|row| row.changed > since);
        let changed: Vec<&str> = changed.map(|row| row.text.as_str()).collect();
        write!(text, ",\"{name}\":[{}]", changed.join(",")).expect("a string takes any text");
        if self.gone > since {
            let left: Vec<&K> = self.rows.keys().collect();
            write!(text, ",\"{name}_left\":{}", json!(left)).expect("a string takes any text");
        }
    }
}

/// The fields of a JSON object, without its braces.
fn fields(object: &Value) -> String {
    let text = object.to_string();
    text[1..text.len() - 1].to_owned()
}

#[cfg(test)]
mod tests {
    use furlong_wire::message::{EngineState, FarmSeen, Look, LookPlace, RunningSeen, Seen};

    use super::*;

    fn engine(id: u32, ended: u64) -> EngineSeen {
        EngineSeen {
            id: EngineId(id),
            host: "lab".to_owned(),
            pid: 1,
            state: EngineState::Idle,
            running: None,
            assigned: 0,
            queued: 0,
            ended,
            failed: 0,
            busy_us: 0,
            deaths: 0,
            pace_percent: None,
            load: None,
        }
    }

    fn seen(start: u8, engines: Vec<EngineSeen>, gone: Vec<EngineId>, is_new: bool) -> Seen {
        let start = BrokerStart(u64::from(start));
        Seen {
            at_us: 5,
            place: LookPlace { start, told: 0, began: 0, kind: 0, engine: None, ends: 0 },
            is_new,
            has_more: false,
            farm: FarmSeen::default(),
            kinds: vec![],
            engines,
            gone,
            owners: vec![],
            notes: vec![],
            ends: vec![],
            ends_missed: 0,
            failures: vec![],
            series: vec![],
        }
    }

    fn told(view: &View, place: ViewPlace) -> (Value, ViewPlace) {
        let (text, place) = view.since(place);
        (serde_json::from_str(&text).unwrap(), place)
    }

    #[test]
    fn a_page_is_told_what_has_changed_since_it_was_told_last() {
        let (mut view, mut picture) = (View::new(), Picture::default());
        assert_eq!(picture.next_look(furlong_client::Wanted::default()), Look::default());
        picture.update(seen(1, vec![engine(0, 1), engine(1, 1)], vec![], true));
        view.update(&picture);
        let (first, place) = told(&view, ViewPlace::default());
        assert_eq!(
            (&first["whole"], first["engines"].as_array().unwrap().len()),
            (&true.into(), 2)
        );
        picture.update(seen(1, vec![engine(1, 9)], vec![], false));
        view.update(&picture);
        let (second, place) = told(&view, ViewPlace::from_text(&place.to_text()).unwrap());
        assert_eq!(
            (&second["whole"], second["engines"].as_array().unwrap().len()),
            (&false.into(), 1)
        );
        assert_eq!(second["engines"][0]["ended"], 9);
        assert_eq!(second["engines_left"], Value::Null);
        picture.update(seen(1, vec![], vec![EngineId(0)], false));
        view.update(&picture);
        let (third, place) = told(&view, place);
        assert_eq!((&third["engines"], &third["engines_left"]), (&json!([]), &json!([1])));
        picture.update(seen(2, vec![engine(5, 0)], vec![], true));
        view.update(&picture);
        let (fourth, _) = told(&view, place);
        assert_eq!((&fourth["whole"], &fourth["engines"][0]["id"]), (&true.into(), &5.into()));
    }

    #[test]
    fn an_engine_that_goes_on_with_a_task_is_told_once() {
        let (mut view, mut picture) = (View::new(), Picture::default());
        let running = Some(RunningSeen { task: None, kind: 1, for_us: 2 });
        picture.update(seen(1, vec![EngineSeen { running, ..engine(0, 1) }], vec![], true));
        view.update(&picture);
        let (first, place) = told(&view, ViewPlace::default());
        assert_eq!(first["engines"][0]["running"]["since_us"], 3);
        picture.update(Seen { at_us: 1_000, ..seen(1, vec![], vec![], false) });
        assert_eq!(picture.engines[&EngineId(0)].running.unwrap().for_us, 997);
        view.update(&picture);
        assert_eq!(told(&view, place).0["engines"], json!([]));
    }

    #[test]
    fn a_place_of_another_process_or_of_nobody_gets_everything() {
        let (mut view, mut picture) = (View::new(), Picture::default());
        picture.update(seen(1, vec![engine(0, 1)], vec![], true));
        view.update(&picture);
        let (_, mut place) = told(&view, ViewPlace::default());
        place.process ^= 1;
        assert_eq!(told(&view, place).0["whole"], true);
        for wrong in ["", "x", "1-2", "1-2-3-4", "zz-1-1", "1-1-99999999999999999999999"] {
            assert_eq!(ViewPlace::from_text(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_cut_is_told_until_the_next_look() {
        let (mut view, picture) = (View::new(), Picture::default());
        view.note_cut(Some("is gone".to_owned()));
        assert_eq!(told(&view, ViewPlace::default()).0["cut"], "is gone");
        view.update(&picture);
        assert_eq!(told(&view, ViewPlace::default()).0["cut"], Value::Null);
    }
}
