//! Tasks that this session need not have submitted: any process of their owner may look at them,
//! fetch and end them.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use furlong_wire::ids::{SessionId, TokenId};
use furlong_wire::limits::{LISTED_MAX, RECORDS_PER_REPLY_MAX};
use furlong_wire::message::{
    CancelTasks, FromClient, Purge, Query, ReplyBody, Revoke, TakeBack, TaskQuery, TaskRange,
    TaskRecord,
};
use futures_util::{Stream, StreamExt};

use crate::client::Client;
use crate::core::requests::FetchedTask;
use crate::core::results::Body;
use crate::error::ClientError;
use crate::live::{OutputPiece, Progress, poll_output};
use crate::options::HasTaskId;
use crate::outcome::{TaskOutcome, TaskReport, result_of};
use crate::request::{Asked, ask, order, query, refused};
use crate::shared::{Handle, when_room};

impl Client {
    /// The owner's tasks, of all its sessions: those that have not ended, and those whose record is
    /// kept. The stream asks for them as it is read, so it holds one page at a time. The query's
    /// `limit` is that of the whole stream; 0 is none.
    ///
    /// ```no_run
    /// # use furlong_client::{Client, ClientError};
    /// # async fn show(client: &Client) -> Result<(), ClientError> {
    /// use furlong_client::TaskQuery;
    ///
    /// let label = Some("night-*".into());
    /// let query = TaskQuery { label, ended: Some(false), ..TaskQuery::default() };
    /// for record in client.query_tasks(query).all().await? {
    ///     println!("{} {} {}", record.id, record.phase, record.waits.unwrap_or_default());
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn query_tasks(&self, query: TaskQuery) -> TaskRecords {
        let left = if query.limit == 0 { u64::MAX } else { u64::from(query.limit) };
        let page = VecDeque::new();
        TaskRecords {
            handle: Arc::clone(&self.handle),
            query,
            left,
            only: None,
            page,
            is_last: false,
            asking: None,
        }
    }

    /// A task as it is now: its record, and its result if it has ended and the result is kept.
    ///
    /// # Errors
    /// [`ClientError::Refused`] for a task that is not known, or of another owner.
    pub async fn fetch(&self, task: impl HasTaskId) -> Result<Fetched, ClientError> {
        let (request, _) =
            when_room(&self.handle, |core| core.fetch(task.task_id(), false, false)).await?;
        Asked::new(&*self.handle, request).task().await.map(Fetched::of)
    }

    /// A task as it ended: waits until it does.
    ///
    /// # Errors
    /// Like [`Client::fetch`].
    pub async fn wait_for(&self, task: impl HasTaskId) -> Result<Fetched, ClientError> {
        let (request, _) =
            when_room(&self.handle, |core| core.fetch(task.task_id(), true, false)).await?;
        Asked::new(&*self.handle, request).task().await.map(Fetched::of)
    }

    /// A task's output, as much as is kept of it and then as it comes, and its end.
    ///
    /// ```no_run
    /// # async fn show(client: &furlong_client::Client, task: furlong_client::TaskId)
    /// #     -> Result<(), furlong_client::ClientError> {
    /// use futures_util::StreamExt;
    ///
    /// let mut follow = client.follow(task).await?;
    /// while let Some(piece) = follow.next().await {
    ///     print!("{}", String::from_utf8_lossy(&piece.bytes));
    /// }
    /// println!("ended as {:?}", follow.ended().await?.record.outcome);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn follow(&self, task: impl HasTaskId) -> Result<Follow, ClientError> {
        let (request, feed) =
            when_room(&self.handle, |core| core.fetch(task.task_id(), true, true)).await?;
        let feed = feed.ok_or(ClientError::WrongAnswer)?;
        let asked = Asked::new(Arc::clone(&self.handle), request);
        Ok(Follow {
            asked,
            feed: Feed { handle: Arc::clone(&self.handle), feed },
            progress: Progress::default(),
        })
    }

    /// Ends tasks of any session of the same owner. With `force`, an interpreter that does not
    /// respond to the interrupt is killed. Tasks that are not known are passed over.
    pub async fn cancel_tasks(
        &self,
        tasks: &[TaskRange],
        force: bool,
    ) -> Result<Cancelled, ClientError> {
        self.end_tasks(tasks, |request, tasks| {
            FromClient::CancelTasks(CancelTasks { request, tasks, force })
        })
        .await
    }

    /// Ends those tasks of any session of the same owner that have not begun; what runs goes on.
    /// Tasks that are not known are passed over. Counts as `cancelled` what is ended and what
    /// engines are asked to give back: a task that has just begun goes on all the same, and so does
    /// one that moves to another engine meanwhile.
    pub async fn take_back(&self, tasks: &[TaskRange]) -> Result<Cancelled, ClientError> {
        self.end_tasks(tasks, |request, tasks| FromClient::TakeBack(TakeBack { request, tasks }))
            .await
    }

    async fn end_tasks(
        &self,
        tasks: &[TaskRange],
        message: impl Fn(u64, Vec<TaskRange>) -> FromClient,
    ) -> Result<Cancelled, ClientError> {
        let mut all = Cancelled::default();
        for tasks in tasks.chunks(LISTED_MAX).map(<[TaskRange]>::to_vec) {
            match ask(&self.handle, |request| message(request, tasks)).await? {
                ReplyBody::Cancelled(cancelled, finished) => {
                    all.cancelled += cancelled;
                    all.finished += finished;
                }
                body => return Err(refused(body)),
            }
        }
        Ok(all)
    }

    /// Forgets kept results, of any session of the same owner. Tasks that have not ended are passed
    /// over.
    pub async fn purge(&self, tasks: &[TaskRange]) -> Result<(), ClientError> {
        for tasks in tasks.chunks(LISTED_MAX).map(<[TaskRange]>::to_vec) {
            order(&self.handle, |request| FromClient::Purge(Purge { request, tasks })).await?;
        }
        Ok(())
    }

    /// Makes tokens invalid, which ends the sessions that came with them. For the role `admin`.
    pub async fn revoke(&self, tokens: &[TokenId]) -> Result<(), ClientError> {
        for tokens in tokens.chunks(LISTED_MAX).map(<[TokenId]>::to_vec) {
            order(&self.handle, |request| FromClient::Revoke(Revoke { request, tokens })).await?;
        }
        Ok(())
    }
}

