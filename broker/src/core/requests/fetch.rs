//! Tasks that somebody asks for who need not have submitted them: fetch, follow, queries.

use furlong_wire::ids::{OwnerId, SessionId, TaskId, TaskSeq};
use furlong_wire::limits::{FETCHES_WAITING_MAX, RECORDS_PER_REPLY_MAX};
use furlong_wire::message::{
    Fetch, Fetched, FetchedOutput, Output as TaskOutput, ReplyBody, TaskQuery, TaskRecord, ToClient,
};

use super::records::Fitting;
use crate::core::keys::{SessionKey, TaskKey};
use crate::core::payloads::output::Piece;
use crate::core::payloads::stored::Stored;
use crate::core::tasks::ended::EndedTask;
use crate::core::tasks::extras::Follower;
use crate::core::tasks::table::Task;
use crate::core::turns::work::WORK_PER_TURN;
use crate::core::{ConnectionId, Core, Output, Time};

/// The maximum number of clients that wait for one task.
const FOLLOWERS_MAX: usize = 1024;
/// Those of them that want its output, each of whom is sent all of it.
const OUTPUT_FOLLOWERS_MAX: usize = 64;
/// Tasks that have ended among those that a session is noted to follow.
const FOLLOWED_KEPT: usize = 64;
/// Tasks, engines and sessions that one query looks at, before an answer says where to go on.
const LOOKED_AT_MAX: u64 = WORK_PER_TURN;
/// Bytes of one reply, by a rough count: a message has an upper bound.
const REPLY_BYTES_MAX: usize = 100_000;

impl Core {
    /// Answers with a task, now or when it has ended. Gives the answer if it is a refusal.
    pub(in crate::core) fn fetch(
        &mut self,
        now: Time,
        key: SessionKey,
        connection: ConnectionId,
        fetch: &Fetch,
    ) -> Option<ReplyBody> {
        let owner = self.owner(key).expect("a session that asks is here");
        let id = TaskId { session: fetch.session, n: fetch.n };
        let unfinished = self.sessions.find(owner, id.session).and_then(|of| self.sessions.get(of));
        if let Some(task) = unfinished.and_then(|session| session.ledger.tasks.get(id.n)).copied() {
            return self.fetch_unfinished(now, key, connection, fetch, task);
        }
        let follower = Follower { connection, request: fetch.request, output: fetch.output };
        match self.follow_unwritten(key, owner, id, follower) {
            Some(true) => return None,
            Some(false) => {
                let text = "too many requests wait for the end of this task; try again later";
                return Some(ReplyBody::Refused(text.to_owned()));
            }
            None => {}
        }
        let Some((record, payload, pieces)) = self.ended(now, owner, id, follower) else {
            let text = format!(
                "{id} is unknown here: it was never submitted by this owner, or its result was not kept (`keep`), or \
                 not for so long"
            );
            return Some(ReplyBody::Refused(text));
        };
        self.send_pieces(connection, pieces);
        self.send_fetched(follower, owner, record, payload.as_ref());
        None
    }

    fn fetch_unfinished(
        &mut self,
        now: Time,
        key: SessionKey,
        connection: ConnectionId,
        fetch: &Fetch,
        task: TaskKey,
    ) -> Option<ReplyBody> {
        let connections = &self.peers.connections;
        let session = self.sessions.get_mut(key).expect("a session that asks is here");
        let more = self.tasks.get_mut(task).expect("an unfinished task is in the table").more_mut();
        if fetch.wait {
            self.turns.work.add(more.followers.len());
            // Those that are gone would count against others until the task ends.
            more.followers.retain(|follower| connections.contains_key(&follower.connection));
            let with_output = more.followers.iter().filter(|follower| follower.output).count();
            if more.followers.len() >= FOLLOWERS_MAX
                || session.link.fetches >= FETCHES_WAITING_MAX
                || (fetch.output && with_output >= OUTPUT_FOLLOWERS_MAX)
            {
                let text = "too many requests wait for the ends of tasks; take some of those first";
                return Some(ReplyBody::Refused(text.to_owned()));
            }
            session.link.fetches += 1;
            more.followers.push(Follower {
                connection,
                request: fetch.request,
                output: fetch.output,
            });
            if session.link.following.len() > 2 * session.link.fetches + FOLLOWED_KEPT {
                let tasks = &self.tasks;
                session.link.following.retain(|task| tasks.get(*task).is_some());
            }
            session.link.following.insert(task);
        }
        if fetch.output {
            let pieces = self.output_so_far(fetch.request, task);
            self.send_pieces(connection, pieces);
        }
        if !fetch.wait {
            let (record, owner) =
                (Box::new(self.record(now, task, &mut Fitting::default())?), self.owner(key)?);
            self.send_fetched(
                Follower { connection, request: fetch.request, output: false },
                owner,
                record,
                None,
            );
        }
        None
    }

