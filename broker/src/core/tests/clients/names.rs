//! The broker's knowledge of what a task is: names of kinds of tasks, types of errors, times.

use furlong_wire::ids::{SessionId, TaskSeq};
use furlong_wire::limits::{ERROR_TYPE_BYTES_MAX, NAME_BYTES_MAX};
use furlong_wire::message::{
    AttemptFinished, ErrorKind, FromClient, FromEngine, KindName, Open, Outcome, Raised, RunTimes,
    Runtime, Submit, TaskError, TaskOptions, TaskRecord, TaskState, ToEngine,
};
use furlong_wire::payload::PayloadSecret;
use furlong_wire::token::{Role, TokenLimits};

use crate::core::tests::farm::peers::{Farm, peer, python, shared, with};
use crate::core::{ConnectionId, Core, PeerMisbehaved, invariants};

fn kind(class: u32, name: &str) -> FromClient {
    FromClient::Name(KindName { class, runtime: Runtime::Native, name: name.into() })
}

fn says(farm: &mut Farm, client: usize, class: u32, name: &str) -> Result<(), PeerMisbehaved> {
    farm.say(client, kind(class, name))
}

fn keep() -> TaskOptions {
    TaskOptions { keep: true, ..TaskOptions::default() }
}

fn record(farm: &mut Farm, asks: usize, client: usize, n: u64) -> TaskRecord {
    let request = farm.fetch(asks, client, n, false, false);
    *farm.fetched(asks, request).expect("the task is known").record
}

fn name_of(farm: &mut Farm, client: usize, n: u64) -> Option<String> {
    record(farm, client, client, n).name
}

fn failed(raised: Option<Raised>) -> Outcome {
    let error = TaskError { kind: ErrorKind::Remote, text: String::new(), raised };
    Outcome { state: TaskState::Failed, error: Some(Box::new(error)) }
}

/// The oldest job ends so.
fn ends(farm: &mut Farm, engine: usize, outcome: Outcome, times: RunTimes) {
    let attempt = farm.processes[engine].jobs.remove(0).attempt;
    let finished = AttemptFinished { attempt, outcome, times, payload: None };
    farm.report(engine, FromEngine::Finished(finished)).unwrap();
}

#[test]
fn a_record_says_the_name_of_its_kind_from_the_submit_to_the_end() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), farm.engine());
    says(&mut farm, client, 1, "fit").unwrap();
    let n = farm.submit(client, shared());
    let unnamed = farm.submit(client, Submit { class: 9, ..shared() });
    let elsewhere = farm.submit(client, Submit { class: 1, ..python(shared()) });
    assert_eq!(name_of(&mut farm, client, n).as_deref(), Some("fit"));
    assert_eq!(name_of(&mut farm, client, unnamed), None);
    assert_eq!(name_of(&mut farm, client, elsewhere), None, "a class is one runtime's");
    farm.finish(engine);
    assert_eq!(name_of(&mut farm, client, n).as_deref(), Some("fit"));
    invariants::hold(&farm.core);
}

#[test]
fn a_name_that_is_said_again_is_the_new_one_and_counted_once() {
    let mut farm = Farm::default();
    let client = farm.client();
    let n = farm.submit(client, shared());
    for name in ["fit", "fit", "another", ""] {
        says(&mut farm, client, 1, name).unwrap();
        assert_eq!(name_of(&mut farm, client, n).as_deref(), Some(name));
        invariants::hold(&farm.core);
    }
}

#[test]
fn what_is_kept_has_its_name_when_its_session_is_over() {
    let mut farm = Farm::default();
    let (client, other, engine) = (farm.client(), farm.client(), farm.engine());
    says(&mut farm, client, 1, "fit").unwrap();
    let n = farm.submit(client, with(shared(), keep()));
    farm.finish(engine);
    farm.ack(client, n, n);
    farm.goodbye(client);
    assert_eq!(record(&mut farm, other, client, n).name.as_deref(), Some("fit"));
    invariants::hold(&farm.core);
}

#[test]
fn names_are_bounded_in_length_and_number_and_the_last_goodbye_frees_them() {
    let mut farm = Farm::with_limits(8 << 20, 1_000);
    let client = farm.client();
    for class in 0..4_096 {
        says(&mut farm, client, class, "n").unwrap();
    }
    // One that has a name already may have another.
    says(&mut farm, client, 7, &"n".repeat(NAME_BYTES_MAX)).unwrap();
    assert!(farm.core.memory.budget.state().0 > 4_096);
    invariants::hold(&farm.core);
    let beyond = says(&mut farm, client, u32::MAX, "n");
    assert_eq!(beyond, Err(PeerMisbehaved::Limit));
    let other = farm.client();
    let long = says(&mut farm, other, 1, &"n".repeat(NAME_BYTES_MAX + 1));
    assert_eq!(long, Err(PeerMisbehaved::Limit));
    let third = farm.client();
    says(&mut farm, third, 1, "fit").unwrap();
    farm.goodbye(third);
    assert_eq!(farm.core.memory.budget.state().0, 0, "misbehaving sessions have ended, too");
}

#[test]
fn without_room_a_kind_has_no_name_and_its_tasks_go_on() {
    let mut farm = Farm::default();
    let client = farm.absent_client(Role::Client);
    farm.clients[client].limits = TokenLimits { payload_bytes_max: 150, ..TokenLimits::default() };
    farm.connect_client(client).unwrap();
    says(&mut farm, client, 1, "fit").unwrap();
    says(&mut farm, client, 2, "predict").unwrap();
    let n = farm.submit(client, shared());
    let nameless = farm.submit(client, Submit { class: 2, ..shared() });
    assert_eq!(name_of(&mut farm, client, n).as_deref(), Some("fit"));
    assert_eq!(name_of(&mut farm, client, nameless), None);
    invariants::hold(&farm.core);
}

