//! `furlong ids` and `furlong status`.

use std::collections::BTreeMap;

use anyhow::Result;
use furlong_client::{Picture, Wanted, sentence, watch_json};
use furlong_host::{durations, printable};
use furlong_wire::message::{ClusterStatus, EngineState, EngineStatus, ProcessStatus, SetAside};
use serde_json::{Value, json};

use crate::cluster;
use crate::connect::{ConnectArgs, OBSERVERS};
use crate::exit::ExitCode;
use crate::print;

/// Flags of `ids`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exit codes: 0 also if there are none; 1 an error; 2 wrong usage.

Example: furlong ids --json | jq length")]
pub struct IdsArgs {
    /// Print a JSON array
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// Prints the integers of the engines that are online.
pub async fn ids(args: IdsArgs) -> Result<ExitCode> {
    let client = args.connect.connect(OBSERVERS).await?;
    let ids: Vec<u32> = client.engines().await?.into_iter().map(|id| id.0).collect();
    client.close().await;
    if args.json {
        print::json_line(&ids)?;
    } else {
        print::line(format!("{ids:?}"))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Flags of `status`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
`held` tasks wait for other tasks, or for a pause between two attempts; `stuck` counts what an engine still runs although
its task has ended: Rust functions that do not look at their cancel. An engine that could not begin some work, because
it has no such program or interpreter, is `set aside` for that for a while: the work goes to other engines. Lines that begin
with `!` say what somebody should look at; `furlong top` shows more.

Exit codes: 0 the broker has answered; 1 an error; 2 wrong usage.

Example: furlong status --json | jq .engines")]
pub struct StatusArgs {
    /// Print a JSON document
    #[arg(long)]
    json: bool,
    /// Ask engines for processors and memory, theirs and their machines': takes up to a second
    #[arg(long)]
    machines: bool,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// Prints the cluster as the broker sees it.
pub async fn status(args: StatusArgs) -> Result<ExitCode> {
    let client = args.connect.connect(OBSERVERS).await?;
    let endpoint = client.endpoint().to_string();
    let status = client.status().await?;
    let mut picture = Picture::default();
    let wanted = Wanted { loads: args.machines, ..Wanted::default() };
    while client.look(&mut picture, wanted).await? {}
    if args.machines {
        client.look_for_loads(&mut picture, wanted).await?;
    }
    client.close().await;
    if args.json {
        let notes: Vec<Value> =
            picture.notes.iter().map(|it| watch_json::note(&picture, it)).collect();
        let mut status = as_json(&status, &endpoint);
        status["notes"] = notes.into();
        if args.machines {
            status["loads"] = loads_json(&picture);
        }
        print::json(&status)?;
    } else {
        print_status(&status, &endpoint)?;
        if args.machines {
            print_loads(&picture)?;
        }
        for note in &picture.notes {
            print::line(format!("! {}", sentence(note, &picture)))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The figures of each engine that is here, by its number; null for one that has told none.
fn loads_json(picture: &Picture) -> Value {
    let engines = picture.engines.values().filter(|it| it.state != EngineState::Away);
    let loads = engines.map(|engine| {
        let load = engine.load.map(|load| watch_json::load(&load, picture.silent_us(engine)));
        (engine.id.to_string(), load.unwrap_or(Value::Null))
    });
    Value::Object(loads.collect())
}

fn print_loads(picture: &Picture) -> Result<()> {
    let mut engines = picture.engines.values().filter(|it| it.state != EngineState::Away);
    print::line(format!(
        "{:>6} {:<20} {:>6} {:>10} {:>8}   {:>8} {:>6} {:>5} {:>10}",
        "id", "host", "cpu", "memory", "silent", "host cpu", "load", "cores", "free"
    ))?;
    let percent = |it: Option<u32>| it.map_or("-".to_owned(), |it| format!("{it} %"));
    engines.try_for_each(|engine| {
        let (id, host) = (engine.id.0, printable::line(&engine.host));
        let Some(load) = engine.load else {
            return print::line(format!("{id:>6} {host:<20} has told no figures"));
        };
        let silent = print::micros(picture.silent_us(engine).unwrap_or_default() as f64);
        let machine = load.machine;
        print::line(format!(
            "{id:>6} {host:<20} {:>6} {:>10} {silent:>8}   {:>8} {:>6.2} {:>5} {:>10}",
            percent(load.slot.cpu_percent),
            print::bytes(load.slot.resident_bytes),
            percent(machine.cpu_percent),
            f64::from(machine.load_hundredths) / 100.0,
            machine.cores,
            print::bytes(machine.memory_free_bytes),
        ))
    })
}

fn as_json(status: &ClusterStatus, endpoint: &str) -> Value {
    json!({
        "cluster": status.cluster_name,
        "endpoint": endpoint,
        "broker": { "pid": status.pid, "software": status.software, "uptime_ms": status.uptime_ms,
                    "start_unix_us": status.start.0 },
        "clients": status.clients,
        "tasks": { "waiting": status.tasks_waiting, "held": status.tasks_held,
                   "assigned": status.tasks_assigned, "finished": status.tasks_finished,
                   "results_held": status.results_held },
        "payload_bytes": { "held": status.payload_bytes.0, "max": status.payload_bytes.1 },
        "engines": status.engines.iter().map(engine_json).collect::<Vec<_>>(),
        "processes": status.processes.iter().map(process_json).collect::<Vec<_>>(),
    })
}

fn engine_json(engine: &EngineStatus) -> Value {
    json!({
        "id": engine.id.0, "uuid": engine.uuid.to_string(), "online": engine.online,
        "tasks_assigned": engine.tasks_assigned, "tasks_queued": engine.tasks_queued,
        "tasks_finished": engine.tasks_finished, "busy_us": engine.busy_us,
        "stuck": engine.stuck,
        "set_aside": engine.set_aside.iter().map(set_aside_json).collect::<Vec<_>>(),
    })
}

fn set_aside_json(aside: &SetAside) -> Value {
    json!({
        "runtime": aside.runtime.as_str(), "is_whole_runtime": aside.is_whole_runtime,
        "cause": aside.cause, "failures": aside.failures, "retry_in_ms": aside.retry_in_ms,
    })
}

fn process_json(process: &ProcessStatus) -> Value {
    json!({
        "host": process.host, "pid": process.pid, "cwd": process.cwd, "software": process.software,
        "address": process.address, "python": process.python, "labels": process.labels,
        "leaving": process.leaving, "job": process.job, "ends_in_ms": process.ends_in_ms,
        "environment": process.environment.iter().cloned().collect::<BTreeMap<_, _>>(),
        "runtimes": process.runtimes.iter().map(|runtime| runtime.as_str()).collect::<Vec<_>>(),
        "engines": process.engines.iter().map(|id| id.0).collect::<Vec<_>>(),
    })
}

fn print_status(status: &ClusterStatus, endpoint: &str) -> Result<()> {
    let uptime = print::micros(status.uptime_ms as f64 * 1e3);
    let clients = print::counted(status.clients, "client");
    let (held, most) = (print::bytes(status.payload_bytes.0), print::bytes(status.payload_bytes.1));
    print::line(format!("cluster   {} at {endpoint}", status.cluster_name))?;
    print::line(format!(
        "broker    {}, pid {}, up {uptime}, {}",
        status.software, status.pid, clients
    ))?;
    print::line(format!(
        "tasks     {} waiting, {} held, {} with engines, {} finished, {} results held",
        print::grouped(status.tasks_waiting),
        print::grouped(status.tasks_held),
        print::grouped(status.tasks_assigned),
        print::grouped(status.tasks_finished),
        print::grouped(status.results_held)
    ))?;
    print::line(format!("payloads  {held} of {most}"))?;
    let online = status.engines.iter().filter(|engine| engine.online).count();
    print::line(format!("engines   {online} online"))?;
    cluster::down(&status.cluster_name, status.pid)
        .into_iter()
        .try_for_each(|down| print::line(format!("          {down}")))?;
    cluster::pools(&status.cluster_name, status.pid)
        .into_iter()
        .try_for_each(|pool| print::line(format!("          {pool}")))?;
    if !status.engines.is_empty() {
        print::line(format!(
            "{:>6} {:<20} {:>8} {:>8} {:>9} {:>10} {:>5}  python",
            "id", "host:pid", "assigned", "queued", "finished", "busy", "stuck"
        ))?;
    }
    let mut processes = BTreeMap::new();
    for process in &status.processes {
        processes.extend(process.engines.iter().map(|id| (*id, process)));
    }
    status
        .engines
        .iter()
        .try_for_each(|engine| print_engine(processes.get(&engine.id).copied(), engine))?;
    if !status.processes.is_empty() {
        print::line(format!("processes {}", status.processes.len()))?;
    }
    status.processes.iter().try_for_each(print_process)
}

fn print_engine(process: Option<&ProcessStatus>, engine: &EngineStatus) -> Result<()> {
    let place =
        process.map_or("away".to_owned(), |process| format!("{}:{}", process.host, process.pid));
    let python =
        process.and_then(|process| process.python.clone()).unwrap_or_else(|| "-".to_owned());
    print::line(format!(
        "{:>6} {place:<20} {:>8} {:>8} {:>9} {:>10} {:>5}  {python}",
        engine.id.0,
        engine.tasks_assigned,
        engine.tasks_queued,
        engine.tasks_finished,
        print::micros(engine.busy_us as f64),
        engine.stuck
    ))?;
    engine.set_aside.iter().try_for_each(|aside| {
        let what = if aside.is_whole_runtime { "all" } else { "some" };
        let times = if aside.failures == 1 {
            "once"
        } else {
            &format!("{} times in a row", aside.failures)
        };
        let again = if aside.retry_in_ms == 0 {
            "is tried again".to_owned()
        } else {
            format!("tried again in {} s", aside.retry_in_ms.div_ceil(1_000))
        };
        let (runtime, cause) = (aside.runtime, &aside.cause);
        print::line(format!(
            "{:>6} set aside for {what} {runtime} tasks, {again}; did not begin {times}: {cause}",
            ""
        ))
    })
}

/// Prints where a process runs, what it can run, and what its tasks find around them.
fn print_process(process: &ProcessStatus) -> Result<()> {
    let runtimes =
        process.runtimes.iter().map(|runtime| runtime.as_str()).collect::<Vec<_>>().join(" ");
    let engines = process.engines.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    let leaving = if process.leaving { ", leaving: it takes nothing new" } else { "" };
    print::line(format!(
        "  {}:{}  engines {engines}, runs {runtimes}{leaving}",
        process.host, process.pid
    ))?;
    if process.job.is_some() || process.ends_in_ms.is_some() {
        let left = |ms: u64| format!("ends in {}", durations::short(ms.saturating_mul(1000)));
        let parts = process.job.iter().cloned().chain(process.ends_in_ms.map(left));
        print::line(format!("    job     {}", parts.collect::<Vec<_>>().join(", ")))?;
    }
    print::line(format!("    in      {}", process.cwd))?;
    if !process.labels.is_empty() {
        print::line(format!("    labels  {}", process.labels.join(" ")))?;
    }
    let environment: Vec<String> =
        process.environment.iter().map(|(name, value)| format!("{name}={value}")).collect();
    if !environment.is_empty() {
        print::line(format!("    has     {}", environment.join(" ")))?;
    }
    Ok(())
}
