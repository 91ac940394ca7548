//! Peers that take as much as they can, within the protocol or just beyond it, beside a bystander
//! who gets what it asks for as soon as ever, and loses nothing.
//!
//! There is a taker for each message that a peer may send ([`every_message_has_a_taker`]) and for
//! each thing that the broker has for all of them together: places, memory, connections, the disk.
//! A taker is a function that goes on until the bystander has had as many no-ops as are measured.

mod clients;
mod engines;
mod pending;
mod resources;
mod unread;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use furlong_broker::budget::{PENDING_BYTES, READ_BUFFER_BYTES};
use furlong_tests::command::repository;
use furlong_tests::farm::Farm;
use furlong_tests::work::{Work, noop};
use furlong_wire::limits::{CALLERS_MAX, PENDING_MAX, WAITING_MAX};

/// Somebody who takes.
struct Taker {
    /// What it takes.
    name: &'static str,
    /// The messages that it takes it with, as the catalogue names them.
    messages: &'static [&'static str],
    takes: fn(&Farm, &Window),
}

/// The time in which a taker takes.
#[derive(Default)]
struct Window {
    has_begun: AtomicBool,
    is_over: AtomicBool,
    over: (Mutex<bool>, Condvar),
}

impl Window {
    /// Whether to take more. From the first time on it is measured.
    fn goes_on(&self) -> bool {
        self.has_begun.store(true, Ordering::Relaxed);
        !self.is_over.load(Ordering::Relaxed)
    }

    /// Keeps what was taken.
    fn hold(&self) {
        self.has_begun.store(true, Ordering::Relaxed);
        let (over, changed) = &self.over;
        let over = over.lock().expect("nobody panics with it");
        drop(changed.wait_while(over, |over| !*over).expect("nobody panics with it"));
    }

    fn end(&self) {
        self.is_over.store(true, Ordering::Relaxed);
        *self.over.0.lock().expect("nobody panics with it") = true;
        self.over.1.notify_all();
    }
}

/// No-ops of the bystander beside each taker.
const NOOPS: usize = 150;
/// How many times as long as in a quiet broker a no-op may take, and what is not held against
/// anybody: programs that are not optimised, on a machine that has other things to do.
const SLOWER: u32 = 5;
const FLOOR: Duration = Duration::from_millis(if cfg!(debug_assertions) { 500 } else { 50 });
/// Of a machine that stands still now and then: the best of so many tries counts.
const TRIES: usize = 3;
/// How long a bystander waits for a taker to have what it needs.
const PREPARES: Duration = Duration::from_secs(20);

/// What the brokers of these tests are given.
const MEMORY: [&str; 2] = ["--memory", "64M"];
const MEMORY_BYTES: u64 = 64 << 20;
/// Connections of a taker that have as much on its way in as they can.
const BUSY_CONNECTIONS: u64 = 16;
/// The sum of `broker/src/budget.rs`.
const GROWTH_BYTES_MAX: u64 = MEMORY_BYTES
    + PENDING_BYTES * (PENDING_MAX + WAITING_MAX + CALLERS_MAX) as u64
    + READ_BUFFER_BYTES * BUSY_CONNECTIONS;

/// How long a no-op takes, in one of a hundred cases longer.
fn p99(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[(times.len() - 1) * 99 / 100]
}

fn timed_noop(work: &Work) -> Result<Duration, String> {
    let began = Instant::now();
    work.run(&noop())
        .map(|_| began.elapsed())
        .map_err(|failure| format!("a bystander's no-op is lost: {failure}"))
}

fn quiet(work: &Work) -> Result<Duration, String> {
    (0..NOOPS).map(|_| timed_noop(work)).collect::<Result<_, _>>().map(p99)
}

/// What a no-op takes while somebody takes.
fn beside(work: &Work, taker: &Taker) -> Result<Duration, String> {
    let window = Window::default();
    std::thread::scope(|scope| {
        let taking = scope.spawn(|| (taker.takes)(work.farm(), &window));
        let (began, mut measured, mut times) = (Instant::now(), 0, Vec::new());
        let mut lost = None;
        while measured < NOOPS && lost.is_none() {
            match timed_noop(work) {
                Ok(time) => times.push(time),
                Err(failure) => lost = Some(failure),
            }
            let is_taking = window.has_begun.load(Ordering::Relaxed) || taking.is_finished();
            measured += usize::from(is_taking || began.elapsed() > PREPARES);
        }
        window.end();
        taking.join().map_err(|_| "it could not take".to_owned())?;
        lost.map_or_else(|| Ok(p99(times)), Err)
    })
}

