//! The planned acts: what clients and the outside do to the farm.

use furlong_client::ClientError;
use furlong_client::core::Call;
use furlong_client::core::requests::Answer;
use furlong_client::core::tasks::Listener;
use furlong_tests::history::{Facts, Invariant, TaskName};
use furlong_wire::ids::{EngineId, TaskId, TaskSeq};
use furlong_wire::message::{
    CancelTasks, Dependency, FromClient, Purge, Query, ReplyBody, Request, Restart, Revoke,
    Shutdown, Signal, TakeBack, TaskOptions, TaskQuery, TaskRange,
};

use crate::calls::{CallNo, CallRecord};
use crate::client::{Asked, Core, Handle, Submitted};
use crate::network::Peer;
use crate::plan::{Act, CallPlan, Choice, Group, Question, Reader};
use crate::process::Link;
use crate::world::World;

/// Submits of a program that wait for room at a time.
const SUBMITS_WAITING_MAX: usize = 24;
/// Nobody's.
const NO_ENGINE: EngineId = EngineId(60_000);

impl World {
    pub fn act(&mut self, act: &Act) {
        match act {
            Act::Submit { client, copies, call } => self.on_client(*client, |world, place| {
                (0..*copies).for_each(|_| world.begins_call(place, call));
            }),
            Act::Cancel { client, tasks, force, twice } => {
                self.on_client(*client, |world, place| {
                    (0..=u8::from(*twice)).for_each(|_| world.cancels(place, *tasks, *force));
                });
            }
            Act::CancelStream { client, force } => self.on_client(*client, |world, place| {
                world.cancels_stream(place, *force);
            }),
            Act::CancelOfAnother { client, of, tasks, force } => {
                self.on_client(*client, |world, place| {
                    world.cancels_of_another(place, *of, *tasks, *force);
                });
            }
            Act::Fetch { client, of, tasks, wait, follow } => {
                self.on_client(*client, |world, place| {
                    world.fetches(place, *of, *tasks, *wait, *follow);
                });
            }
            Act::Purge { client, of, tasks } => self.on_client(*client, |world, place| {
                let Some(range) = world.range_of(*of, *tasks) else { return };
                world.asks(place, |request| {
                    FromClient::Purge(Purge { request, tasks: vec![range] })
                });
            }),
            Act::Ask { client, what } => {
                self.on_client(*client, |world, place| world.asks_about(place, *what));
            }
            Act::Signal { client, engine, signal } => self.on_client(*client, |world, place| {
                let engines = vec![world.engine(*engine)];
                world.asks(place, |request| {
                    FromClient::Signal(Signal { request, engines, signal: *signal })
                });
            }),
            Act::Restart { client, engine } => self.on_client(*client, |world, place| {
                let engines = vec![world.engine(*engine)];
                world.engine_is_hurt(engines[0]);
                world.asks(place, |request| FromClient::Restart(Restart { request, engines }));
            }),
            Act::Shutdown { client, engine, whole, finish } => {
                self.on_client(*client, |world, place| {
                    world.shuts_down(place, *engine, *whole, *finish);
                });
            }
            Act::Forget { client, tasks } => {
                self.on_client(*client, |world, place| world.forgets(place, *tasks));
            }
            Act::Close { client } => self.on_client(*client, World::client_closes),
            Act::RevokeClient { client, by_request } => self.revokes_client(*client, *by_request),
            Act::ClientStops { client, us } => {
                self.on_client(*client, |world, place| world.client_stops(place, *us));
            }
            Act::ClientDies { client, loses_sent } => self.on_client(*client, |world, place| {
                world.loses_sent(Peer::Client(place), *loses_sent);
                world.client_ends(place);
            }),
            _ => self.breaks(act),
        }
    }

    fn on_client(&mut self, client: u64, act: impl FnOnce(&mut Self, usize)) {
        let here: Vec<usize> = (0..self.clients.len())
            .filter(|place| {
                self.clients[*place].is_alive
                    && self.clients[*place].core.as_ref().is_some_and(is_open)
            })
            .filter(|place| self.clients[*place].stops_until <= self.now)
            .collect();
        if !here.is_empty() {
            let place = here[(client % here.len() as u64) as usize];
            act(self, place);
            self.client_settles(place);
        }
    }

