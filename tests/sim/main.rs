//! The whole farm in one thread, in a time of its own: the real cores of broker, engines and
//! clients, in a network that breaks. A seed is a history, the same each time; `cargo xtask sim`
//! runs many.
//!
//! Everything that decides is that of the programs: the cores, and `furlong_link::peer` at both
//! ends of each connection, which seals and opens real records. [`broker`], [`process`], [`slots`]
//! and [`client`] carry it out in the order of the programs' shells, and [`network`] stands for
//! sockets. [`plan`] makes of a seed a farm and what is done to it ([`acts`],
//! [`faults`]). What must be true is in `furlong_tests::history`, [`fairness`] and [`invariants`],
//! and [`rest`] is each history's end.

mod acts;
mod broker;
mod calls;
mod client;
mod dice;
mod disk;
mod fairness;
mod faults;
mod files;
mod invariants;
mod network;
mod plan;
mod process;
mod rest;
mod runner;
mod shrink;
mod slots;
mod world;

use runner::{report, run_many, run_seed};

/// With the system's allocator a fifth of a history's time is allocation.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Runs histories, and tells of the first that fails, cut down to what matters. Of the others that
/// it runs it tells the seeds.
fn hold_in(
    seeds: std::ops::Range<u64>,
    steps: u64,
    threads: usize,
    failures_max: usize,
    lines: usize,
) -> u64 {
    let many = run_many(seeds, steps, threads, failures_max);
    for (seed, failure) in &many.failed {
        eprintln!("seed {seed}: {}", failure.text.lines().next().unwrap_or_default());
    }
    assert!(many.failed.len() <= 1, "{} seeds failed", many.failed.len());
    if let Some((seed, failure)) = many.failed.first_key_value() {
        panic!("{}", report(*seed, steps, failure, lines));
    }
    many.steps
}

#[test]
fn a_few_histories_keep_every_promise() {
    hold_in(0..12, 1_500, 2, 1, 60);
}

#[test]
fn a_seed_is_one_history() {
    assert_eq!(run_seed(4, 2_000).unwrap(), run_seed(4, 2_000).unwrap());
}

/// Run by `cargo xtask sim`, which says how many.
#[test]
#[ignore = "it takes as long as it is told"]
fn many_histories_keep_every_promise() {
    let number = |name: &str, default: u64| {
        std::env::var(name).map_or(default, |text| text.parse().unwrap())
    };
    let (from, seeds) = (number("FURLONG_SIM_FROM", 0), number("FURLONG_SIM_SEEDS", 100));
    let steps = number("FURLONG_SIM_STEPS", 10_000);
    let failures_max = number("FURLONG_SIM_FAILURES", 1) as usize;
    let threads = match number("FURLONG_SIM_THREADS", 0) as usize {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        threads => threads,
    };
    let lines = number("FURLONG_SIM_LINES", 60) as usize;
    let began = std::time::Instant::now();
    let all_steps = hold_in(from..from + seeds, steps, threads, failures_max, lines);
    let seconds = began.elapsed().as_secs_f64();
    let (of_seeds, of_steps) = (seeds as f64 / seconds, all_steps as f64 / seconds);
    println!(
        "{seeds} seeds, {all_steps} steps in {seconds:.1} s: {of_seeds:.1} seeds/s, {of_steps:.0} steps/s"
    );
}
