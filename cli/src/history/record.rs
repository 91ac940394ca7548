//! `furlong history record`: looks at the farm, and writes down what has ended.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use anyhow::Result;
use furlong_client::{Client, ClientError, Picture, Wanted};
use furlong_host::durations;
use furlong_host::memory_size::MemorySize;
use furlong_wire::message::EndSeen;
use tokio::time::{Instant, MissedTickBehavior};

use super::write::{Bounds, Writer};
use super::{RECORDERS, path};
use crate::connect::ConnectArgs;
use crate::exit::ExitCode;
use crate::print;

/// Flags of `history record`.
#[derive(Debug, clap::Args)]
pub struct RecordArgs {
    /// Delete tasks that ended longer ago than this, as 30d or 12h
    #[arg(long, value_name = "TIME", default_value = "30d", value_parser = durations::limit)]
    keep: Duration,
    /// Delete the oldest tasks when the file is larger than this
    #[arg(long, value_name = "SIZE", default_value = "1G", value_parser = size)]
    max_size: MemorySize,
    /// The file; by default history.db in the cluster's folder
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// End with the process that holds the other end of standard input
    #[arg(long, hide = true)]
    stop_with_stdin: bool,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// The time between two looks.
const EVERY: Duration = Duration::from_secs(1);
/// Questions of one look: 40 000 ended tasks. A farm that ends more in a second has gaps, and keeps
/// its broker for itself.
const LOOKS_AT_ONCE: usize = 100;
/// The pause before a broker is sought again.
const PAUSE: Duration = Duration::from_secs(2);
/// The time between two deletions of what is beyond the bounds.
const FORGET_EVERY: Duration = Duration::from_secs(60);
/// Deletions after which SQLite looks at how its tables are used.
const OPTIMISE_EVERY: u32 = 60;
/// The time for a last look.
const LAST_LOOK: Duration = Duration::from_secs(2);
/// The least size of a file.
const BYTES_LEAST: u64 = 16 << 20;

fn size(text: &str) -> Result<MemorySize, String> {
    let size: MemorySize = text.parse().map_err(|error| format!("{error}"))?;
    if size.bytes() >= BYTES_LEAST { Ok(size) } else { Err("at least 16M".to_owned()) }
}

/// Writes the history until it is told to stop.
pub async fn run(args: RecordArgs) -> Result<ExitCode> {
    let capability = args.connect.capability(RECORDERS)?;
    let cluster = (capability.cluster().as_str(), &*capability.cluster_id().to_string());
    let path = path(args.file.as_deref(), capability.cluster())?;
    let bounds = Bounds { keep_us: args.keep.as_micros() as u64, bytes_max: args.max_size.bytes() };
    let mut writer = Writer::open(&path, cluster, bounds)?;
    let client = args.connect.connect(RECORDERS).await?;
    let mut recorder = Recorder {
        picture: Picture::default(),
        held: Vec::new(),
        forgets_at: Instant::now(),
        rounds: 0,
    };
    recorder.look(&client, &mut writer).await.map_err(LookError::into_inner)?;
    print::line(format!("history   {}", path.display()))?;
    let stop = furlong_host::stop::requested(args.stop_with_stdin);
    let mut client = Some(client);
    let failed = tokio::select! {
        _ = stop => None,
        error = recorder.record(&mut client, &args.connect, &mut writer) => Some(error),
    };
    if let Some(error) = failed {
        return Err(error);
    }
    if let Some(client) = client {
        // What has ended since the last look. Without an answer the next one who writes is told.
        let last = tokio::time::timeout(LAST_LOOK, recorder.look(&client, &mut writer)).await;
        if let Ok(Err(LookError::File(error))) = last {
            return Err(error);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes down one farm, over restarts of its broker.
#[derive(Debug)]
struct Recorder {
    picture: Picture,
    /// Ends that are told and not written down: of kinds of which the broker has not told yet.
    held: Vec<EndSeen>,
    forgets_at: Instant,
    rounds: u32,
}

impl Recorder {
    /// Goes on until the file cannot be written: the reason.
    async fn record(
        &mut self,
        client: &mut Option<Client>,
        connect: &ConnectArgs,
        writer: &mut Writer,
    ) -> anyhow::Error {
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let Some(session) = &*client else {
                tokio::time::sleep(PAUSE).await;
                *client = connect.connect(RECORDERS).await.ok();
                continue;
            };
            match self.look(session, writer).await {
                Ok(()) => {}
                Err(LookError::Broker(error)) => {
                    print::note!("furlong: nothing is recorded until the broker answers: {error}");
                    *client = None;
                }
                Err(LookError::File(error)) => return error,
            }
        }
    }

    /// Looks until there is nothing more to tell, and writes that down.
    async fn look(&mut self, client: &Client, writer: &mut Writer) -> Result<(), LookError> {
        let wanted = Wanted { ends: true, failures: true, ..Wanted::default() };
        for _ in 0..LOOKS_AT_ONCE {
            let known = self.picture.start();
            let has_more =
                client.look(&mut self.picture, wanted).await.map_err(LookError::Broker)?;
            if self.picture.start() != known {
                // What is held is of a broker that is gone; it ended after the last whole look, and
                // so is in the gap.
                self.held.clear();
                let next = writer.begin(&self.picture).map_err(LookError::File)?;
                self.picture.continue_ends(next);
                continue;
            }
            self.held.extend(std::mem::take(&mut self.picture.ends));
            let is_known = |end: &EndSeen| !has_more || self.picture.kinds.contains_key(&end.kind);
            let held = std::mem::take(&mut self.held);
            let (told, unknown): (Vec<EndSeen>, _) = held.into_iter().partition(is_known);
            self.held = unknown;
            writer.take(&self.picture, &told, self.held.is_empty()).map_err(LookError::File)?;
            if !has_more {
                break;
            }
        }
        self.forget(writer).map_err(LookError::File)
    }

    fn forget(&mut self, writer: &mut Writer) -> Result<()> {
        if Instant::now() < self.forgets_at {
            return Ok(());
        }
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        // What is left is deleted after the next look.
        if !writer.forget(now.as_micros() as u64)? {
            self.forgets_at = Instant::now() + FORGET_EVERY;
            self.rounds += 1;
            if self.rounds.is_multiple_of(OPTIMISE_EVERY) {
                writer.optimise()?;
            }
        }
        Ok(())
    }
}

/// The reason that a look was not written down.
#[derive(Debug)]
enum LookError {
    Broker(ClientError),
    File(anyhow::Error),
}

impl LookError {
    fn into_inner(self) -> anyhow::Error {
        match self {
            Self::Broker(error) => error.into(),
            Self::File(error) => error,
        }
    }
}