    /// A known engine, or now and then one that nobody knows.
    fn engine(&self, choice: u64) -> EngineId {
        let known = self.processes.iter().flat_map(|process| process.engines.iter().copied());
        let mut engines: Vec<EngineId> = known.collect();
        engines.sort_unstable();
        engines.dedup();
        if engines.is_empty() || choice.is_multiple_of(97) {
            return NO_ENGINE;
        }
        // Those that came last are mostly those that are here.
        let latest = engines.len().saturating_sub(self.slots_in_all());
        let from = if choice.is_multiple_of(5) { 0 } else { latest };
        engines[from + (choice / 97 % (engines.len() - from) as u64) as usize]
    }

    fn slots_in_all(&self) -> usize {
        self.setup.processes.iter().map(|spec| spec.slots as usize).sum()
    }

    /// A program that has many submits waiting for room begins no more: each is tried whenever
    /// there is some.
    fn begins_call(&mut self, place: usize, plan: &CallPlan) {
        let handles = self.clients[place].handles.values();
        if handles.filter(|handle| matches!(handle, Handle::Submit(..))).count()
            >= SUBMITS_WAITING_MAX
        {
            return;
        }
        let mut targets: Vec<EngineId> =
            plan.targets.iter().map(|choice| self.engine(*choice)).collect();
        targets.sort_unstable();
        targets.dedup();
        let record = CallRecord { client: place, plan: plan.clone(), targets, first: 0 };
        let no = self.calls.len();
        let call = record.call(no, self.options(place, plan));
        self.calls.push(record);
        self.begin(place, Handle::Submit(Box::new(call), no, None));
    }

    fn options(&self, place: usize, plan: &CallPlan) -> TaskOptions {
        let demands = |group: &Group| {
            let demand = |demand: &crate::plan::Demand| {
                let neighbour = (place + 1) % self.clients.len();
                let of = &self.clients[if demand.of_neighbour { neighbour } else { place }];
                let n = (of.tasks.len() as u64 + 1).checked_sub(demand.back).filter(|n| *n > 0)?;
                let task = TaskId { session: of.session, n: TaskSeq(n) };
                Some(Dependency { task, success: demand.success, failure: demand.failure })
            };
            group.demands.iter().filter_map(demand).collect()
        };
        let input = |(of_neighbour, back): &(bool, u64)| {
            let neighbour = (place + 1) % self.clients.len();
            let of = &self.clients[if *of_neighbour { neighbour } else { place }];
            let n = (of.tasks.len() as u64 + 1).checked_sub(*back).filter(|n| *n > 0)?;
            Some(TaskId { session: of.session, n: TaskSeq(n) })
        };
        let inputs = plan.inputs.iter().filter_map(input);
        TaskOptions {
            label: None,
            priority: plan.priority,
            retries: plan.retries,
            error_retries: plan.error_retries,
            backoff_ms: plan.backoff_ms,
            at_most_once: plan.at_most_once,
            queue_timeout_ms: plan.queue_timeout_ms,
            run_timeout_ms: plan.run_timeout_ms,
            after: demands(&plan.after),
            after_any: plan.after.any,
            follow: demands(&plan.follow),
            follow_any: plan.follow.any,
            require: plan.require.iter().map(|label| (*label).to_owned()).collect(),
            keep: plan.keep,
            abort_on_error: plan.abort_on_error,
            restart_safe: plan.restart_safe,
            durable: plan.durable,
            repeated: false,
            inputs: inputs.collect(),
            stay: plan.stay,
            time_request_ms: None,
        }
    }

