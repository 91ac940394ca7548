//! Traces in Perfetto's protobuf.
//!
//! A trace is a sequence of packets: descriptors of tracks first, then events. Names are said once
//! and then by number. The fields are those of `perfetto/trace/trace_packet.proto` and
//! `track_event/*.proto`.

use std::collections::HashMap;

use furlong_wire::ids::SessionId;

use super::{Slice, Trace, TracedTask};

/// The sequence of packets: there is one.
const SEQUENCE: u64 = 1;
/// Nothing was said on this sequence before.
const STATE_CLEARED: u64 = 1;
/// Numbers of names are those that were said on this sequence.
const NEEDS_STATE: u64 = 2;
/// The track of all others.
const ROOT: u64 = 1;
/// The track of sessions.
const CLIENTS: u64 = 2;

/// Kinds of events.
const BEGIN: u64 = 1;
const END: u64 = 2;
const INSTANT: u64 = 3;
const COUNTER: u64 = 4;

/// The trace as bytes.
pub(super) fn written(trace: &Trace) -> Vec<u8> {
    let mut writer = Writer { next_track: CLIENTS + 1, ..Writer::default() };
    writer.names(trace);
    writer.track(ROOT, &format!("Furlong: {}", trace.cluster), None);
    writer.event(trace.span_us().0, INSTANT, ROOT, |event, names| {
        event.text(23, &trace.extent());
        event.noted(names, "tasks", trace.tasks.len() as u64);
        event.noted(names, "forgotten", trace.forgotten);
        event.noted(names, "zero_unix_us", trace.zero_unix_us);
    });
    writer.engines(trace);
    writer.sessions(trace);
    writer.counters(trace);
    writer.bytes.0
}

#[derive(Default)]
struct Writer {
    bytes: Message,
    names: Names,
    next_track: u64,
    packet: Message,
    event: Message,
}

/// The numbers of names that were said: of annotations, and of values that are texts.
#[derive(Default)]
struct Names {
    notes: HashMap<&'static str, u64>,
    texts: HashMap<String, u64>,
}

/// Names of annotations.
const NOTES: [&str; 16] = [
    "tasks",
    "forgotten",
    "zero_unix_us",
    "task",
    "state",
    "error",
    "attempts",
    "held_us",
    "queue_us",
    "began_us",
    "load_us",
    "run_us",
    "store_us",
    "request_bytes",
    "result_bytes",
    "kind",
];
/// Names of parts and of events beside those of kinds, whose numbers come after these.
const PARTS: [&str; 5] = ["load", "run", "store", "submit", "end"];

fn part_number(name: &str) -> u64 {
    PARTS.iter().position(|part| *part == name).expect("it is one of the parts") as u64 + 1
}

/// The number of a kind's name.
fn kind_number(kind: usize) -> u64 {
    (PARTS.len() + 1 + kind) as u64
}

impl Writer {
    /// Says all names.
    fn names(&mut self, trace: &Trace) {
        let mut said = Message::default();
        let mut one = Message::default();
        let mut say = |field: u32, number: u64, name: &str| {
            one.0.clear();
            one.number(1, number);
            one.text(2, name);
            said.message(field, &one);
        };
        let events = PARTS.iter().copied().chain(trace.kinds.iter().map(String::as_str));
        events.zip(1..).for_each(|(name, number)| say(2, number, name));
        for (name, number) in NOTES.into_iter().zip(1..) {
            say(3, number, name);
            self.names.notes.insert(name, number);
        }
        let mut texts: Vec<&str> = trace.kinds.iter().map(String::as_str).collect();
        trace.tasks.iter().for_each(|task| texts.push(task.state_text()));
        texts.extend(trace.tasks.iter().filter_map(|task| task.error.as_deref()));
        for text in texts {
            if !self.names.texts.contains_key(text) {
                let number = self.names.texts.len() as u64 + 1;
                say(29, number, text);
                self.names.texts.insert(text.to_owned(), number);
            }
        }
        let mut packet = Message::default();
        packet.number(10, SEQUENCE);
        packet.number(13, STATE_CLEARED | NEEDS_STATE);
        packet.message(12, &said);
        self.bytes.message(1, &packet);
    }