/// What a taker does to others, if anything.
fn harm(work: &Work, taker: &Taker, bystanders: &BTreeSet<String>) -> Result<(), String> {
    let mut slow = Vec::new();
    for _ in 0..TRIES {
        let (quiet, taking) = (quiet(work)?, beside(work, taker)?);
        let growth = work.farm().growth_bytes();
        if growth > GROWTH_BYTES_MAX {
            return Err(format!("the broker has {} MiB more", growth >> 20));
        }
        let left = bystanders - &connections(work);
        if !left.is_empty() {
            return Err(format!("bystanders were cut: {left:?}"));
        }
        slow.push(format!("{taking:?}, quiet {quiet:?}"));
        eprintln!("{}: {taking:?}, quiet {quiet:?}, {} MiB", taker.name, growth >> 20);
        if taking <= (SLOWER * quiet).max(FLOOR) {
            return Ok(());
        }
    }
    Err(format!("a no-op takes {slow:?}"))
}

/// Names of the connections that are there, as the broker's log has them.
fn connections(work: &Work) -> BTreeSet<String> {
    let log = work.farm().home().broker_log();
    let of = |end: &str| {
        let lines =
            log.lines().filter_map(|line| line.split_once(end)?.0.split_once("(connection "));
        lines.map(|(_, name)| name.to_owned()).collect::<BTreeSet<_>>()
    };
    &of(" is here") - &of(" has left")
}

fn nobody_pays_for(takers: &[Taker], work: &mut Work) {
    let bystanders = connections(work);
    assert!(bystanders.len() >= 2, "a client and an engine: {bystanders:?}");
    let harm = |taker: &Taker| {
        harm(work, taker, &bystanders).err().map(|harm| format!("{}: {harm}", taker.name))
    };
    let harms: Vec<String> = takers.iter().filter_map(harm).collect();
    assert!(harms.is_empty(), "{harms:#?}");
    work.farm_mut().check_healthy(GROWTH_BYTES_MAX);
}

fn start() -> Work {
    Work::start_with(&MEMORY, &[&["-n", "2"]])
}

#[test]
fn nobody_pays_for_what_a_client_says() {
    nobody_pays_for(clients::TAKERS, &mut start());
}

#[test]
fn nobody_pays_for_what_an_engine_says() {
    nobody_pays_for(engines::TAKERS, &mut start());
}

#[test]
fn nobody_pays_for_what_a_peer_holds() {
    nobody_pays_for(resources::TAKERS, &mut start());
}

#[test]
fn nobody_pays_for_unauthenticated_peers() {
    nobody_pays_for(pending::TAKERS, &mut start());
}

#[test]
fn nobody_pays_for_what_is_written_to_the_journal() {
    let mut work = Work::start_with(&[&MEMORY[..], &["--journal"]].concat(), &[&["-n", "2"]]);
    nobody_pays_for(resources::OF_THE_JOURNAL, &mut work);
}

#[test]
fn every_message_has_a_taker() {
    let document = std::fs::read_to_string(repository().join("docs/PROTOCOL.md"))
        .expect("the document is there");
    for (title, takers) in [
        ("### In every direction", [clients::TAKERS, engines::TAKERS]),
        ("### From client to broker", [clients::TAKERS, resources::TAKERS]),
        ("### From engine process to broker", [engines::TAKERS, resources::TAKERS]),
    ] {
        let (_, section) = document.split_once(title).expect("the catalogue has this part");
        let rows = section
            .lines()
            .skip_while(|line| !line.starts_with("| "))
            .take_while(|line| line.starts_with('|'));
        let names: Vec<&str> =
            rows.skip(2).filter_map(|row| row.split('|').nth(2).map(str::trim)).collect();
        assert!(names.len() >= 3, "{names:?}");
        let taken: BTreeSet<_> =
            takers.into_iter().flatten().flat_map(|taker| taker.messages).copied().collect();
        let left: Vec<_> = names.into_iter().filter(|name| !taken.contains(name)).collect();
        assert!(left.is_empty(), "nobody takes with {left:?}");
    }
}