    /// A client's connection is gone: it waits for no task's end on that.
    pub(in crate::core) fn follow_no_longer(&mut self, key: SessionKey, connection: ConnectionId) {
        let session = self.sessions.get_mut(key).expect("a session outlives its connection");
        for task in std::mem::take(&mut session.link.following) {
            // Those that have ended leave when there are many of them.
            let more = self.tasks.get_mut(task).and_then(Task::more_if_any);
            if let Some(more) = more {
                more.followers.retain(|follower| follower.connection != connection);
            }
        }
    }

    /// Returns the retained output of an unfinished task.
    fn output_so_far(&self, request: u64, task: TaskKey) -> Vec<FetchedOutput> {
        let task = self.tasks.get(task);
        let (Some(engine), Some(more)) =
            (task.and_then(super::records::engine_of), task.and_then(Task::more))
        else {
            return Vec::new();
        };
        let attempt = more.output.attempt();
        let piece = |Piece { stream, offset, bytes }: &Piece| {
            let (stream, offset, bytes) = (*stream, *offset, bytes.clone());
            FetchedOutput { request, attempt, engine, stream, offset, bytes }
        };
        more.output.pieces().iter().map(piece).collect()
    }

    fn send_pieces(&mut self, connection: ConnectionId, pieces: Vec<FetchedOutput>) {
        for piece in pieces {
            self.turns.work.add_bytes(piece.bytes.len());
            self.to_client(connection, ToClient::FetchedOutput(piece));
        }
    }

    /// Of a task whose end is on its way to the journal: answers when it is there. Whether there
    /// was room for that; none for any other task.
    fn follow_unwritten(
        &mut self,
        key: SessionKey,
        owner: OwnerId,
        id: TaskId,
        follower: Follower,
    ) -> Option<bool> {
        let has_room = self
            .sessions
            .get(key)
            .is_some_and(|session| session.link.fetches < FETCHES_WAITING_MAX);
        let of = self
            .sessions
            .find(owner, id.session)
            .or_else(|| self.kept.session(owner, id.session))?;
        let done = self.sessions.ended_mut(of, id.n).or_else(|| self.kept.get_mut(of, id.n));
        let done = done.filter(|done| done.is_unwritten)?;
        let followers = &mut done.what.more.get_or_insert_default().followers;
        if followers.len() >= FOLLOWERS_MAX || !has_room {
            return Some(false);
        }
        followers.push(follower);
        // What it wrote is no secret until then: who followed it before has it.
        let pieces =
            if follower.output { done.output(follower.request).collect() } else { Vec::new() };
        self.send_pieces(follower.connection, pieces);
        if let Some(session) = self.sessions.get_mut(key) {
            session.link.fetches += 1;
        }
        Some(true)
    }

