//! One payload for many engines.

use furlong_wire::message::{Payload, Submit, ToEngine};

use crate::core::invariants;
use crate::core::tests::farm::peers::{Farm, direct};

fn chunked(farm: &mut Farm, client: usize, submit: Submit) {
    let payload = farm.clients[client].sending.chunked(300_000);
    farm.submit(client, Submit { payload, ..submit });
    while farm.send_chunk(client) {}
}

fn count(farm: &Farm, process: usize, which: impl Fn(&ToEngine) -> bool) -> usize {
    farm.processes[process].received.iter().filter(|message| which(message)).count()
}

fn is_share(message: &ToEngine) -> bool {
    matches!(message, ToEngine::Share(_))
}

fn is_unshare(message: &ToEngine) -> bool {
    matches!(message, ToEngine::Unshare(_))
}

/// Two processes of three engines, and a payload for all of them, twice for one.
fn all_have_it() -> (Farm, usize, [usize; 2]) {
    let mut farm = Farm::default();
    let client = farm.client();
    let processes = [0; 2].map(|_| farm.engine_with(3, furlong_wire::message::Runtime::ALL));
    let mut ids: Vec<_> =
        processes.iter().flat_map(|process| farm.processes[*process].ids.clone()).collect();
    ids.push(ids[0]);
    chunked(&mut farm, client, direct(&ids));
    (farm, client, processes)
}

#[test]
fn a_payload_for_many_engines_crosses_once_to_each_process() {
    let (mut farm, client, processes) = all_have_it();
    for process in processes {
        while !farm.processes[process].jobs.is_empty() {
            farm.finish(process);
        }
        assert_eq!(count(&farm, process, is_share), 1);
        let is_bare = |message: &ToEngine| match message {
            ToEngine::Assign(assign) => {
                assign.share.is_some() && assign.payload == Payload::Inline(vec![].into())
            }
            _ => false,
        };
        assert!(count(&farm, process, is_bare) >= 1);
        assert_eq!(
            count(&farm, process, is_bare),
            count(&farm, process, |it| matches!(it, ToEngine::Assign(_)))
        );
    }
    assert_eq!(farm.clients[client].finished.len(), 7);
}

#[test]
fn a_shared_payload_is_forgotten_with_the_last_task_that_needs_it() {
    let (mut farm, _, [one, two]) = all_have_it();
    for _ in 0..3 {
        farm.finish(two);
    }
    assert_eq!((count(&farm, one, is_unshare), count(&farm, two, is_unshare)), (0, 0));
    for _ in 0..4 {
        farm.finish(one);
    }
    assert_eq!((count(&farm, one, is_unshare), count(&farm, two, is_unshare)), (1, 1));
    assert_eq!(farm.core.memory.budget.state().0, 0);
    invariants::hold(&farm.core);
}

#[test]
fn a_process_that_comes_back_gets_a_shared_payload_again() {
    let (mut farm, client, [one, _]) = all_have_it();
    farm.disconnect_engine(one);
    farm.connect_engine(one);
    while !farm.processes[one].jobs.is_empty() {
        farm.finish(one);
    }
    assert_eq!(count(&farm, one, is_share), 2, "with the task that had not been given");
    assert_eq!(farm.clients[client].finished.len(), 4);
    invariants::hold(&farm.core);
}
