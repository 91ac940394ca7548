//! Histories by their seeds, one or many: what failed is cut down and shown.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, Once, PoisonError};
use std::time::{Duration, Instant};

use crate::plan::{Acts, Planned, Setup};
use crate::shrink::shrink;
use crate::world::World;

/// A history that has come to its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Done {
    pub steps: u64,
    pub digest: u64,
}

/// A history in which something was not as it must be.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The invariant, or the place where the code panicked.
    pub kind: String,
    pub text: String,
    /// The planned acts, up to the failure.
    pub acts: Vec<Planned>,
    pub log: Vec<String>,
}

/// The time limit for shrinking a failing history.
const SHRINKING: Duration = Duration::from_secs(60);
/// Characters of a line that are shown.
const LINE_SHOWN: usize = 240;

/// Runs the history of a seed until it has so many steps, and to its end.
pub fn run_seed(seed: u64, steps: u64) -> Result<Done, Box<Failure>> {
    let setup = Setup::of(seed);
    let mut acts = Acts::of(seed, &setup);
    let of_setup = setup.clone();
    let planned = std::iter::from_fn(move || Some(acts.next(&of_setup)));
    run(World::new(seed, setup, false), planned, steps)
}

/// Runs a history of which the acts are given, to its end.
pub fn run_acts(seed: u64, acts: &[Planned], is_logged: bool) -> Result<Done, Box<Failure>> {
    run(World::new(seed, Setup::of(seed), is_logged), acts.iter().cloned(), u64::MAX)
}

fn run(
    mut world: World,
    planned: impl Iterator<Item = Planned>,
    steps: u64,
) -> Result<Done, Box<Failure>> {
    keep_panics_quiet();
    let mut acts = Vec::new();
    let ended = catch_unwind(AssertUnwindSafe(|| {
        for planned in planned {
            if world.steps >= steps || world.violation.is_some() {
                break;
            }
            acts.push(planned);
            world.acts(acts.last().expect("it was just pushed"));
        }
        if world.violation.is_none() {
            world.comes_to_rest();
        }
    }));
    let log = world.log.take().unwrap_or_default();
    let failed = |kind: String, text: String| Err(Box::new(Failure { kind, text, acts, log }));
    if ended.is_err() {
        let (place, text) = LAST_PANIC.with_borrow(Clone::clone);
        return failed(place, text);
    }
    match &world.violation {
        Some(violation) => failed(violation.invariant.to_string(), violation.to_string()),
        None => Ok(Done { steps: world.steps, digest: world.digest }),
    }
}

thread_local! {
    static LAST_PANIC: RefCell<(String, String)> =
        const { RefCell::new((String::new(), String::new())) };
}

/// A panic in a history is a failure of it, and told once, when it is cut down.
fn keep_panics_quiet() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let place = panic
                .location()
                .map(|at| format!("{}:{}", at.file(), at.line()))
                .unwrap_or_default();
            if place.contains("tests/sim/main.rs") {
                return before(panic);
            }
            LAST_PANIC.set((place, panic.to_string()));
        }));
    });
}

/// The result of many histories.
#[derive(Debug)]
pub struct Many {
    pub steps: u64,
    /// The seeds that failed, in their order.
    pub failed: BTreeMap<u64, Box<Failure>>,
}

/// Runs many seeds on so many threads, until so many have failed.
pub fn run_many(
    seeds: std::ops::Range<u64>,
    steps: u64,
    threads: usize,
    failures_max: usize,
) -> Many {
    let (next, done) = (AtomicU64::new(seeds.start), AtomicU64::new(0));
    let many = Mutex::new(Many { steps: 0, failed: BTreeMap::new() });
    let began = Instant::now();
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return;
            }
            let outcome = run_seed(seed, steps);
            let mut many = many.lock().unwrap_or_else(PoisonError::into_inner);
            match outcome {
                Ok(done) => many.steps += done.steps,
                Err(failure) => {
                    eprintln!("seed {seed} fails: {}", failure.kind);
                    many.failed.insert(seed, failure);
                    if many.failed.len() >= failures_max {
                        next.fetch_max(seeds.end, Ordering::Relaxed);
                    }
                }
            }
            let count = done.fetch_add(1, Ordering::Relaxed) + 1;
            if count.is_multiple_of(100) {
                let rate = many.steps as f64 / began.elapsed().as_secs_f64();
                eprintln!("{count} seeds, {} failed, {rate:.0} steps/s", many.failed.len());
            }
        }
    };
    std::thread::scope(|scope| (0..threads).for_each(|_| _ = scope.spawn(work)));
    many.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Cuts a failing history down, and says how it fails, with the last lines of its log, and how to
/// see that again.
pub fn report(seed: u64, steps: u64, failure: &Failure, lines: usize) -> String {
    let fails_so = |acts: &[Planned]| {
        run_acts(seed, acts, false).is_err_and(|other| other.kind == failure.kind)
    };
    let deadline = Instant::now() + SHRINKING;
    let acts = shrink(failure.acts.clone(), |acts| Instant::now() < deadline && fails_so(acts));
    let shown = run_acts(seed, &acts, true);
    let (text, log) = match shown {
        Err(shown) => (shown.text, shown.log),
        Ok(_) => (failure.text.clone(), vec!["the history fails only as a whole".to_owned()]),
    };
    let from = log.len().saturating_sub(lines);
    format!(
        "seed {seed} fails: {text}\nreplay: cargo xtask sim --from {seed} --seeds 1 --steps {steps}\n{} of {} acts are \
         enough:\n{}\n{}",
        acts.len(),
        failure.acts.len(),
        acts.iter()
            .map(|it| format!("{:>12.6}  {:?}", it.at as f64 / 1e6, it.act))
            .collect::<Vec<_>>()
            .join("\n"),
        log[from..]
            .iter()
            .map(|line| line.chars().take(LINE_SHOWN).collect())
            .collect::<Vec<String>>()
            .join("\n"),
    )
}