    /// Returns the data held of a task that has ended: its record, its result, its output.
    fn ended(
        &self,
        now: Time,
        owner: OwnerId,
        id: TaskId,
        follower: Follower,
    ) -> Option<(Box<TaskRecord>, Option<Stored>, Vec<FetchedOutput>)> {
        let session = self.sessions.find(owner, id.session).and_then(|key| self.sessions.get(key));
        let held =
            session.and_then(|session| session.ledger.done.get(id.n)).map(|done| (done, None));
        let kept = || self.kept.find(owner, id).map(|kept| (&kept.done, kept.delivered_us));
        let (done, delivered_us) = held.or_else(kept)?;
        let pieces =
            if follower.output { done.output(follower.request).collect() } else { Vec::new() };
        let record = self.record_of_done(now, id, (session, done), delivered_us);
        Some((Box::new(record), self.result_of(done).cloned(), pieces))
    }

    fn send_fetched(
        &mut self,
        to: Follower,
        owner: OwnerId,
        record: Box<TaskRecord>,
        payload: Option<&Stored>,
    ) {
        // It may be gone since it asked.
        let Some(crate::core::Connected::Client(key)) =
            self.peers.connections.get(&to.connection).copied()
        else {
            return;
        };
        let of = record.id.session;
        let live =
            self.sessions.find(owner, of).and_then(|key| self.sessions.get(key)?.secret.clone());
        // The asker needs it to open the result, which is sealed for the session of the task.
        let secret = payload.and_then(|_| live.or_else(|| self.kept.secret(owner, of)));
        let Some(session) = self.sessions.get_mut(key) else { return };
        let transfer = || {
            session.link.next_transfer += 1;
            session.link.next_transfer
        };
        let (payload, chunks) = payload.map(|stored| stored.announce(transfer)).unzip();
        let fetched = Fetched { request: to.request, record, secret, payload };
        self.to_client(to.connection, ToClient::Fetched(fetched));
        if let Some((transfer, chunks)) = chunks.flatten() {
            self.outputs.push_back(Output::Transfer(to.connection, transfer, chunks));
        }
    }

    /// The end of a task is on disk: answers those who wait for it.
    pub(in crate::core) fn answer_followers(
        &mut self,
        now: Time,
        of: SessionKey,
        n: TaskSeq,
        followers: Vec<Follower>,
    ) {
        let held = self
            .sessions
            .get(of)
            .and_then(|session| session.ledger.done.get(n))
            .map(|done| &**done);
        // It may have been forgotten before it was written: there are too many kept ones.
        let Some(done) = held.or_else(|| self.kept.get(of, n)).filter(|_| !followers.is_empty())
        else {
            return;
        };
        // The session may be over, with this as its last task.
        let live = self.sessions.get(of).map(|session| (session.owner(), session.id));
        let Some((owner, session)) = live.or_else(|| self.kept.name(of)) else { return };
        let of = self.sessions.get(of);
        let record = self.record_of_done(now, TaskId { session, n }, (of, done), None);
        self.send_to_followers(owner, &record, self.result_of(done).cloned().as_ref(), followers);
    }

    /// A task has ended: answers those who wait for it.
    pub(in crate::core) fn answer_followers_with(
        &mut self,
        now: Time,
        of: SessionKey,
        n: TaskSeq,
        done: &EndedTask,
        followers: Vec<Follower>,
    ) {
        if followers.is_empty() {
            return;
        }
        let of = self.sessions.get(of).expect("a session outlives its tasks");
        let (owner, session) = (of.owner(), of.id);
        let record = self.record_of_done(now, TaskId { session, n }, (Some(of), done), None);
        let result = self.result_of(done).cloned();
        self.send_to_followers(owner, &record, result.as_ref(), followers);
    }

    fn send_to_followers(
        &mut self,
        owner: OwnerId,
        record: &TaskRecord,
        payload: Option<&Stored>,
        followers: Vec<Follower>,
    ) {
        for follower in followers {
            if let Some(crate::core::Connected::Client(key)) =
                self.peers.connections.get(&follower.connection).copied()
                && let Some(session) = self.sessions.get_mut(key)
            {
                session.link.fetches = session.link.fetches.saturating_sub(1);
            }
            self.send_fetched(follower, owner, Box::new(record.clone()), payload);
        }
    }

