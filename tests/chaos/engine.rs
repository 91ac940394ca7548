//! An engine of our own function, which leaves a trace of each beginning.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use furlong_engine::{Engine, FunctionError, engine_id, inputs, is_cancelled};

use crate::job::{FUNCTION, How, OWN, Orders};

/// Flags of the engine.
#[derive(Debug, clap::Args)]
pub struct EngineArgs {
    /// Its capability file.
    #[arg(long)]
    cap: PathBuf,
    /// The number of engines in the process.
    #[arg(short = 'n', default_value_t = 1)]
    slots: u32,
    /// Its interpreter; it runs no Python without.
    #[arg(long)]
    python: Option<PathBuf>,
}

/// Runs until its standard input ends.
pub fn run(args: EngineArgs) -> anyhow::Result<()> {
    let engine =
        Engine::builder().capability(args.cap).slots(args.slots).stop_with_stdin(true).label(OWN);
    let engine = match args.python {
        Some(interpreter) => engine.python(interpreter),
        None => engine.without_python(),
    };
    Ok(engine.raw_function(FUNCTION, work).run()?)
}

/// Leaves a trace, takes some time, and ends as told.
fn work(data: &[Bytes]) -> Result<Vec<Bytes>, FunctionError> {
    let [orders, payload] = data else {
        return Err(FunctionError::new("TypeError", "orders and payload"));
    };
    let orders: Orders =
        serde_json::from_slice(orders).map_err(|error| FunctionError::new("ValueError", error))?;
    let engine = engine_id().unwrap_or(u32::MAX);
    let trace = OpenOptions::new().append(true).create(true).open(&orders.trace);
    let line = format!("{} {} {engine}\n", orders.client, orders.n);
    let written = trace.and_then(|mut trace| trace.write_all(line.as_bytes()));
    written.map_err(|error| FunctionError::new("OSError", error))?;
    let end = Instant::now() + Duration::from_millis(orders.ms.into());
    while Instant::now() < end && !is_cancelled() {
        std::thread::sleep(STEP.min(end.saturating_duration_since(Instant::now())));
    }
    match orders.how {
        How::Flaky if rand::random::<bool>() => with_inputs(payload),
        How::Return | How::Die => with_inputs(payload),
        How::Raise | How::Flaky => Err(FunctionError::new("ValueError", "as told")),
    }
}

/// What was sent, and the inputs behind it.
fn with_inputs(payload: &Bytes) -> Result<Vec<Bytes>, FunctionError> {
    let mut buffers = vec![payload.clone()];
    for input in inputs() {
        let bytes = input.bytes();
        buffers.push(bytes.map_err(|error| FunctionError::new("ValueError", error))?);
    }
    Ok(vec![buffers.concat().into()])
}

/// The interval at which a function checks whether it is cancelled.
const STEP: Duration = Duration::from_millis(2);