#[test]
fn an_observers_names_are_not_kept_and_do_it_no_harm() {
    let mut farm = Farm::default();
    let observer = farm.client_as(Role::Observer);
    assert_eq!(says(&mut farm, observer, 1, "fit"), Ok(()));
    assert_eq!(farm.core.memory.budget.state().0, 0);
}

#[test]
fn durable_tasks_have_their_names_after_a_restart_ended_or_not() {
    let mut farm = Farm::with_journal(8 << 20, 10_000);
    let (client, engine) = (farm.client(), farm.engine());
    says(&mut farm, client, 1, "fit").unwrap();
    let durable = || TaskOptions { durable: true, ..keep() };
    let [ended, waits] = [(); 2].map(|()| farm.submit(client, with(shared(), durable())));
    let raised = Some(Raised::new("ValueError", 7));
    let times = RunTimes { began_us: 1, load_us: 2, run_us: 3, store_us: 4 };
    ends(&mut farm, engine, failed(raised.clone()), times);
    farm.restart();
    let other = farm.client();
    for n in [ended, waits] {
        assert_eq!(record(&mut farm, other, client, n).name.as_deref(), Some("fit"), "{n}");
    }
    let record = record(&mut farm, other, client, ended);
    assert_eq!(record.outcome.unwrap().error.unwrap().raised, raised);
    assert_eq!(record.times.run, times);
    invariants::hold(&farm.core);
}

fn hidden_from(farm: &Farm, engine: usize) -> Vec<bool> {
    let told = farm.processes[engine].received.iter().filter_map(|message| match message {
        ToEngine::Secret(secret) => Some(secret.hides_names),
        _ => None,
    });
    told.collect()
}

#[test]
fn an_engine_is_told_whether_a_session_hides_names() {
    let mut farm = Farm::default();
    let engine = farm.engine();
    for hides_names in [true, false] {
        let client = usize::from(hides_names);
        let connection = connects(&mut farm.core, client);
        let submit = Submit { n: TaskSeq::FIRST, ..shared() };
        for message in [open(hides_names), FromClient::Submit(submit)] {
            farm.core.handle_from_client(farm.now, connection, message, None).unwrap();
        }
        farm.core.dispatch(farm.now);
        farm.pump();
        farm.finish(engine);
    }
    assert_eq!(hidden_from(&farm, engine), [true, false]);
}

#[test]
fn a_session_of_the_journal_that_said_no_names_hides_types_until_its_client_is_back() {
    let mut farm = Farm::with_journal(8 << 20, 10_000);
    let durable = || TaskOptions { durable: true, ..TaskOptions::default() };
    for says_names in [false, true] {
        let client = farm.client();
        if says_names {
            says(&mut farm, client, 1, "fit").unwrap();
        }
        farm.submit(client, with(shared(), durable()));
    }
    farm.restart();
    let engine = farm.engine();
    farm.finish(engine);
    farm.finish(engine);
    assert_eq!(hidden_from(&farm, engine), [true, false]);
}

#[test]
fn a_record_says_the_type_of_an_error_and_where_its_time_went() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), farm.engine());
    let again = TaskOptions { error_retries: 1, ..TaskOptions::default() };
    let n = farm.submit(client, with(shared(), again));
    let long = Raised { type_name: "E".repeat(1_000), fingerprint: 1 };
    ends(&mut farm, engine, failed(Some(long)), RunTimes::ran(5));
    farm.wait(std::time::Duration::from_secs(60));
    let times = RunTimes { began_us: 10, load_us: 20, run_us: 30, store_us: 0 };
    ends(&mut farm, engine, failed(Some(Raised::new("ValueError", 7))), times);
    let record = record(&mut farm, client, client, n);
    let raised = record.outcome.unwrap().error.unwrap().raised.unwrap();
    assert_eq!((raised.type_name.as_str(), raised.fingerprint), ("ValueError", 7));
    assert_eq!(record.times.run, times);
    let expected = format!("it raised {}", "E".repeat(ERROR_TYPE_BYTES_MAX));
    assert_eq!(record.past[0].how, expected, "longer ones are cut");
    assert_eq!(farm.core.engines.get(farm.id(engine)).unwrap().busy_us, 5 + 50);
    invariants::hold(&farm.core);
}

#[test]
fn a_name_before_the_session_is_open_is_out_of_order() {
    let mut farm = Farm::default();
    let connection = connects(&mut farm.core, 0);
    let now = farm.now;
    let mut say = |message| farm.core.handle_from_client(now, connection, message, None);
    assert_eq!(say(kind(0, "fit")), Err(PeerMisbehaved::Order));
    assert_eq!(say(open(false)), Ok(()));
    assert_eq!(say(kind(0, "fit")), Ok(()));
}

fn open(hides_names: bool) -> FromClient {
    FromClient::Open(Open {
        secret: PayloadSecret::new([1; 32]),
        cancel_on_disconnect: false,
        submitted: TaskSeq::MIN,
        hides_names,
    })
}

/// Connects a client that the farm knows nothing of.
fn connects(core: &mut Core, client: usize) -> ConnectionId {
    let connection = ConnectionId(1_000 + client as u64);
    let session = SessionId([client as u8 + 100; 16]);
    core.handle_connected(connection, peer(Role::Client, session, 1, 50)).unwrap();
    connection
}
