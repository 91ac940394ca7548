//! Attempts that were stopped with the jobs of their engines.

use furlong_wire::message::{
    Draining, ErrorKind, FromClient, FromEngine, Outcome, Query, ReplyBody, Request, TaskOptions,
    TaskQuery, TaskRecord, TaskState,
};

use crate::core::invariants;
use crate::core::tests::farm::peers::{Farm, at_most_once, direct, shared, with};

const LOST: Option<(TaskState, Option<ErrorKind>)> =
    Some((TaskState::Lost, Some(ErrorKind::EngineLost)));

impl Farm {
    /// The oldest job of a process was stopped with the process's own.
    fn stopped_by_job(&mut self, process: usize) -> u64 {
        self.start(process);
        let outcome = Outcome::error(TaskState::Lost, ErrorKind::GivenBack, "stopped");
        let n = self.finish_with(process, outcome, 5, None);
        invariants::hold(&self.core);
        n
    }

    /// The record of the only task.
    fn record(&mut self, client: usize) -> TaskRecord {
        let query = Query::Tasks(Box::new(TaskQuery { limit: 1, ..TaskQuery::default() }));
        let ask = |request| FromClient::Query(Request { request, query });
        let request = self.ask(client, ask);
        match self.reply(client, request) {
            Some(ReplyBody::Tasks(mut records, _)) => records.remove(0),
            other => panic!("no record: {other:?}"),
        }
    }
}

#[test]
fn what_is_given_back_runs_elsewhere_and_uses_no_retry() {
    let mut farm = Farm::default();
    let (client, leaves, stays) = (farm.client(), farm.engine(), farm.engine());
    let options = TaskOptions { retries: Some(0), ..TaskOptions::default() };
    let n = farm.submit(client, with(shared(), options));
    assert_eq!(farm.assigned(leaves), [n]);
    let draining = Draining { reason: "terminated".into() };
    farm.report(leaves, FromEngine::Draining(draining)).unwrap();
    assert_eq!(farm.stopped_by_job(leaves), n);
    farm.engine_goodbye(leaves);
    assert_eq!((farm.end_of(client, n), farm.assigned(stays)), (None, vec![n]));
    let record = farm.record(client);
    assert_eq!((record.losses, record.past.len()), (0, 1));
    assert_eq!(record.past[0].how, "engine stopped by its job");
    assert_eq!(farm.finish(stays), n);
    assert_eq!(farm.end_of(client, n), Some((TaskState::Succeeded, None)));
}

#[test]
fn what_is_given_back_for_ever_is_lost_and_says_so() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), farm.engine());
    let n = farm.submit(client, shared());
    for _ in 0..20 {
        assert_eq!(farm.stopped_by_job(engine), n);
        assert_eq!(farm.end_of(client, n), None);
    }
    farm.stopped_by_job(engine);
    assert_eq!(farm.end_of(client, n), LOST);
    let text = farm.error_of(client, n);
    assert!(text.starts_with("given back 20 times") && text.contains("time_request"), "{text}");
}

#[test]
fn what_may_run_once_or_on_one_engine_is_lost_with_the_job() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), farm.engine());
    let to_engine = direct(&[farm.id(engine)]);
    for submit in [with(shared(), at_most_once()), to_engine] {
        let n = farm.submit(client, submit);
        assert_eq!(farm.stopped_by_job(engine), n);
        assert_eq!(farm.end_of(client, n), LOST);
        assert!(farm.error_of(client, n).contains("engine stopped by its job"));
    }
    farm.ack(client, 1, 2);
    farm.core.handle_tick();
    farm.pump();
    assert_eq!(farm.released(engine).len(), 2, "nothing of it is held for ever");
}