    fn new_track(&mut self, name: &str, parent: u64) -> u64 {
        let number = self.next_track;
        self.next_track += 1;
        self.track(number, name, Some(parent));
        number
    }

    fn track(&mut self, number: u64, name: &str, parent: Option<u64>) {
        self.describe(number, name, parent, |_| {});
    }

    fn describe(
        &mut self,
        number: u64,
        name: &str,
        parent: Option<u64>,
        more: impl FnOnce(&mut Message),
    ) {
        let mut track = Message::default();
        track.number(1, number);
        track.text(2, name);
        if let Some(parent) = parent {
            track.number(5, parent);
        }
        more(&mut track);
        let mut packet = Message::default();
        packet.number(10, SEQUENCE);
        packet.message(60, &track);
        self.bytes.message(1, &packet);
    }

    fn event(
        &mut self,
        at_us: u64,
        kind: u64,
        track: u64,
        more: impl FnOnce(&mut Message, &Names),
    ) {
        self.event.0.clear();
        self.event.number(9, kind);
        self.event.number(11, track);
        more(&mut self.event, &self.names);
        self.packet.0.clear();
        self.packet.number(8, at_us.saturating_mul(1000));
        self.packet.number(10, SEQUENCE);
        self.packet.number(13, NEEDS_STATE);
        self.packet.message(11, &self.event);
        self.bytes.message(1, &self.packet);
    }

    /// Hosts, with their engines below them.
    fn engines(&mut self, trace: &Trace) {
        let mut host: Option<(&str, u64)> = None;
        for engine in &trace.engines {
            let name = trace.host_name(engine);
            let parent = match host {
                Some((known, uuid)) if known == name => uuid,
                _ => self.new_track(name, ROOT),
            };
            host = Some((name, parent));
            for (lane, slices) in engine.lanes.iter().enumerate() {
                let lent = if lane == 0 { "" } else { " (lent)" };
                let uuid = self.new_track(&format!("engine {}{lent}", engine.id), parent);
                slices.iter().for_each(|slice| self.slice(trace, slice, uuid));
            }
        }
    }

    fn slice(&mut self, trace: &Trace, slice: &Slice, uuid: u64) {
        let task = &trace.tasks[slice.task];
        self.event(slice.start_us, BEGIN, uuid, |event, names| {
            event.number(10, kind_number(task.kind));
            annotate(event, names, task);
            event.fixed(47, slice.task as u64 + 1);
        });
        for (name, start_us, end_us) in slice.parts() {
            self.event(start_us, BEGIN, uuid, |event, _| event.number(10, part_number(name)));
            self.event(end_us, END, uuid, |_, _| {});
        }
        self.event(slice.end_us, END, uuid, |_, _| {});
        if task.has_failed() {
            self.event(slice.end_us, INSTANT, uuid, |event, _| event.text(23, &failure(task)));
        }
    }

    /// Sessions, with the submits and ends of their tasks.
    fn sessions(&mut self, trace: &Trace) {
        self.track(CLIENTS, "clients", Some(ROOT));
        let mut tracks: HashMap<SessionId, u64> = HashMap::new();
        for (place, task) in trace.tasks.iter().enumerate() {
            let session = task.id.session;
            let uuid = match tracks.get(&session) {
                Some(uuid) => *uuid,
                None => self.new_track(&format!("session {}", session.prefix()), CLIENTS),
            };
            tracks.insert(session, uuid);
            let flow = place as u64 + 1;
            let Some(_) = task.state else { continue };
            self.event(task.times.submitted_us, INSTANT, uuid, |event, names| {
                event.number(10, part_number("submit"));
                event.said(names, "kind", trace.name(task));
                event.fixed(47, flow);
            });
            self.event(task.times.ended_us, INSTANT, uuid, |event, names| {
                event.number(10, part_number("end"));
                event.said(names, "state", task.state_text());
                event.fixed(48, flow);
            });
            // One that came to no engine has no other place for it.
            if task.has_failed() && task.times.run.busy_us() == 0 {
                let at_us = task.times.ended_us;
                self.event(at_us, INSTANT, uuid, |event, _| event.text(23, &failure(task)));
            }
        }
    }

