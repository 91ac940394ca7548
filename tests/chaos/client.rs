//! A client that keeps submitting, in a process of its own that can be stopped and killed.

use std::collections::{BTreeMap, VecDeque};
use std::io::Read as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context;
use furlong_client::{
    CallSpec, Client, ClientError, EngineId, EngineTargets, LinkEvent, TaskFuture, TaskId,
    TaskOutcome,
};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::heir;
use crate::job::{Job, Jobs, OWN, Place, Source, Target};
use crate::log::{End, Log, What};

/// Flags of the client.
#[derive(Clone, Debug, clap::Args)]
pub struct ClientArgs {
    /// Its capability file.
    #[arg(long)]
    cap: PathBuf,
    /// Its number.
    #[arg(long)]
    number: u32,
    /// The seed of what it submits.
    #[arg(long)]
    seed: u64,
    /// The number of tasks it has in flight.
    #[arg(long)]
    window: u32,
    /// Its log.
    #[arg(long)]
    log: PathBuf,
    /// The file for the traces of tasks.
    #[arg(long)]
    trace: String,
    /// The folder for files of commands.
    #[arg(long)]
    files: String,
    /// The session ends with its connection.
    #[arg(long)]
    cancel_on_disconnect: bool,
    /// The engines run Python.
    #[arg(long)]
    with_python: bool,
    /// Make some of the tasks durable.
    #[arg(long)]
    with_durable: bool,
    /// The log of a client that was killed: its durable tasks are this one's to fetch.
    #[arg(long)]
    heir_of: Vec<PathBuf>,
    /// Submit short tasks alone, as fast as they end, and count them.
    #[arg(long)]
    short: bool,
}

/// Submits until standard input ends, and waits until all has ended.
pub fn run(args: ClientArgs) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ended = runtime.block_on(async {
        let busy = Busy::connect(args).await?;
        if busy.args.short { busy.submit_short().await } else { busy.submit().await }
    });
    // What reads standard input must not keep the process.
    runtime.shutdown_background();
    ended
}

/// A session at work.
struct Busy {
    args: ClientArgs,
    client: Client,
    log: Arc<Log>,
    returned: Arc<AtomicBool>,
    stop: Arc<Notify>,
    free: Arc<Semaphore>,
}

impl Busy {
    async fn connect(args: ClientArgs) -> anyhow::Result<Self> {
        let log = Arc::new(Log::open(&args.log)?);
        let returned = Arc::<AtomicBool>::default();
        let (of_link, returns) = (Arc::clone(&log), Arc::clone(&returned));
        let told = move |event: &LinkEvent| match event {
            LinkEvent::Cut(why) => of_link.add(What::Cut(why.clone())),
            LinkEvent::Back => {
                returns.store(true, Ordering::Relaxed);
                of_link.add(What::Back);
            }
        };
        let builder = Client::builder().capability(&args.cap).wait(PATIENCE).on_link(told);
        let client = builder.cancel_on_disconnect(args.cancel_on_disconnect).connect().await?;
        log.add(What::Begins(client.session().0));
        let stop = Arc::new(Notify::new());
        let at_end = Arc::clone(&stop);
        tokio::task::spawn_blocking(move || {
            // An error ends it as well.
            let _ = std::io::stdin().read_to_end(&mut Vec::new());
            at_end.notify_one();
        });
        let free = Arc::new(Semaphore::new(args.window as usize));
        Ok(Self { args, client, log, returned, stop, free })
    }

    /// The chance to submit one more; none when it is time to stop.
    async fn place(&self) -> Option<OwnedSemaphorePermit> {
        tokio::select! {
            biased;
            () = self.stop.notified() => None,
            permit = Arc::clone(&self.free).acquire_owned() => permit.ok(),
        }
    }

    /// Waits until everything has ended, and leaves.
    async fn leave(self) -> anyhow::Result<()> {
        let _all = self.free.acquire_many(self.args.window).await?;
        self.log.add(What::Done);
        self.client.close().await;
        Ok(())
    }

