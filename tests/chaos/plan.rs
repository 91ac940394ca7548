//! The faults of a run, and when they come: all of it follows from the seed.

use std::fmt;
use std::time::Duration;

use furlong_tests::proxy::Side;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

/// A fault's target. Engines and clients are numbered by their places: the successor of a killed
/// one has its place.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Hit {
    /// The broker.
    Broker,
    /// An engine process, or its line.
    Engine(usize),
    /// The interpreters of an engine process.
    Interpreter(usize),
    /// A client, or its line.
    Client(usize),
    /// The disk with the farm's home.
    Disk,
}

/// The fault that hits a target.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Fault {
    /// SIGKILL. Another one is started.
    Kill,
    /// SIGSTOP, and SIGCONT afterwards.
    Stop,
    /// The line is cut, and nobody gets through.
    Cut,
    /// The line is cut after so many bytes more, mostly within a record.
    CutAfter(u32),
    /// Nothing passes, and afterwards all of it.
    Hold,
    /// Everything vanishes, and nobody is told.
    Swallow,
    /// One end of the line is closed, and the other is not told.
    HalfOpen(Side),
    /// The line is slow: so many milliseconds for 16 KiB.
    Slow(u32),
    /// There is no space left.
    Full,
}

/// One fault of the plan.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Planned {
    /// The time at which it begins.
    pub at: Duration,
    /// The duration: zero if it is over at once.
    pub lasts: Duration,
    /// The target that it hits.
    pub hit: Hit,
    /// The fault.
    pub fault: Fault,
}

/// The targets that can be hit.
#[derive(Clone, Copy, Debug)]
pub struct Targets {
    /// Places of engine processes.
    pub engines: usize,
    /// Places of clients.
    pub clients: usize,
    /// True if there are interpreters.
    pub with_python: bool,
    /// True if there is a small disk.
    pub with_disk: bool,
    /// The longest that a fault lasts.
    pub last_at_most: Duration,
    /// The longest pause between two faults.
    pub pauses_at_most: Duration,
}

/// The faults of one history.
pub fn plan(seed: u64, lasts: Duration, targets: Targets) -> Vec<Planned> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut planned = Vec::new();
    let mut at = Duration::from_millis(500);
    while at < lasts {
        let one = one(&mut random, at, targets);
        planned.push(Planned { lasts: one.lasts.min(targets.last_at_most), ..one });
        at += targets.pauses_at_most.mul_f64(random.random_range(0.02..1.0));
    }
    planned
}

fn one(random: &mut StdRng, at: Duration, targets: Targets) -> Planned {
    let engine = Hit::Engine(random.random_range(0..targets.engines));
    let client = Hit::Client(random.random_range(0..targets.clients));
    let instantly = |hit, fault| Planned { at, lasts: Duration::ZERO, hit, fault };
    match random.random_range(0..100) {
        0..14 => instantly(Hit::Broker, Fault::Kill),
        14..24 => instantly(engine, Fault::Kill),
        24..32 if targets.with_python => {
            instantly(Hit::Interpreter(random.random_range(0..targets.engines)), Fault::Kill)
        }
        32..38 => instantly(client, Fault::Kill),
        38..44 => Planned { at, lasts: long(random), hit: Hit::Broker, fault: Fault::Stop },
        44..56 => {
            let hit = if random.random_range(0..3) < 2 { engine } else { client };
            Planned { at, lasts: long(random), hit, fault: Fault::Stop }
        }
        56..60 if targets.with_disk => {
            Planned { at, lasts: long(random), hit: Hit::Disk, fault: Fault::Full }
        }
        _ => {
            let hit = if random.random_range(0..3) < 2 { engine } else { client };
            let fault = line_fault(random);
            let lasts = match fault {
                Fault::CutAfter(_) | Fault::HalfOpen(_) => Duration::ZERO,
                _ => long(random),
            };
            Planned { at, lasts, hit, fault }
        }
    }
}

fn line_fault(random: &mut StdRng) -> Fault {
    match random.random_range(0..6) {
        0 => Fault::Cut,
        1 => Fault::CutAfter(random.random_range(0..100_000)),
        2 => Fault::Hold,
        3 => Fault::Swallow,
        4 => Fault::HalfOpen(*[Side::Peer, Side::Broker].choose(random).expect("there are two")),
        _ => Fault::Slow(random.random_range(1..120)),
    }
}

/// From 0.1 to 20 s, mostly short: beyond 15 s of silence a peer counts as gone.
fn long(random: &mut StdRng) -> Duration {
    Duration::from_secs_f64(0.1 * 200_f64.powf(random.random_range(0.0..1.0)))
}

impl Fault {
    /// Its name, for the summary.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Stop => "stop",
            Self::Cut => "cut",
            Self::CutAfter(_) => "cut in mid-record",
            Self::Hold => "hold",
            Self::Swallow => "swallow",
            Self::HalfOpen(_) => "half-open",
            Self::Slow(_) => "slow line",
            Self::Full => "disk full",
        }
    }
}

impl Hit {
    /// Returns the kind of thing that it is, for the summary.
    pub fn name(self) -> &'static str {
        match self {
            Self::Broker => "broker",
            Self::Engine(_) => "engine",
            Self::Interpreter(_) => "interpreter",
            Self::Client(_) => "client",
            Self::Disk => "home",
        }
    }
}

impl fmt::Display for Hit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Engine(place) | Self::Interpreter(place) | Self::Client(place) => {
                write!(f, "{} {place}", self.name())
            }
            Self::Broker | Self::Disk => f.write_str(self.name()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const TARGETS: Targets = Targets {
        engines: 4,
        clients: 4,
        with_python: true,
        with_disk: true,
        last_at_most: Duration::from_secs(20),
        pauses_at_most: Duration::from_secs(2),
    };

    #[test]
    fn a_seed_always_makes_the_same_plan() {
        let minute = Duration::from_mins(1);
        assert_eq!(plan(1, minute, TARGETS), plan(1, minute, TARGETS));
        assert_ne!(plan(1, minute, TARGETS), plan(2, minute, TARGETS));
    }

    #[test]
    fn every_fault_comes_in_an_hour() {
        let planned = plan(1, Duration::from_hours(1), TARGETS);
        let kinds: BTreeSet<_> =
            planned.iter().map(|planned| (planned.fault.name(), planned.hit.name())).collect();
        // Four are killed, three are stopped, the lines of two are broken in six ways, one disk is
        // full.
        assert_eq!(kinds.len(), 4 + 3 + 2 * 6 + 1, "{kinds:?}");
        assert!(planned.iter().all(|planned| planned.lasts <= Duration::from_secs(20)));
    }
}