    fn counters(&mut self, trace: &Trace) {
        for counter in &trace.counters {
            let uuid = self.next_track;
            self.next_track += 1;
            // An empty message makes it a counter.
            self.describe(uuid, counter.name, Some(ROOT), |it| it.message(8, &Message::default()));
            for (at_us, value) in &counter.points {
                self.event(*at_us, COUNTER, uuid, |event, _| event.double(44, *value));
            }
        }
    }
}

/// The words for a failure.
pub(super) fn failure(task: &TracedTask) -> String {
    let state = task.state_text();
    task.error.as_ref().map_or_else(|| state.to_owned(), |error| format!("{state}: {error}"))
}

fn annotate(event: &mut Message, names: &Names, task: &TracedTask) {
    let times = &task.times;
    event.written(names, "task", &task.id.to_string());
    event.said(names, "state", task.state_text());
    if let Some(error) = &task.error {
        event.said(names, "error", error);
    }
    let queued_us = times.queued_us.max(times.submitted_us);
    let assigned_us = times.assigned_us.unwrap_or(times.ended_us);
    let figures = [
        ("attempts", u64::from(task.attempts)),
        ("held_us", queued_us - times.submitted_us),
        ("queue_us", assigned_us.saturating_sub(queued_us)),
        ("began_us", times.run.began_us),
        ("load_us", times.run.load_us),
        ("run_us", times.run.run_us),
        ("store_us", times.run.store_us),
        ("request_bytes", task.bytes.0),
        ("result_bytes", task.bytes.1),
    ];
    let figures = figures.into_iter().filter(|(_, figure)| *figure > 0);
    figures.for_each(|(name, figure)| event.noted(names, name, figure));
}

/// A message of protobuf.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn key(&mut self, field: u32, wire: u64) {
        self.varint(u64::from(field) << 3 | wire);
    }

    fn number(&mut self, field: u32, value: u64) {
        self.key(field, 0);
        self.varint(value);
    }

    fn fixed(&mut self, field: u32, value: u64) {
        self.key(field, 1);
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn double(&mut self, field: u32, value: f64) {
        self.fixed(field, value.to_bits());
    }

    fn text(&mut self, field: u32, text: &str) {
        self.key(field, 2);
        self.varint(text.len() as u64);
        self.0.extend_from_slice(text.as_bytes());
    }

    fn message(&mut self, field: u32, message: &Self) {
        self.key(field, 2);
        self.varint(message.0.len() as u64);
        self.0.extend_from_slice(&message.0);
    }

    /// An annotation that is a number.
    fn noted(&mut self, names: &Names, name: &str, value: u64) {
        self.note(names, name, |note| note.number(3, value));
    }

    /// An annotation that is a text of which there are few.
    fn said(&mut self, names: &Names, name: &str, text: &str) {
        self.note(names, name, |note| note.number(17, names.texts[text]));
    }

    /// An annotation that is a text.
    fn written(&mut self, names: &Names, name: &str, text: &str) {
        self.note(names, name, |note| note.text(6, text));
    }

    fn note(&mut self, names: &Names, name: &str, value: impl FnOnce(&mut Self)) {
        let mut note = Self(Vec::with_capacity(24));
        note.number(1, names.notes[name]);
        value(&mut note);
        self.message(4, &note);
    }
}