    /// A task writes: passes it on to those who follow it.
    pub(in crate::core) fn tell_followers(&mut self, key: TaskKey, output: &TaskOutput) {
        let more = self.tasks.get(key).and_then(Task::more);
        let more = more.expect("a task that writes is there, and what it has written is counted");
        let wanted: Vec<Follower> =
            more.followers.iter().filter(|follower| follower.output).copied().collect();
        for Follower { connection, request, .. } in wanted {
            if self.peers.connections.contains_key(&connection) {
                let TaskOutput { attempt, engine, stream, offset, bytes, .. } = output.clone();
                let piece = FetchedOutput { request, attempt, engine, stream, offset, bytes };
                self.to_client(connection, ToClient::FetchedOutput(piece));
            }
        }
    }

    /// Answers with the records of an owner's tasks, or for an auditor of all: a page, that ends
    /// after so many records, so many bytes, or so much work.
    pub(in crate::core) fn query_tasks(
        &self,
        now: Time,
        key: SessionKey,
        query: &TaskQuery,
    ) -> ReplyBody {
        let claims = &self.sessions.get(key).expect("a session that asks is here").claims;
        let owner = (!claims.role.may_read_all_records()).then_some(claims.owner);
        let began = self.turns.work.done();
        let mut bytes = 0;
        let mut records = Vec::new();
        let mut fitting = Fitting::default();
        let mut looked_at = 0;
        let most = (query.limit as usize).clamp(1, RECORDS_PER_REPLY_MAX);
        let last = query.last.unwrap_or(TaskSeq::MAX);
        for (session, id) in self.sessions_of(owner, query) {
            let mut first = query.first.unwrap_or(TaskSeq::MIN);
            if let Some(after) = query.after.filter(|after| after.session == id) {
                let Some(following) = after.n.checked_add(1) else { continue };
                first = first.max(following);
            }
            for n in self.tasks_of(session, first, last) {
                // At least one, or a query would never get beyond a part that costs so much.
                let work = self.turns.work.done() - began;
                if looked_at > 0 && work >= LOOKED_AT_MAX
                    || records.len() == most
                    || bytes > REPLY_BYTES_MAX
                {
                    self.turns.work.add_bytes(bytes);
                    return ReplyBody::Tasks(
                        records,
                        Some(TaskId { session: id, n: n.saturating_sub(1) }),
                    );
                }
                looked_at += 1;
                self.turns.work.add(1);
                let task = TaskId { session: id, n };
                let record = self.matching_record(now, session, task, (query, &mut fitting));
                bytes += record.as_ref().map_or(0, rough_bytes);
                records.extend(record);
            }
        }
        self.turns.work.add_bytes(bytes);
        ReplyBody::Tasks(records, None)
    }

    /// The sessions that a query means, in the order in which they were opened: from the one where
    /// it goes on.
    fn sessions_of(
        &self,
        owner: Option<OwnerId>,
        query: &TaskQuery,
    ) -> Vec<(SessionKey, SessionId)> {
        let all = || Some(SessionId([0; 16])..=SessionId([255; 16]));
        let Some(ids) =
            query.session.as_ref().map_or_else(all, |prefix| SessionId::with_prefix(prefix))
        else {
            return Vec::new();
        };
        let all = self.sessions.of_owner(owner, ids.clone()).chain(self.kept.of_owner(owner, ids));
        let mut sessions: Vec<_> = all.inspect(|_| self.turns.work.add(1)).collect();
        sessions.sort_unstable();
        sessions.dedup();
        if query.newest_session {
            let has_any = |(key, _): &&(SessionKey, _)| self.has_kept_or_keeps(*key);
            sessions = sessions.iter().rev().find(has_any).copied().into_iter().collect();
        }
        if let Some(after) = query.after {
            let at = sessions.iter().position(|(_, id)| *id == after.session);
            sessions.drain(..at.unwrap_or(0));
        }
        sessions
    }