    /// Submits all sorts of tasks.
    async fn submit(self) -> anyhow::Result<()> {
        let place = Place {
            client: self.args.number,
            trace: self.args.trace.clone(),
            files: self.args.files.clone(),
        };
        let submitted = Arc::<AtomicU64>::default();
        let targets = self.watch_engines(&submitted);
        let estate = heir::estate(&self.args.heir_of)?;
        let fetches = tokio::spawn(heir::fetch(
            self.client.clone(),
            Arc::clone(&self.log),
            place.clone(),
            estate,
        ));
        let ClientArgs { seed, number, with_python, with_durable, .. } = self.args;
        let mut jobs = Jobs::new(seed, number, with_python, with_durable);
        let (mut ids, mut recent) = (BTreeMap::<u64, TaskId>::new(), VecDeque::new());
        let staying = Arc::<Mutex<Staying>>::default();
        while let Some(permit) = self.place().await {
            let job = {
                let targets = targets.lock().unwrap();
                jobs.next(&targets, recent.make_contiguous(), &staying.lock().unwrap().reads())
            };
            let call = job.call(&place, |n| ids[&n]);
            self.log.add(What::Submits(Box::new(job.clone())));
            let pause = jobs.pause(job.n);
            match self.submit_one(&job, &call).await {
                Ok(task) => {
                    submitted.store(job.n, Ordering::Relaxed);
                    ids.insert(job.n, task.id());
                    recent.push_back(job.n);
                    if recent.len() > RECENT {
                        recent.pop_front();
                    }
                    if job.stays {
                        let read = Source { n: job.n, bytes: job.bytes };
                        staying.lock().unwrap().begin(read);
                    }
                    let (log, place) = (Arc::clone(&self.log), place.clone());
                    let staying = Arc::clone(&staying);
                    tokio::spawn(async move {
                        let task = follow(&log, &place, &job, task).await;
                        if job.stays {
                            staying.lock().unwrap().end(job.n, task);
                        }
                        drop(permit);
                    });
                }
                // It has ended otherwise, or found no room to stay, and is here: known at once.
                Err(error @ ClientError::InputTaken(_)) => {
                    self.log.add(What::Ended(unmet(job.n, &error)));
                }
                Err(ClientError::Disconnected(_)) if self.args.cancel_on_disconnect => break,
                Err(error) => self.log.add(What::Refused { n: job.n, text: error.to_string() }),
            }
            tokio::time::sleep(pause).await;
        }
        fetches.await?;
        self.leave().await
    }

    async fn submit_one(&self, job: &Job, call: &CallSpec) -> Result<TaskFuture, ClientError> {
        match job.target {
            None => self.client.tasks().call(call).await,
            Some(target) => {
                let view =
                    self.client.multiengine(EngineTargets::Ids(vec![EngineId(target.engine)]));
                let tasks = view.call(call).await?;
                Ok(tasks.into_iter().next().expect("one engine was named"))
            }
        }
    }

    /// Keeps a list of the engines that are there. An answer says as well that what was submitted
    /// before is accepted.
    fn watch_engines(&self, submitted: &Arc<AtomicU64>) -> Arc<Mutex<Vec<Target>>> {
        let targets = Arc::<Mutex<Vec<Target>>>::default();
        let (client, list, log) =
            (self.client.clone(), Arc::clone(&targets), Arc::clone(&self.log));
        let (submitted, says) = (Arc::clone(submitted), self.args.with_durable);
        tokio::spawn(async move {
            loop {
                let before = submitted.load(Ordering::Relaxed);
                let Ok(status) = client.status().await else { break };
                if says {
                    log.add(What::Accepted(before));
                }
                let of_process = |process: &furlong_client::ProcessStatus| {
                    let (pid, is_own) =
                        (process.pid, process.labels.iter().any(|label| label == OWN));
                    let target = move |engine: &EngineId| Target { engine: engine.0, pid, is_own };
                    process.engines.iter().map(target).collect::<Vec<_>>()
                };
                *list.lock().unwrap() = status.processes.iter().flat_map(of_process).collect();
                tokio::time::sleep(LOOK).await;
            }
        });
        targets
    }

    /// Submits short tasks, and counts.
    async fn submit_short(self) -> anyhow::Result<()> {
        let call = CallSpec::native("noop");
        let succeeded = Arc::<AtomicU64>::default();
        let mut submitted = 0;
        while let Some(permit) = self.place().await {
            submitted += 1;
            let task = self.client.tasks().call(&call).await.context("a submit is refused")?;
            let (log, results, returned) =
                (Arc::clone(&self.log), Arc::clone(&succeeded), Arc::clone(&self.returned));
            tokio::spawn(async move {
                let n = task.id().n;
                match task.await {
                    Ok(_) => _ = results.fetch_add(1, Ordering::Relaxed),
                    Err(failure) => log.add(What::Ended(end(n.0, &Err(failure), None))),
                }
                if returned.swap(false, Ordering::Relaxed) {
                    log.add(What::FirstAfterReturn);
                }
                drop(permit);
            });
            if submitted % COUNT == 0 {
                self.log
                    .add(What::Counted { submitted, succeeded: succeeded.load(Ordering::Relaxed) });
            }
        }
        drop(self.free.acquire_many(self.args.window).await?);
        self.log.add(What::Counted { submitted, succeeded: succeeded.load(Ordering::Relaxed) });
        self.leave().await
    }
}