/// The result of [`Client::cancel_tasks`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Cancelled {
    /// Tasks that are cancelled from now on.
    pub cancelled: u64,
    /// Tasks that had ended before.
    pub finished: u64,
}

/// A task, fetched by its id.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// The broker's record of it.
    pub record: TaskRecord,
    /// The outcome, with value and output. None if the task has not ended, or if it succeeded and
    /// its result is not kept.
    pub result: Option<TaskOutcome>,
    /// The report of the run so far, its output included.
    pub report: TaskReport,
}

impl Fetched {
    pub(crate) fn of(task: Box<FetchedTask>) -> Self {
        let FetchedTask { record, body, outputs } = *task;
        let report = TaskReport::of_record(&record, outputs);
        let is_gone = matches!(body, Body::None);
        let outcome = record.outcome.clone().filter(|outcome| outcome.error.is_some() || !is_gone);
        let result = outcome.map(|outcome| result_of(outcome, body, report.clone()));
        Self { record, result, report }
    }
}

/// A task that is followed: a [`Stream`] of its output, which ends when the task has, or the
/// connection.
#[derive(Debug)]
#[must_use = "nothing is read before it is polled"]
pub struct Follow {
    asked: Asked<Arc<Handle>>,
    feed: Feed,
    progress: Progress,
}

/// The reader's place, given up when it is dropped. The request is forgotten before: fields are
/// dropped in their order.
#[derive(Debug)]
struct Feed {
    handle: Arc<Handle>,
    feed: usize,
}

impl Follow {
    /// The task as it ended: waits until it does. Output that was not read before is in the report
    /// all the same.
    ///
    /// # Errors
    /// [`ClientError::Refused`] for a task that is not known, or of another owner.
    pub async fn ended(self) -> Result<Fetched, ClientError> {
        self.asked.task().await.map(Fetched::of)
    }
}

impl Stream for Follow {
    type Item = OutputPiece;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<OutputPiece>> {
        let Self { feed, progress, .. } = &mut *self;
        poll_output(&feed.handle, feed.feed, progress, context)
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        drop(self.handle.shared.with(|core| core.forget_follower(self.feed)));
    }
}

type Page = Pin<Box<dyn Future<Output = Result<ReplyBody, ClientError>> + Send>>;

/// Records of tasks: a [`Stream`], from [`Client::query_tasks`]. After an error it ends.
#[must_use = "nothing is asked before the stream is polled"]
pub struct TaskRecords {
    handle: Arc<Handle>,
    query: TaskQuery,
    left: u64,
    /// The session that the first page was of, if the newest was wanted: meanwhile there may be a
    /// newer one.
    only: Option<SessionId>,
    page: VecDeque<TaskRecord>,
    is_last: bool,
    asking: Option<Page>,
}

impl fmt::Debug for TaskRecords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskRecords")
            .field("query", &self.query)
            .field("left", &self.left)
            .finish_non_exhaustive()
    }
}

impl TaskRecords {
    /// All of them.
    pub async fn all(mut self) -> Result<Vec<TaskRecord>, ClientError> {
        let mut records = Vec::new();
        while let Some(record) = self.next().await {
            records.push(record?);
        }
        Ok(records)
    }

    fn ask(&self) -> Page {
        let handle = Arc::clone(&self.handle);
        let limit = self.left.min(RECORDS_PER_REPLY_MAX as u64) as u32;
        let wanted = Query::Tasks(Box::new(TaskQuery { limit, ..self.query.clone() }));
        Box::pin(async move { query(&handle, wanted).await })
    }

    /// Takes a page, and notes where the next one begins.
    fn take(&mut self, body: ReplyBody) -> Result<(), ClientError> {
        let ReplyBody::Tasks(records, next) = body else { return Err(refused(body)) };
        if std::mem::take(&mut self.query.newest_session) {
            let of = records.first().map(|record| record.id).or(next);
            self.only = of.map(|task| task.session);
            self.query.session = self.only.map(|session| session.prefix());
        }
        self.is_last = next.is_none() || next == self.query.after;
        self.query.after = next;
        // Two sessions may have the same prefix.
        let is_wanted =
            |record: &TaskRecord| self.only.is_none_or(|session| record.id.session == session);
        self.page = records.into_iter().filter(is_wanted).collect();
        Ok(())
    }
}

impl Stream for TaskRecords {
    type Item = Result<TaskRecord, ClientError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            if this.left == 0 {
                return Poll::Ready(None);
            }
            if let Some(record) = this.page.pop_front() {
                this.left -= 1;
                return Poll::Ready(Some(Ok(record)));
            }
            if this.is_last {
                return Poll::Ready(None);
            }
            if this.asking.is_none() {
                this.asking = Some(this.ask());
            }
            let Some(asking) = &mut this.asking else { return Poll::Ready(None) };
            let answer = ready!(asking.as_mut().poll(context));
            this.asking = None;
            if let Err(error) = answer.and_then(|body| this.take(body)) {
                this.left = 0;
                return Poll::Ready(Some(Err(error)));
            }
        }
    }
}
