//! Tasks that somebody asks for who need not have submitted them: fetch, follow, queries.

use furlong_wire::ids::{OwnerId, TaskId};
use furlong_wire::limits::{FETCHES_WAITING_MAX, RECORDS_PER_REPLY_MAX};
use furlong_wire::message::{
    Fetch, Fetched, FetchedOutput, Output as TaskOutput, ReplyBody, TaskQuery, TaskRecord, ToClient,
};

use super::payloads::Stored;
use super::sessions::{Done, SessionKey};
use super::tasks::{Follower, TaskKey};
use super::{ConnectionId, Core, Output, Time};

/// Who waits for one task.
const FOLLOWERS_MAX: usize = 1024;
/// Tasks that one query looks at.
const LOOKED_AT_MAX: usize = 20_000;
/// Bytes of one reply, by a rough count: a message has an upper bound.
const REPLY_BYTES_MAX: usize = 100_000;

impl Core {
    /// Answers with a task, now or when it has ended. Gives the answer if it is a refusal.
    pub(super) fn fetch(
        &mut self,
        now: Time,
        key: SessionKey,
        connection: ConnectionId,
        fetch: &Fetch,
    ) -> Option<ReplyBody> {
        let owner = self.owner(key)?;
        let id = TaskId { session: fetch.session, n: fetch.n };
        let unfinished = self.sessions.find(owner, id.session).and_then(|of| self.sessions.get(of));
        if let Some(task) = unfinished.and_then(|session| session.tasks.get(id.n)).copied() {
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
        let Some((record, payload, pieces)) = self.ended(now, owner, id, fetch.output) else {
            let text = format!(
                "{id} is unknown here: it was never submitted by this owner, or its result was not kept (`keep`), or \
                 not for so long"
            );
            return Some(ReplyBody::Refused(text));
        };
        for piece in pieces {
            let piece = FetchedOutput { request: fetch.request, ..piece };
            self.to_client(connection, ToClient::FetchedOutput(piece));
        }
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
        let connections = &self.connections;
        let session = self.sessions.get_mut(key)?;
        let more = self.tasks.get_mut(task)?.more_mut();
        if fetch.wait {
            more.followers.retain(|follower| connections.contains_key(&follower.connection));
            if more.followers.len() >= FOLLOWERS_MAX || session.fetches >= FETCHES_WAITING_MAX {
                let text = "too many requests wait for the ends of tasks; take some of those first";
                return Some(ReplyBody::Refused(text.to_owned()));
            }
            session.fetches += 1;
            more.followers.push(Follower { connection, request: fetch.request, output: fetch.output });
        }
        let (attempt, pieces) = (more.output.attempt(), more.output.pieces().to_vec());
        let engine = self.tasks.get(task).and_then(super::records::engine_of);
        if let Some(engine) = engine.filter(|_| fetch.output) {
            for super::output::Piece { stream, offset, bytes } in pieces {
                let piece = FetchedOutput { request: fetch.request, attempt, engine, stream, offset, bytes };
                self.to_client(connection, ToClient::FetchedOutput(piece));
            }
        }
        if !fetch.wait {
            let (record, owner) = (Box::new(self.record(now, task)?), self.owner(key)?);
            self.send_fetched(Follower { connection, request: fetch.request, output: false }, owner, record, None);
        }
        None
    }

    /// Of a task whose end is on its way to the journal: answers when it is there. Whether there was room for that;
    /// none for any other task.
    fn follow_unwritten(&mut self, key: SessionKey, owner: OwnerId, id: TaskId, follower: Follower) -> Option<bool> {
        let has_room = self.sessions.get(key).is_some_and(|session| session.fetches < FETCHES_WAITING_MAX);
        let of = self.sessions.find(owner, id.session).or_else(|| self.kept.session(owner, id.session))?;
        let done = self.sessions.get_mut(of).and_then(|session| session.done.get_mut(id.n)).map(|done| &mut **done);
        let done = done.or_else(|| self.kept.get_mut(of, id.n)).filter(|done| done.is_unwritten)?;
        let followers = &mut done.what.more.get_or_insert_default().followers;
        if followers.len() >= FOLLOWERS_MAX || !has_room {
            return Some(false);
        }
        followers.push(follower);
        // What it wrote is no secret until then: who followed it before has it.
        let pieces = done.output(follower.request).filter(|_| follower.output).collect::<Vec<_>>();
        pieces.into_iter().for_each(|piece| self.to_client(follower.connection, ToClient::FetchedOutput(piece)));
        self.sessions.get_mut(key).into_iter().for_each(|session| session.fetches += 1);
        Some(true)
    }

    /// What is held of a task that has ended: its record, its result, its output.
    fn ended(
        &self,
        now: Time,
        owner: OwnerId,
        id: TaskId,
        output: bool,
    ) -> Option<(Box<TaskRecord>, Option<Stored>, Vec<FetchedOutput>)> {
        let session = self.sessions.find(owner, id.session).and_then(|key| self.sessions.get(key));
        let held = session.and_then(|session| session.done.get(id.n)).map(|done| (done, None));
        let kept = || self.kept.find(owner, id).map(|kept| (&kept.done, kept.delivered_us));
        let (done, delivered_us) = held.or_else(kept)?;
        let pieces = done.output(0).filter(|_| output).collect();
        let record = self.record_of_done(now, id, done, delivered_us);
        Some((Box::new(record), done.payload.clone(), pieces))
    }

    fn send_fetched(&mut self, to: Follower, owner: OwnerId, record: Box<TaskRecord>, payload: Option<&Stored>) {
        let Some(super::Connected::Client(key)) = self.connections.get(&to.connection).copied() else { return };
        let of = record.id.session;
        let live = self.sessions.find(owner, of).and_then(|key| self.sessions.get(key)?.secret.clone());
        let secret = payload.and_then(|_| live.or_else(|| self.kept.secret(owner, of)));
        let Some(session) = self.sessions.get_mut(key) else { return };
        let transfer = || {
            session.next_transfer += 1;
            session.next_transfer
        };
        let (payload, chunks) = payload.map(|stored| stored.announce(transfer)).unzip();
        let fetched = Fetched { request: to.request, record, secret, payload };
        self.to_client(to.connection, ToClient::Fetched(fetched));
        if let Some((transfer, chunks)) = chunks.flatten() {
            self.outputs.push_back(Output::Transfer(to.connection, transfer, chunks));
        }
    }

    /// The end of a task is on disk: answers those who wait for it.
    pub(super) fn answer_followers(&mut self, now: Time, of: SessionKey, n: u64, followers: Vec<Follower>) {
        let held = self.sessions.get(of).and_then(|session| session.done.get(n)).map(|done| &**done);
        let Some(done) = held.or_else(|| self.kept.get(of, n)).filter(|_| !followers.is_empty()) else { return };
        // The session may be over, with this as its last task.
        let live = self.sessions.get(of).map(|session| (session.owner(), session.id));
        let Some((owner, session)) = live.or_else(|| self.kept.name(of)) else { return };
        let record = self.record_of_done(now, TaskId { session, n }, done, None);
        self.send_to_followers(owner, &record, done.payload.clone().as_ref(), followers);
    }

    /// A task has ended: answers those who wait for it.
    pub(super) fn answer_followers_with(
        &mut self,
        now: Time,
        of: SessionKey,
        n: u64,
        done: &Done,
        followers: Vec<Follower>,
    ) {
        if followers.is_empty() {
            return;
        }
        let Some((owner, session)) = self.sessions.get(of).map(|session| (session.owner(), session.id)) else { return };
        let record = self.record_of_done(now, TaskId { session, n }, done, None);
        self.send_to_followers(owner, &record, done.payload.as_ref(), followers);
    }

    fn send_to_followers(
        &mut self,
        owner: OwnerId,
        record: &TaskRecord,
        payload: Option<&Stored>,
        followers: Vec<Follower>,
    ) {
        for follower in followers {
            if let Some(super::Connected::Client(key)) = self.connections.get(&follower.connection).copied()
                && let Some(session) = self.sessions.get_mut(key)
            {
                session.fetches = session.fetches.saturating_sub(1);
            }
            self.send_fetched(follower, owner, Box::new(record.clone()), payload);
        }
    }

    /// A task writes: passes it on to those who follow it.
    pub(super) fn tell_followers(&mut self, key: TaskKey, output: &TaskOutput) {
        let Some(more) = self.tasks.get(key).and_then(super::tasks::Task::more) else { return };
        let wanted: Vec<Follower> = more.followers.iter().filter(|follower| follower.output).copied().collect();
        for Follower { connection, request, .. } in wanted {
            if self.connections.contains_key(&connection) {
                let TaskOutput { attempt, engine, stream, offset, bytes, .. } = output.clone();
                let piece = FetchedOutput { request, attempt, engine, stream, offset, bytes };
                self.to_client(connection, ToClient::FetchedOutput(piece));
            }
        }
    }

    /// Answers with the records of an owner's tasks.
    pub(super) fn query_tasks(&self, now: Time, key: SessionKey, query: &TaskQuery) -> ReplyBody {
        let Some(owner) = self.owner(key) else { return ReplyBody::Tasks(Vec::new(), None) };
        let mut looked_at = 0;
        let mut bytes = 0;
        let mut records = Vec::new();
        let most = (query.limit as usize).clamp(1, RECORDS_PER_REPLY_MAX);
        for (session, id) in self.sessions_of(owner, query) {
            let mut n = query.first.unwrap_or(0);
            if let Some(after) = query.after.filter(|after| after.session == id) {
                n = n.max(after.n.saturating_add(1));
            }
            while let Some(next) = self.next_task(session, n).filter(|next| query.last.is_none_or(|last| *next <= last))
            {
                let task = TaskId { session: id, n: next };
                if looked_at == LOOKED_AT_MAX || records.len() == most || bytes > REPLY_BYTES_MAX {
                    let before = TaskId { session: id, n: next.saturating_sub(1) };
                    return ReplyBody::Tasks(records, Some(before));
                }
                looked_at += 1;
                let record = self.matching_record(now, owner, session, task, query);
                bytes += record.as_ref().map_or(0, rough_bytes);
                records.extend(record);
                let Some(following) = next.checked_add(1) else { break };
                n = following;
            }
        }
        ReplyBody::Tasks(records, None)
    }

    /// The sessions that a query means, in the order in which they were opened: from the one where it goes on.
    fn sessions_of(&self, owner: OwnerId, query: &TaskQuery) -> Vec<(SessionKey, furlong_wire::ids::SessionId)> {
        let live = self.sessions.iter().filter(|(_, session)| session.owner() == owner);
        let live = live.map(|(key, session)| (key, session.id));
        let mut sessions: Vec<_> = live.chain(self.kept.sessions(owner)).collect();
        sessions.sort_unstable();
        sessions.dedup();
        sessions.retain(|(_, id)| query.session.as_ref().is_none_or(|prefix| id.prefix() == *prefix));
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

    /// Whether a session has tasks that others may ask for: kept ones, or such as will be kept.
    fn has_kept_or_keeps(&self, key: SessionKey) -> bool {
        let keeps = |task: &TaskKey| self.tasks.get(*task).is_some_and(super::tasks::Task::keep);
        let session = self.sessions.get(key);
        self.kept.tasks_from(key, 0).next().is_some()
            || session.is_some_and(|session| {
                session.tasks.iter().take(LOOKED_AT_MAX).any(|(_, task)| keeps(task))
                    || session.done.iter().take(LOOKED_AT_MAX).any(|(_, done)| done.what.keep())
            })
    }

    /// The first number from `n` on that names a task of a session.
    fn next_task(&self, key: SessionKey, n: u64) -> Option<u64> {
        let session = self.sessions.get(key);
        let unfinished = session.and_then(|session| session.tasks.range(n, u64::MAX).next()).map(|(n, _)| n);
        let done = session.and_then(|session| session.done.range(n, u64::MAX).next()).map(|(n, _)| n);
        let kept = self.kept.tasks_from(key, n).next().map(|(n, _)| n);
        [unfinished, done, kept].into_iter().flatten().min()
    }

    fn matching_record(
        &self,
        now: Time,
        owner: OwnerId,
        session: SessionKey,
        id: TaskId,
        query: &TaskQuery,
    ) -> Option<TaskRecord> {
        let unfinished = self.sessions.get(session).and_then(|session| session.tasks.get(id.n)).copied();
        if query.ended.is_some_and(|ended| ended == unfinished.is_some()) {
            return None;
        }
        let fits = |options: Option<&furlong_wire::message::TaskOptions>| {
            let Some(pattern) = &query.label else { return true };
            options.and_then(|options| options.label.as_ref()).is_some_and(|label| glob(pattern, label))
        };
        if let Some(key) = unfinished {
            return self
                .tasks
                .get(key)
                .filter(|task| fits(task.options.as_deref()))
                .and_then(|_| self.record(now, key));
        }
        let held = self.sessions.get(session).and_then(|session| session.done.get(id.n)).map(|done| (done, None));
        let (done, delivered_us) =
            held.or_else(|| self.kept.find(owner, id).map(|kept| (&kept.done, kept.delivered_us)))?;
        fits(done.what.options.as_deref()).then(|| self.record_of_done(now, id, done, delivered_us))
    }
}

/// About how many bytes a record has on the wire.
fn rough_bytes(record: &TaskRecord) -> usize {
    let error = record.outcome.as_ref().and_then(|outcome| outcome.error.as_ref()).map_or(0, |error| error.text.len());
    let past: usize = record.past.iter().map(|attempt| attempt.how.len() + 32).sum();
    let texts = [&record.label, &record.waits].into_iter().flatten().map(String::len).sum::<usize>();
    200 + error + past + texts
}

/// Whether a text fits a pattern in which `*` stands for any characters.
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
        for (pattern, text) in [("", "a"), ("a", "ab"), ("a*a", "a"), ("*b", "abc"), ("a*d*c", "abc"), ("b*", "abc")] {
            assert!(!glob(pattern, text), "{pattern} {text}");
        }
    }
}