    /// Submits a call, if there is room for it.
    pub fn submits(
        &mut self,
        place: usize,
        call: &mut Call,
        no: CallNo,
    ) -> Result<(), ClientError> {
        let reader = self.calls[no].plan.reader;
        let targets = self.calls[no].targets.clone();
        let inputs = self.calls_of_inputs(place, call);
        let client = &mut self.clients[place];
        let Some(core) = &mut client.core else { return Ok(()) };
        let first = client.tasks.len() as u64 + 1;
        let connection = client.link.connection();
        let connection = connection.and_then(|no| self.network.connections.get(&no));
        let life = connection.map_or(self.broker.life, |connection| connection.life);
        let of_call = call.options.iter().flat_map(|options| options.inputs.iter().copied());
        let of_inputs = of_call.map(|task| Dependency { task, success: true, failure: false });
        let after = match call.options.as_ref() {
            _ if !inputs.is_empty() => (of_inputs.collect(), false),
            options => options
                .map(|options| (options.after.clone(), options.after_any))
                .unwrap_or_default(),
        };
        let mut keys = Vec::new();
        let mut opened = None;
        if !targets.is_empty() {
            keys = core.submit_direct(call)?.into_iter().map(|submitted| submitted.key).collect();
        } else if reader == Reader::Stream {
            let stream = *client.stream.get_or_insert_with(|| *opened.insert(core.open_stream()));
            core.submit_streamed(call, stream, first)?;
            opened = Some(stream);
        } else {
            keys.push(core.submit_shared(call, Listener::Future(None))?.key);
        }
        self.calls[no].first = first;
        let plan = &self.calls[no].plan;
        let names: Vec<Option<EngineId>> =
            if targets.is_empty() { vec![None] } else { targets.into_iter().map(Some).collect() };
        for (n, target) in (first..).zip(names) {
            let task = TaskName { client: place as u32, n };
            let engine = target.map(|id| id.0);
            let CallPlan { at_most_once, restart_safe, durable, .. } = *plan;
            self.history.submitted(task, Facts { at_most_once, engine, restart_safe, durable });
            if reader != Reader::Nobody {
                self.history.accepted(task);
            }
            self.clients[place].tasks.push(Submitted {
                call: no,
                target,
                at: self.now,
                cancel_asked: false,
                after: after.clone(),
                inputs: inputs.clone(),
                life,
                seen: None,
            });
        }
        self.note(|world| {
            let CallRecord { plan, targets, .. } = &world.calls[no];
            format!("client {place} has submitted task {first}: {plan:?} -> {targets:?}")
        });
        self.begins_to_read(place, (first, keys, opened));
        Ok(())
    }

    /// The calls whose results are the inputs of another one. None for a task of another owner,
    /// whose result nobody else may have.
    fn calls_of_inputs(&self, place: usize, call: &Call) -> Vec<Option<CallNo>> {
        let owner = |place: usize| self.setup.clients[self.clients[place].spec].owner;
        let tasks = call.options.iter().flat_map(|options| &options.inputs);
        let of_input = |task: &TaskId| {
            let of = self.clients.iter().position(|client| client.session == task.session)?;
            (owner(of) == owner(place)).then(|| self.clients[of].tasks[task.n.0 as usize - 1].call)
        };
        tasks.map(of_input).collect()
    }

    fn begins_to_read(
        &mut self,
        place: usize,
        (first, keys, stream): (u64, Vec<usize>, Option<usize>),
    ) {
        let reader = self.calls[self.clients[place].tasks[first as usize - 1].call].plan.reader;
        for (n, key) in (first..).zip(keys) {
            if reader == Reader::Nobody {
                self.client_does(place, |core| core.forget_task(key));
                continue;
            }
            if n % 5 == 0
                && let Some(feed) =
                    self.client_does(place, |core| core.open_output(TaskSeq(n), Some(key)))
            {
                self.begin(place, Handle::Output(n, feed));
            }
            if n % 7 == 0
                && let Some(feed) =
                    self.client_does(place, |core| core.open_published(TaskSeq(n), Some(key)))
            {
                self.begin(place, Handle::Published(n, feed));
            }
            self.begin(place, Handle::Task(key, n));
        }
        if let Some(stream) = stream {
            self.begin(place, Handle::Stream(stream));
        }
    }