/// Waits for a task's end, and cancels it before if that is what shall be. Gives it back if its
/// result stays at the broker.
async fn follow(log: &Log, place: &Place, job: &Job, mut task: TaskFuture) -> Option<TaskFuture> {
    let ended = if let Some(ms) = job.cancel_after_ms {
        if let Ok(ended) = tokio::time::timeout(Duration::from_millis(ms.into()), &mut task).await {
            ended
        } else {
            log.add(What::Cancels(job.n));
            task.cancel_with(job.force);
            (&mut task).await
        }
    } else {
        (&mut task).await
    };
    let wrong = ended.as_ref().ok().and_then(|result| job.wrong(place, result));
    log.add(What::Ended(end(job.n, &ended, wrong)));
    ended.is_ok_and(|result| result.report.stays.is_some()).then_some(task)
}

/// Tasks whose results stay, or will, for others to read.
#[derive(Default)]
struct Staying {
    /// The youngest ones.
    tasks: VecDeque<(Source, Option<TaskFuture>)>,
}

impl Staying {
    /// Those that others may read.
    fn reads(&self) -> Vec<Source> {
        self.tasks.iter().map(|(read, _)| *read).collect()
    }

    /// One more was submitted. The oldest that has ended is let go.
    fn begin(&mut self, read: Source) {
        self.tasks.push_back((read, None));
        let oldest = self.tasks.iter().position(|(_, task)| task.is_some());
        if self.tasks.len() > STAYING
            && let Some((_, Some(task))) = oldest.and_then(|at| self.tasks.remove(at))
        {
            task.release();
        }
    }

    /// One has ended, and its result stays if the task is given.
    fn end(&mut self, n: u64, task: Option<TaskFuture>) {
        let at = self.tasks.iter().position(|(read, _)| read.n == n);
        let at = at.expect("it is among them until it has ended");
        match task {
            Some(task) => self.tasks[at].1 = Some(task),
            None => _ = self.tasks.remove(at),
        }
    }
}

/// The end of a task that could not be submitted, since the client has what was to be its input.
fn unmet(n: u64, error: &ClientError) -> End {
    End {
        n,
        state: Some("cancelled".to_owned()),
        kind: Some("dependency".to_owned()),
        text: error.to_string(),
        attempts: 0,
        engine: None,
        is_wrong: false,
    }
}

/// Returns a task's end in the form that is written down.
pub fn end(n: u64, ended: &TaskOutcome, wrong: Option<String>) -> End {
    let report = ended.as_ref().map_or_else(|failure| &*failure.report, |result| &result.report);
    let (attempts, engine, is_wrong) =
        (report.attempts, report.engine.map(|engine| engine.0), wrong.is_some());
    match ended {
        Ok(_) => {
            let state = Some("succeeded".to_owned());
            End {
                n,
                state,
                kind: None,
                text: wrong.unwrap_or_default(),
                attempts,
                engine,
                is_wrong,
            }
        }
        Err(failure) => End {
            n,
            state: failure.state().map(|state| state.as_str().to_owned()),
            kind: failure.kind().map(|kind| kind.as_str().to_owned()),
            text: failure.to_string().chars().take(TEXT_CHARS).collect(),
            attempts,
            engine,
            is_wrong,
        },
    }
}

/// The time that a client first waits for its broker.
const PATIENCE: Duration = Duration::from_secs(120);
/// The interval at which a client asks which engines there are.
const LOOK: Duration = Duration::from_millis(300);
/// Tasks that later ones may wait for.
const RECENT: usize = 60;
/// Tasks whose results stay at once.
const STAYING: usize = 20;
/// Submits between two counts.
const COUNT: u64 = 1_000;
/// Of the text of a failure, what is written down.
const TEXT_CHARS: usize = 400;
