//! `furlong metrics`: what a monitoring system reads of a farm, in the format of `OpenMetrics`.
//!
//! The sums are the broker's, so a total never falls when an engine goes. Labels are few: the kinds
//! with most time have their names, all others are `other`, and no task or session is a label.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use furlong_client::{Client, Picture, Wanted};
use furlong_wire::message::{EngineState, KindSeen, SpanSeen, range_start_us};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use crate::connect::{ConnectArgs, OBSERVERS};
use crate::exit::ExitCode;
use crate::print;
use crate::replaced::replace;

/// Flags of `metrics`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Names and labels are in docs/guide/metrics.md. A node exporter reads the text file (`--collector.textfile.directory`).

Exit codes: 0 printed; 1 an error; 2 wrong usage.

Example: furlong metrics --textfile /var/lib/node_exporter/furlong.prom")]
pub struct MetricsArgs {
    /// Write this file again and again, in one step each time, instead of printing once
    #[arg(long, value_name = "FILE")]
    textfile: Option<PathBuf>,
    /// Seconds between two times that the file is written
    #[arg(long, value_name = "SECONDS", default_value = "15",
        value_parser = clap::value_parser!(u64).range(1..=3600))]
    every: u64,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// Kinds that have a label of their own: those with most time.
const KINDS_NAMED: usize = 50;
/// The mode of the file: another user's program reads it.
const READABLE: u32 = 0o644;
/// The upper bounds of the histograms, in seconds.
const BOUNDS_S: [f64; 15] =
    [1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 3600.0];

/// Prints the metrics, or writes them to a file until it is told to stop.
pub async fn run(args: MetricsArgs) -> Result<ExitCode> {
    let client = args.connect.connect(OBSERVERS).await?;
    let mut picture = Picture::default();
    let Some(path) = &args.textfile else {
        look(&client, &mut picture).await?;
        print::lines(text_of(&picture)?.trim_end())?;
        client.close().await;
        return Ok(ExitCode::SUCCESS);
    };
    loop {
        look(&client, &mut picture).await?;
        replace(path, text_of(&picture)?.as_bytes(), Some(READABLE))?;
        tokio::time::sleep(Duration::from_secs(args.every)).await;
    }
}

async fn look(client: &Client, picture: &mut Picture) -> Result<()> {
    let wanted = Wanted { ranges: true, ..Wanted::default() };
    while client.look(picture, wanted).await? {}
    Ok(())
}

/// The metrics of a picture of a farm.
pub fn text_of(picture: &Picture) -> Result<String> {
    let mut registry = Registry::with_prefix("furlong");
    registry.register_collector(Box::new(Farm(picture.clone())));
    let mut text = String::new();
    text::encode(&mut text, &registry)?;
    Ok(text)
}

#[derive(Debug)]
struct Farm(Picture);

type Encoded = Result<(), std::fmt::Error>;

impl Collector for Farm {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Encoded {
        let picture = &self.0;
        self.encode_tasks(&mut encoder)?;
        self.encode_engines(&mut encoder)?;
        self.encode_kinds(&mut encoder)?;
        let farm = &picture.farm;
        let mut gauge = |name, help, value: u64| {
            gauges(&mut encoder, name, help, &mut |one| one(NO_LABELS, value as f64))
        };
        gauge("up_seconds", "Time since the broker's start", picture.at_us / 1_000_000)?;
        gauge("clients", "Clients that are connected", u64::from(farm.clients))?;
        gauge("payload_bytes", "Payload bytes that the broker holds", farm.payload_bytes.0)?;
        gauge("payload_limit_bytes", "Payload bytes that it may hold", farm.payload_bytes.1)?;
        gauge("notes", "Things that somebody should look at", picture.notes.len() as u64)
    }
}