    /// The numbers that are meant.
    fn numbers(&self, place: usize, tasks: Choice) -> (u64, u64) {
        let count = self.clients[place].tasks.len() as u64;
        let first = count + 1 - tasks.back % (count + 1);
        (first.min(count).max(1), (first + tasks.more).min(count))
    }

    fn range_of(&self, of: u64, tasks: Choice) -> Option<TaskRange> {
        let place = (of % self.clients.len() as u64) as usize;
        let (first, last) = self.numbers(place, tasks);
        (first <= last).then(|| TaskRange {
            session: self.clients[place].session,
            first: TaskSeq(first),
            last: TaskSeq(last),
        })
    }

    pub fn note_cancel(&mut self, place: usize, n: u64) {
        if let Some(task) = self.clients[place].tasks.get_mut(n as usize - 1) {
            task.cancel_asked = true;
            self.history.cancel_asked(TaskName { client: place as u32, n });
        }
    }

    fn cancels(&mut self, place: usize, tasks: Choice, force: bool) {
        let (first, last) = self.numbers(place, tasks);
        if first <= last {
            (first..=last).for_each(|n| self.note_cancel(place, n));
            self.client_does(place, |core| core.cancel(&[(TaskSeq(first), TaskSeq(last))], force));
        }
    }

    fn cancels_stream(&mut self, place: usize, force: bool) {
        let Some(stream) = self.clients[place].stream else { return };
        let of_stream = |task: &Submitted| {
            let plan = &self.calls[task.call].plan;
            plan.reader == Reader::Stream && task.target.is_none()
        };
        let tasks = &self.clients[place].tasks;
        let numbers: Vec<u64> =
            (1..).zip(tasks).filter(|(_, task)| of_stream(task)).map(|(n, _)| n).collect();
        for n in numbers {
            self.note_cancel(place, n);
        }
        self.client_does(place, |core| core.cancel_stream(stream, force));
    }

    fn cancels_of_another(&mut self, place: usize, of: u64, tasks: Choice, force: bool) {
        let Some(range) = self.range_of(of, tasks) else { return };
        let of = (of % self.clients.len() as u64) as usize;
        range.first.through(range.last).for_each(|n| self.note_cancel(of, n.0));
        let tasks = vec![range.clone()];
        if range.first.0.is_multiple_of(2) {
            self.asks(place, |request| FromClient::TakeBack(TakeBack { request, tasks }));
        } else {
            let cancel = |request| FromClient::CancelTasks(CancelTasks { request, tasks, force });
            self.asks_and_cancels(place, Some(range), cancel);
        }
    }

    fn fetches(&mut self, place: usize, of: u64, tasks: Choice, wait: bool, follow: bool) {
        let Some(range) = self.range_of(of, tasks) else { return };
        let task = TaskId { session: range.session, n: range.first };
        if let Some(Ok((request, follower))) =
            self.client_does(place, |core| core.fetch(task, wait, follow))
        {
            self.waits_for_answer(place, request, None);
            if let Some(feed) = follower {
                self.begin(place, Handle::Output(task.n.0, feed));
            }
        }
    }

    /// Fetches a result that stays.
    pub fn fetches_own(&mut self, place: usize, n: TaskSeq) {
        let task = TaskId { session: self.clients[place].session, n };
        if let Some(Ok((request, _))) =
            self.client_does(place, |core| core.fetch(task, false, false))
        {
            self.waits_for_answer(place, request, None);
        }
    }

    fn asks(&mut self, place: usize, message: impl FnOnce(u64) -> FromClient) {
        self.asks_and_cancels(place, None, message);
    }

    fn asks_and_cancels(
        &mut self,
        place: usize,
        cancels: Option<TaskRange>,
        message: impl FnOnce(u64) -> FromClient,
    ) {
        if let Some(Ok(request)) = self.client_does(place, |core| core.request(message)) {
            self.waits_for_answer(place, request, cancels);
        }
    }

