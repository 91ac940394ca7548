//! The second scenario: the broker is killed again and again under many short tasks, and nobody
//! else notices more than a pause.

use std::time::{Duration, Instant};

use crate::RunArgs;
use crate::farm::{ClientLog, Farm, Setup};
use crate::log::{What, now_us};

/// Runs it. False if something is not as it must be, which is printed.
pub fn run(args: &RunArgs) -> anyhow::Result<bool> {
    let folder = args.folder.join("broker");
    // What an earlier run has left.
    let _ = std::fs::remove_dir_all(&folder);
    let setup = args.setup(0, folder.clone(), false);
    let setup = Setup {
        clients: CLIENTS,
        window: IN_FLIGHT.div_ceil(CLIENTS as u32),
        short: true,
        ..setup
    };
    let mut farm = Farm::start(Setup { python: None, ..setup })?;
    let before = farm.pids();
    let mut starts_us = Vec::new();
    let ended = kill(&mut farm, Duration::from_secs_f64(args.minutes * 60.0), &mut starts_us)?;
    let ended = ended.map_or_else(|| farm.stop_clients(CALM), Err);
    farm.read_logs()?;
    let ended = ended.and_then(|()| counts_agree(&farm.logs));
    let ended = ended.and_then(|()| {
        if farm.pids() == before { farm.stop() } else { Err("a process has ended".into()) }
    });
    let submitted: u64 =
        farm.logs.iter().filter_map(last_count).map(|(submitted, _)| submitted).sum();
    println!(
        "{} kills of the broker, {submitted} tasks of {CLIENTS} clients, {IN_FLIGHT} at once",
        starts_us.len()
    );
    let mut waits_us: Vec<u64> =
        starts_us.iter().filter_map(|start| first_result(&farm.logs, *start)).collect();
    waits_us.sort_unstable();
    if let [.., max] = waits_us[..] {
        let at =
            |share: f64| waits_us[((waits_us.len() - 1) as f64 * share).round() as usize] / 1_000;
        println!(
            "from a start of the broker to the first result: median {} ms, p99 {} ms, at most {} ms",
            at(0.5),
            at(0.99),
            max / 1_000
        );
    }
    match &ended {
        Ok(()) => {
            println!("each task has succeeded once; no engine and no client has ended");
            std::fs::remove_dir_all(&folder)?;
        }
        Err(text) => println!("{text}; the logs are in {}", folder.display()),
    }
    Ok(ended.is_ok())
}

/// Kills the broker every two seconds. What should not be, as soon as it is.
fn kill(
    farm: &mut Farm,
    lasts: Duration,
    starts_us: &mut Vec<u64>,
) -> anyhow::Result<Option<String>> {
    let begun = Instant::now();
    let mut next = EVERY;
    let mut shown = Duration::ZERO;
    while begun.elapsed() < lasts {
        if begun.elapsed() >= next {
            next += EVERY;
            starts_us.push(now_us());
            farm.restart_broker();
        }
        if let Some(text) = farm.look_after(false) {
            return Ok(Some(text));
        }
        if begun.elapsed() >= shown + SHOW {
            shown = begun.elapsed();
            farm.read_logs()?;
            let results: u64 =
                farm.logs.iter().filter_map(last_count).map(|(_, succeeded)| succeeded).sum();
            eprintln!(
                "  {:4.0} s: {} kills, {results} results",
                shown.as_secs_f64(),
                starts_us.len()
            );
            let silent = starts_us.iter().find(|start| {
                let until =
                    first_result(&farm.logs, **start).map_or_else(now_us, |wait| *start + wait);
                until - **start > STANDSTILL_US
            });
            if silent.is_some() {
                return Ok(Some(
                    "there was no result for 30 s after a start of the broker".to_owned(),
                ));
            }
        }
        std::thread::sleep(TICK);
    }
    Ok(None)
}

/// Returns the time from a start of the broker to the first result that came through it.
fn first_result(logs: &[ClientLog], start_us: u64) -> Option<u64> {
    let of_client = |log: &ClientLog| {
        let from = log.entries.partition_point(|entry| entry.at_us < start_us);
        log.entries[from..]
            .iter()
            .find(|entry| matches!(entry.what, What::FirstAfterReturn))
            .map(|entry| entry.at_us)
    };
    Some(logs.iter().filter_map(of_client).min()? - start_us)
}

fn last_count(log: &ClientLog) -> Option<(u64, u64)> {
    log.entries.iter().rev().find_map(|entry| match entry.what {
        What::Counted { submitted, succeeded } => Some((submitted, succeeded)),
        _ => None,
    })
}

/// Every task of every client has succeeded, and each client is done.
fn counts_agree(logs: &[ClientLog]) -> Result<(), String> {
    for (client, log) in logs.iter().enumerate() {
        let failed = log.entries.iter().find_map(|entry| match &entry.what {
            What::Ended(end) => Some(end),
            _ => None,
        });
        if let Some(end) = failed {
            return Err(format!("a task of client {client} did not succeed: {end:?}"));
        }
        let counts = last_count(log);
        let is_done = log.entries.iter().any(|entry| matches!(entry.what, What::Done));
        if !is_done
            || counts.is_none_or(|(submitted, succeeded)| submitted != succeeded || submitted == 0)
        {
            return Err(format!(
                "client {client} is done: {is_done}; submitted and succeeded: {counts:?}"
            ));
        }
    }
    Ok(())
}

const CLIENTS: usize = 3;
/// Tasks that are under way at any time.
const IN_FLIGHT: u32 = 10_000;
/// The broker's life.
const EVERY: Duration = Duration::from_secs(2);
/// The interval of checks that everything is alive.
const TICK: Duration = Duration::from_millis(10);
/// The interval of progress reports.
const SHOW: Duration = Duration::from_secs(10);
/// Without a result for so long, the farm stands still.
const STANDSTILL_US: u64 = 30_000_000;
/// The time limit for work in flight in the end.
const CALM: Duration = Duration::from_secs(120);
