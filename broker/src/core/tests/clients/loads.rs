//! Figures of machines, for those who look.

use std::time::Duration;

use furlong_wire::message::{
    FromEngine, Look, LookPlace, MachineLoad, Measured, NoteCode, SlotLoad, ToEngine,
};
use furlong_wire::token::Role;

use super::look::look;
use crate::core::invariants;
use crate::core::tests::farm::peers::Farm;

/// An engine that knows nothing of figures.
fn old_engine(farm: &mut Farm) -> usize {
    let abilities = std::mem::take(&mut farm.abilities);
    let engine = farm.engine();
    farm.abilities = abilities;
    engine
}

fn loads(since: Option<LookPlace>) -> Look {
    Look { since, loads: true, ..Look::default() }
}

fn questions(farm: &Farm, engine: usize) -> Vec<u64> {
    let received = &farm.processes[engine].received;
    let asked = received.iter().filter_map(|message| match message {
        ToEngine::Measure(measure) => Some(measure.number),
        _ => None,
    });
    asked.collect()
}

fn measured(number: u64, slots: usize) -> FromEngine {
    let slot = SlotLoad { cpu_percent: Some(97), resident_bytes: 5_000 };
    let machine = MachineLoad { cores: 8, ..MachineLoad::default() };
    FromEngine::Measured(Measured { number, machine, slots: vec![slot; slots] })
}

#[test]
fn machines_are_asked_only_while_somebody_wants_to_know_and_now_and_then() {
    let mut farm = Farm::default();
    let (viewer, other) = (farm.client_as(Role::Observer), farm.client_as(Role::Observer));
    let engine = farm.engine();
    look(&mut farm, viewer, Look::default());
    assert_eq!(questions(&farm, engine), [0; 0], "nobody wants figures");
    let seen = look(&mut farm, viewer, loads(None));
    assert_eq!(seen.engines[0].load, None);
    look(&mut farm, other, loads(None));
    let asked = questions(&farm, engine);
    assert_eq!(asked.len(), 1, "two viewers cost no more than one");
    farm.wait(Duration::from_millis(3));
    farm.report(engine, measured(asked[0], 1)).unwrap();
    let seen = look(&mut farm, viewer, loads(Some(seen.place)));
    let load = seen.engines[0].load.unwrap();
    assert_eq!((load.answer_us, load.slot.resident_bytes, load.machine.cores), (3_000, 5_000, 8));
    let plain = look(&mut farm, other, Look::default());
    assert_eq!(plain.engines[0].load, None, "who does not want figures gets none");
    farm.wait(Duration::from_secs(4));
    look(&mut farm, viewer, loads(None));
    assert_eq!(questions(&farm, engine).len(), 1, "what is known is fresh");
    farm.wait(Duration::from_secs(1));
    look(&mut farm, viewer, loads(None));
    assert_eq!(questions(&farm, engine).len(), 2);
    invariants::hold(&farm.core);
}

#[test]
fn a_process_that_does_not_answer_is_silent_and_nobody_waits_for_an_old_one() {
    let mut farm = Farm::default();
    let viewer = farm.client_as(Role::Observer);
    let (engine, old) = (farm.engine(), old_engine(&mut farm));
    let place = look(&mut farm, viewer, loads(None)).place;
    farm.wait(Duration::from_millis(6_900));
    let seen = look(&mut farm, viewer, loads(Some(place)));
    assert_eq!((seen.notes.len(), questions(&farm, old).len()), (0, 0), "{:?}", seen.notes);
    farm.wait(Duration::from_millis(200));
    let silent = look(&mut farm, viewer, loads(Some(place))).notes;
    assert_eq!((silent.len(), silent[0].code, silent[0].count), (1, NoteCode::Silent, 7_100));
    assert_eq!(look(&mut farm, viewer, Look::default()).notes, [], "others are not told");
    let asked = questions(&farm, engine);
    assert_eq!(asked.len(), 1, "it is not asked again before it has answered");
    farm.report(engine, measured(asked[0] + 1, 1)).unwrap();
    assert_eq!(look(&mut farm, viewer, loads(Some(place))).notes.len(), 1, "no answer to this");
    farm.report(engine, measured(asked[0], 1)).unwrap();
    assert_eq!(look(&mut farm, viewer, loads(Some(place))).notes, []);
}

#[test]
fn figures_of_more_slots_than_there_are_close_their_process() {
    let mut farm = Farm::default();
    let viewer = farm.client_as(Role::Observer);
    let engine = farm.engine();
    look(&mut farm, viewer, loads(None));
    let asked = questions(&farm, engine);
    assert!(farm.report(engine, measured(asked[0], 2)).is_err());
}

#[test]
fn figures_from_before_a_long_pause_are_not_told() {
    let mut farm = Farm::default();
    let viewer = farm.client_as(Role::Observer);
    let engine = farm.engine();
    look(&mut farm, viewer, loads(None));
    let asked = questions(&farm, engine);
    farm.report(engine, measured(asked[0], 1)).unwrap();
    assert!(look(&mut farm, viewer, loads(None)).engines[0].load.is_some());
    farm.wait(Duration::from_secs(100));
    let seen = look(&mut farm, viewer, loads(None));
    assert_eq!((seen.engines[0].load, questions(&farm, engine).len()), (None, 2));
    assert_eq!(seen.notes, [], "it was asked just now");
}