/// Labels of one figure.
type Labels<'a> = &'a [(&'a str, &'a str)];
const NO_LABELS: Labels<'static> = &[];
/// Takes one figure with its labels.
type One<'a> = dyn FnMut(Labels<'_>, f64) -> Encoded + 'a;
/// Gives all figures of a metric, one after the other.
type Each<'a> = dyn FnMut(&mut One<'_>) -> Encoded + 'a;
/// A phase of a kind's tasks.
type Phase = (&'static str, fn(&KindSeen) -> &SpanSeen);

/// Encodes one gauge with several label sets, which `each` names with their values.
fn gauges(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    each: &mut Each<'_>,
) -> Encoded {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    each(&mut |labels, value| labelled(&mut metric, labels, |it| it.encode_gauge(&value)))
}

/// The same for a counter.
fn counters(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    each: &mut Each<'_>,
) -> Encoded {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    each(&mut |labels, value| {
        labelled(&mut metric, labels, |it| it.encode_counter::<NoLabelSet, _, f64>(&value, None))
    })
}

fn labelled(
    metric: &mut MetricEncoder<'_>,
    labels: Labels<'_>,
    encode: impl FnOnce(&mut MetricEncoder<'_>) -> Encoded,
) -> Encoded {
    if labels.is_empty() {
        return encode(metric);
    }
    encode(&mut metric.encode_family(&labels)?)
}

impl Farm {
    fn encode_tasks(&self, encoder: &mut DescriptorEncoder<'_>) -> Encoded {
        let farm = &self.0.farm;
        gauges(encoder, "tasks", "Tasks by state", &mut |one| {
            let states = [
                ("waiting", farm.tasks_waiting),
                ("held", farm.tasks_held),
                ("assigned", farm.tasks_assigned),
                ("unacknowledged", farm.results_held),
            ];
            states.iter().try_for_each(|(state, tasks)| one(&[("state", state)], *tasks as f64))
        })?;
        let mut counter = |name, help, value: u64| {
            counters(encoder, name, help, &mut |one| one(NO_LABELS, value as f64))
        };
        counter("tasks_submitted", "Tasks that were submitted", farm.tasks_submitted)?;
        counter("tasks_retried", "Times that tasks were run again", farm.retries)?;
        counter(
            "request_bytes",
            "Bytes of calls and arguments of ended tasks",
            farm.request_bytes,
        )?;
        counter("result_bytes", "Bytes of results", farm.result_bytes)?;
        counters(encoder, "tasks_ended", "Tasks that have ended", &mut |one| {
            let bad = farm.tasks_failed + farm.tasks_cancelled;
            let outcomes = [
                ("succeeded", farm.tasks_ended.saturating_sub(bad)),
                ("failed", farm.tasks_failed),
                ("cancelled", farm.tasks_cancelled),
            ];
            outcomes.iter().try_for_each(|(name, tasks)| one(&[("outcome", name)], *tasks as f64))
        })
    }

    fn encode_engines(&self, encoder: &mut DescriptorEncoder<'_>) -> Encoded {
        let engines = &self.0.engines;
        gauges(encoder, "engines", "Engines by state", &mut |one| {
            EngineState::ALL.iter().try_for_each(|state| {
                let count = engines.values().filter(|engine| engine.state == *state).count();
                one(&[("state", state.as_str())], count as f64)
            })
        })?;
        let sum = |of: fn(&furlong_wire::message::EngineSeen) -> u64| -> f64 {
            engines.values().map(|engine| of(engine) as f64).sum()
        };
        let busy_s = sum(|engine| engine.busy_us) / 1e6;
        let help = "Time for which code has run on engines that are known";
        gauges(encoder, "engine_busy_seconds", help, &mut |one| one(NO_LABELS, busy_s))?;
        let deaths = sum(|engine| u64::from(engine.deaths));
        let help = "Interpreters of known engines that have ended unasked";
        gauges(encoder, "engine_interpreter_deaths", help, &mut |one| one(NO_LABELS, deaths))
    }

    fn encode_kinds(&self, encoder: &mut DescriptorEncoder<'_>) -> Encoded {
        let kinds = self.kinds();
        counters(encoder, "kind_tasks_ended", "Tasks that have ended, by kind", &mut |one| {
            kinds.iter().try_for_each(|(name, kinds)| {
                let ended: u64 = kinds.iter().map(|kind| kind.ended).sum();
                one(&[("kind", name)], ended as f64)
            })
        })?;
        counters(encoder, "kind_tasks_failed", "Tasks that have failed, by kind", &mut |one| {
            kinds.iter().try_for_each(|(name, kinds)| {
                let failed: u64 = kinds.iter().map(|kind| kind.failed).sum();
                one(&[("kind", name)], failed as f64)
            })
        })?;
        let help = "Time that tasks have spent, by kind and phase";
        let mut metric =
            encoder.encode_descriptor("task_phase_seconds", help, None, MetricType::Histogram)?;
        for (name, kinds) in &kinds {
            let phases: [Phase; 3] = [
                ("queue", |kind| &kind.queue),
                ("run", |kind| &kind.run),
                ("overhead", |kind| &kind.overhead),
            ];
            for (phase, of) in phases {
                let spans: Vec<&SpanSeen> = kinds.iter().map(|kind| of(kind)).collect();
                let labels: Labels<'_> = &[("kind", name), ("phase", phase)];
                labelled(&mut metric, labels, |it| {
                    let (sum_s, count, buckets) = histogram(&spans);
                    it.encode_histogram::<NoLabelSet>(sum_s, count, &buckets, None)
                })?;
            }
        }
        Ok(())
    }

    /// Kinds by their label: those with most time by their names, the rest together. Kinds of one
    /// name and several owners are one.
    fn kinds(&self) -> Vec<(String, Vec<&KindSeen>)> {
        let picture = &self.0;
        let time = |kind: &KindSeen| kind.run.sum_us.saturating_add(kind.overhead.sum_us);
        let mut by_name = std::collections::BTreeMap::<String, Vec<&KindSeen>>::new();
        for kind in picture.kinds.values() {
            by_name.entry(picture.kind_name(kind.id)).or_default().push(kind);
        }
        let mut named: Vec<(String, Vec<&KindSeen>)> = by_name.into_iter().collect();
        named.sort_by_key(|(_, kinds)| {
            std::cmp::Reverse(kinds.iter().map(|kind| time(kind)).sum::<u64>())
        });
        let others: Vec<&KindSeen> = named
            .split_off(named.len().min(KINDS_NAMED))
            .into_iter()
            .flat_map(|(_, it)| it)
            .collect();
        if !others.is_empty() {
            named.push(("other".to_owned(), others));
        }
        named
    }
}

/// Sum, count and buckets of several distributions.
fn histogram(spans: &[&SpanSeen]) -> (f64, u64, Vec<(f64, u64)>) {
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
    let bounds = BOUNDS_S.into_iter().chain([f64::MAX]);
    (sum_us as f64 / 1e6, counts.iter().sum(), bounds.zip(counts).collect())
}
