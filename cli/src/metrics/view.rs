//! A farm as the metrics see it: sums, and the kinds that have labels of their own.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

use furlong_client::Picture;
use furlong_wire::message::{EngineSeen, KindSeen, MachineLoad, SpanSeen, range_start_us};

/// Kinds that have a label of their own: those with most time.
const KINDS_NAMED: usize = 50;
/// Hosts that have a label of their own.
const HOSTS_NAMED: usize = 256;
/// The upper bounds of the histograms, in seconds.
const BOUNDS_S: [f64; 15] =
    [1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 3600.0];

/// A look at a farm.
#[derive(Debug)]
pub struct View {
    /// The farm.
    pub picture: Picture,
    /// The time that the broker took to answer.
    pub answer: Duration,
}

/// The figures of a host.
#[derive(Debug, Default)]
pub struct HostLoad {
    /// Of its engines: processors that their processes take, in per cent of one.
    pub cpu_percent: u32,
    /// Bytes of memory that these have.
    pub resident_bytes: u64,
    /// The longest time since one of its engines has answered, in microseconds.
    pub silent_us: u64,
    /// The machine, as the engine has told that answered last.
    pub machine: MachineLoad,
}

/// Kinds of one name, with their label.
pub type Named<'a> = (String, Vec<&'a KindSeen>);

impl View {
    /// Kinds by their label: those with most time by their names, the rest together. Kinds of one
    /// name and several owners are one.
    pub fn kinds(&self) -> Vec<Named<'_>> {
        let picture = &self.picture;
        let time = |kind: &KindSeen| kind.run.sum_us.saturating_add(kind.overhead.sum_us);
        let mut by_name = BTreeMap::<String, Vec<&KindSeen>>::new();
        for kind in picture.kinds.values() {
            by_name.entry(picture.kind_name(kind.id)).or_default().push(kind);
        }
        // A function may have the name of those that have none.
        let mut others = by_name.remove(OTHER).unwrap_or_default();
        let mut named: Vec<Named<'_>> = by_name.into_iter().collect();
        named.sort_by_key(|(_, kinds)| Reverse(kinds.iter().map(|kind| time(kind)).sum::<u64>()));
        let rest = named.split_off(named.len().min(KINDS_NAMED));
        others.extend(rest.into_iter().flat_map(|(_, kinds)| kinds));
        if !others.is_empty() {
            named.push((OTHER.to_owned(), others));
        }
        named
    }

    /// The sum of a figure over the engines that are known.
    pub fn engines(&self, of: fn(&EngineSeen) -> u64) -> f64 {
        self.picture.engines.values().map(|engine| of(engine) as f64).sum()
    }

    /// The hosts of engines that have told figures, by name; very many are cut.
    pub fn hosts(&self) -> BTreeMap<&str, HostLoad> {
        let picture = &self.picture;
        let mut hosts = BTreeMap::<&str, HostLoad>::new();
        let mut latest = BTreeMap::<&str, u64>::new();
        for engine in picture.engines.values() {
            let Some(load) = engine.load else { continue };
            let name = engine.host.as_str();
            if hosts.len() == HOSTS_NAMED && !hosts.contains_key(name) {
                continue;
            }
            let host = hosts.entry(name).or_default();
            // Engines may say anything.
            let cpu_percent = load.slot.cpu_percent.unwrap_or_default();
            host.cpu_percent = host.cpu_percent.saturating_add(cpu_percent);
            host.resident_bytes = host.resident_bytes.saturating_add(load.slot.resident_bytes);
            host.silent_us = host.silent_us.max(picture.silent_us(engine).unwrap_or_default());
            let latest = latest.entry(name).or_default();
            if load.heard_us >= *latest {
                (*latest, host.machine) = (load.heard_us, load.machine);
            }
        }
        hosts
    }

    /// Tasks that run, and those that engines have and have not begun.
    pub fn running_and_assigned(&self) -> (u64, u64) {
        let farm = &self.picture.farm;
        let running = u64::from(farm.engines_busy).min(farm.tasks_assigned);
        (running, farm.tasks_assigned - running)
    }
}

/// The label of the kinds that have none of their own.
const OTHER: &str = "other";

/// Sum in seconds, count and buckets of several distributions.
pub fn histogram(spans: &[&SpanSeen]) -> (f64, u64, Vec<(f64, u64)>) {
    let mut counts = [0_u64; BOUNDS_S.len() + 1];
    for span in spans {
        for (range, count) in span.ranges.iter().enumerate() {
            // By the middle of the range, which may reach over a bound.
            let middle_us = (range_start_us(range) + range_start_us(range + 1)) as f64 / 2.0;
            let bucket = BOUNDS_S.partition_point(|bound| *bound < middle_us / 1e6);
            counts[bucket] += u64::from(*count);
        }
    }
    let sum_us: u64 = spans.iter().map(|span| span.sum_us).sum();
    let bounds = BOUNDS_S.into_iter().chain([f64::INFINITY]);
    (sum_us as f64 / 1e6, counts.iter().sum(), bounds.zip(counts).collect())
}