    fn waits_for_answer(&mut self, place: usize, request: u64, cancels: Option<TaskRange>) {
        let submitted = self.clients[place].tasks.len() as u64;
        self.begin(place, Handle::Request(request, Asked { submitted, cancels }));
    }

    fn asks_about(&mut self, place: usize, what: Question) {
        let query = match what {
            Question::Engines => Query::Engines,
            Question::Status => Query::Status,
            Question::Tasks => {
                Query::Tasks(Box::new(TaskQuery { limit: 50, ..TaskQuery::default() }))
            }
            Question::Events => {
                if let Some(Ok(feed)) = self.client_does(place, Core::subscribe) {
                    self.begin(place, Handle::Events(feed));
                }
                return;
            }
        };
        self.asks(place, |request| FromClient::Query(Request { request, query }));
    }

    fn shuts_down(&mut self, place: usize, engine: u64, whole: bool, finish: bool) {
        if !self.setup.clients[self.clients[place].spec].is_admin {
            return;
        }
        let alive = self
            .processes
            .iter()
            .enumerate()
            .filter(|(_, it)| it.is_alive && !it.engines.is_empty());
        let alive: Vec<usize> = alive.map(|(process, _)| process).collect();
        if alive.is_empty() {
            return;
        }
        let process = alive[(engine % alive.len() as u64) as usize];
        let engines = &self.processes[process].engines;
        let engines = if whole { engines.clone() } else { engines[..1].to_vec() };
        self.process_is_hurt(process);
        self.some_have_stopped = true;
        let engines = Some(engines);
        self.asks(place, |request| {
            FromClient::Shutdown(Shutdown { request, engines, finish, broker: false })
        });
    }

    fn forgets(&mut self, place: usize, tasks: Choice) {
        let future = |(no, handle): (&u64, &Handle)| match handle {
            Handle::Task(key, n) => Some((*no, *key, *n)),
            _ => None,
        };
        let futures: Vec<(u64, usize, u64)> =
            self.clients[place].handles.iter().filter_map(future).collect();
        if let Some((no, key, n)) =
            futures.get((tasks.back % futures.len().max(1) as u64) as usize).copied()
        {
            self.clients[place].handles.remove(&no);
            self.client_does(place, |core| core.forget_task(key));
            self.history.forgotten(TaskName { client: place as u32, n });
        }
    }

    fn revokes_client(&mut self, client: u64, by_request: bool) {
        let place = (client % self.clients.len().max(1) as u64) as usize;
        let Some(victim) = self.clients.get(place) else { return };
        let (token, count) = (victim.token, victim.tasks.len() as u64);
        (1..=count).for_each(|n| self.note_cancel(place, n));
        let admin = (0..self.clients.len()).find(|other| {
            let it = &self.clients[*other];
            it.is_alive
                && self.setup.clients[it.spec].is_admin
                && matches!(it.link, Link::Up(_))
                && *other != place
        });
        match admin.filter(|_| by_request) {
            Some(admin) => {
                self.asks(admin, |request| {
                    FromClient::Revoke(Revoke { request, tokens: vec![token] })
                });
                self.client_settles(admin);
            }
            None => self.revokes(token),
        }
    }

    /// A request of a client is answered, or the answer is lost.
    pub fn is_answered(
        &mut self,
        place: usize,
        asked: &Asked,
        answer: Result<Answer, ClientError>,
    ) {
        match answer {
            Ok(Answer::Task(fetched)) => self.sees_record(place, &fetched.record, &fetched.body),
            Ok(Answer::Reply(ReplyBody::Refused(_)))
            | Err(ClientError::Interrupted | ClientError::Disconnected(_)) => {}
            Ok(Answer::Reply(body)) => self.what_was_answered_is_on_disk(place, asked, &body),
            missing => {
                self.violated(
                    Invariant::AnswersCome,
                    None,
                    format!("client {place} has no answer: {missing:?}"),
                );
            }
        }
    }
}

fn is_open(core: &Core) -> bool {
    !core.is_over()
}