    /// Returns true if a session has tasks that others may ask for: retained ones, or such as will
    /// be retained.
    fn has_kept_or_keeps(&self, key: SessionKey) -> bool {
        self.kept.tasks_from(key, TaskSeq::MIN).next().is_some()
            || self.sessions.get(key).is_some_and(|it| it.ledger.keeps > 0)
    }

    /// The numbers of a session's tasks, whatever has become of them, in order.
    fn tasks_of(
        &self,
        key: SessionKey,
        first: TaskSeq,
        last: TaskSeq,
    ) -> impl Iterator<Item = TaskSeq> {
        let session = self.sessions.get(key);
        let unfinished =
            session.map(|session| session.ledger.tasks.range(first, last).map(|(n, _)| n));
        let done = session.map(|session| session.ledger.done.range(first, last).map(|(n, _)| n));
        let kept = self.kept.tasks_from(key, first).map(|(n, _)| n).take_while(move |n| *n <= last);
        let (mut unfinished, mut done) =
            (unfinished.into_iter().flatten().peekable(), done.into_iter().flatten().peekable());
        let mut kept = kept.peekable();
        std::iter::from_fn(move || {
            let next = [unfinished.peek(), done.peek(), kept.peek()]
                .into_iter()
                .flatten()
                .min()
                .copied()?;
            unfinished.next_if_eq(&next);
            done.next_if_eq(&next);
            kept.next_if_eq(&next);
            Some(next)
        })
    }

    fn matching_record(
        &self,
        now: Time,
        session: SessionKey,
        id: TaskId,
        (query, fitting): (&TaskQuery, &mut Fitting),
    ) -> Option<TaskRecord> {
        let unfinished =
            self.sessions.get(session).and_then(|session| session.ledger.tasks.get(id.n)).copied();
        if query.ended.is_some_and(|ended| ended == unfinished.is_some()) {
            return None;
        }
        let fits = |options: Option<&furlong_wire::message::TaskOptions>| {
            let Some(pattern) = &query.label else { return true };
            options
                .and_then(|options| options.label.as_ref())
                .is_some_and(|label| glob(pattern, label))
        };
        if let Some(key) = unfinished {
            return self
                .tasks
                .get(key)
                .filter(|task| fits(task.options.as_deref()))
                .and_then(|_| self.record(now, key, fitting));
        }
        let of = self.sessions.get(session);
        let held = of.and_then(|of| of.ledger.done.get(id.n)).map(|done| (done, None));
        let (done, delivered_us) = held.or_else(|| {
            let kept = self.kept.of_session(session, id.n)?;
            Some((&kept.done, kept.delivered_us))
        })?;
        fits(done.what.options.as_deref())
            .then(|| self.record_of_done(now, id, (of, done), delivered_us))
    }
}

/// About how many bytes a record has on the wire.
fn rough_bytes(record: &TaskRecord) -> usize {
    let error = record
        .outcome
        .as_ref()
        .and_then(|outcome| outcome.error.as_ref())
        .map_or(0, |error| error.text.len());
    let past: usize = record.past.iter().map(|attempt| attempt.how.len() + 32).sum();
    let texts = [&record.label, &record.name, &record.waits]
        .into_iter()
        .flatten()
        .map(String::len)
        .sum::<usize>();
    200 + error + past + texts
}

/// Returns true if a text fits a pattern in which `*` stands for any characters.
fn glob(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.len() >= last.len() && rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::glob;

    #[test]
    fn a_star_stands_for_any_characters() {
        for (pattern, text) in [
            ("", ""),
            ("*", ""),
            ("*", "abc"),
            ("a*", "abc"),
            ("*c", "abc"),
            ("a*c", "abc"),
            ("a*b*c", "aXbbYc"),
            ("abc", "abc"),
        ] {
            assert!(glob(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in
            [("", "a"), ("a", "ab"), ("a*a", "a"), ("*b", "abc"), ("a*d*c", "abc"), ("b*", "abc")]
        {
            assert!(!glob(pattern, text), "{pattern} {text}");
        }
    }
}
