//! The metrics: each with its name, its labels, its meaning and where its figures come from. What
//! is printed, what `--list` says and what the guide and the dashboards may name is this table.

use std::fmt::Write as _;

use furlong_client::Picture;
use furlong_wire::message::{EngineState, ErrorKind, KindSeen, NoteCode, SpanSeen};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::view::{HostLoad, View, histogram};

/// The beginning of all names.
const PREFIX: &str = "furlong";

/// A metric.
#[derive(Debug)]
struct Metric {
    /// Without [`PREFIX`] and the ending that its type adds.
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
    figures: Figures,
}

/// The labels of one figure.
type Labels<'a> = &'a [(&'a str, &'a str)];
/// Takes one figure with its labels.
type One<'a> = dyn FnMut(Labels<'_>, f64) -> Encoded + 'a;
/// Takes the distributions that make one histogram, with its labels.
type Spans<'a> = dyn FnMut(Labels<'_>, &[&SpanSeen]) -> Encoded + 'a;
type Encoded = Result<(), std::fmt::Error>;

/// The source of a metric's figures.
#[derive(Debug)]
enum Figures {
    Gauge(fn(&View, &mut One<'_>) -> Encoded),
    Counter(fn(&View, &mut One<'_>) -> Encoded),
    Histogram(fn(&View, &mut Spans<'_>) -> Encoded),
}

const NO_LABELS: Labels<'static> = &[];

/// The name of the one metric that is there also while the broker is away.
const UP: &str = "up";
const UP_HELP: &str = "1 if the broker has answered, 0 if it is away";

/// All metrics.
const METRICS: &[Metric] = &[
    Metric {
        name: UP,
        labels: &[],
        help: UP_HELP,
        figures: Figures::Gauge(|_, one| one(NO_LABELS, 1.0)),
    },
    Metric {
        name: "version",
        labels: &["version"],
        help: "1, with the version of the program that prints this",
        figures: Figures::Gauge(|_, one| one(&[("version", env!("CARGO_PKG_VERSION"))], 1.0)),
    },
    Metric {
        name: "up_seconds",
        labels: &[],
        help: "Time since the broker's start",
        figures: Figures::Gauge(|view, one| {
            one(NO_LABELS, (view.picture.at_us / 1_000_000) as f64)
        }),
    },
    Metric {
        name: "answer_seconds",
        labels: &[],
        help: "Time that the broker took to answer the question for these figures",
        figures: Figures::Gauge(|view, one| one(NO_LABELS, view.answer.as_secs_f64())),
    },
    Metric {
        name: "tasks",
        labels: &["state"],
        help: "Unfinished tasks by state, and ended ones whose results are unacknowledged",
        figures: Figures::Gauge(|view, one| {
            let farm = &view.picture.farm;
            let (running, assigned) = view.running_and_assigned();
            each(
                one,
                "state",
                [
                    ("held", farm.tasks_held),
                    ("waiting", farm.tasks_waiting),
                    ("assigned", assigned),
                    ("running", running),
                    ("unacknowledged", farm.results_held),
                ],
            )
        }),
    },
    Metric {
        name: "tasks_submitted",
        labels: &[],
        help: "Tasks that were submitted",
        figures: Figures::Counter(|view, one| sum(one, view.picture.farm.tasks_submitted)),
    },
    Metric {
        name: "tasks_ended",
        labels: &["outcome"],
        help: "Tasks that have ended, by outcome",
        figures: Figures::Counter(|view, one| {
            let farm = &view.picture.farm;
            let bad = farm.tasks_failed + farm.tasks_cancelled;
            each(
                one,
                "outcome",
                [
                    ("succeeded", farm.tasks_ended.saturating_sub(bad)),
                    ("failed", farm.tasks_failed),
                    ("cancelled", farm.tasks_cancelled),
                ],
            )
        }),
    },
    Metric {
        name: "tasks_retried",
        labels: &[],
        help: "Times that tasks were run again",
        figures: Figures::Counter(|view, one| sum(one, view.picture.farm.retries)),
    },
    Metric {
        name: "failures_remembered",
        labels: &["error"],
        help: "Failures among those that the broker remembers, by kind of error",
        figures: Figures::Gauge(|view, one| {
            let failures = &view.picture.failures;
            ErrorKind::ALL.iter().try_for_each(|error| {
                let of_kind = failures.iter().filter(|failure| failure.error == *error);
                let count: u64 = of_kind.map(|failure| failure.count).sum();
                if count == 0 { Ok(()) } else { one(&[("error", error.as_str())], count as f64) }
            })
        }),
    },
    Metric {
        name: "last_minute_seconds",
        labels: &["phase"],
        help: "Time that the tasks which have ended in the last minute spent in each phase",
        figures: Figures::Gauge(|view, one| {
            let minute = &view.picture.farm.minute;
            let phases = [
                ("held", minute.held_us),
                ("queue", minute.queue_us),
                ("way", minute.way_us + minute.run.began_us),
                ("load", minute.run.load_us),
                ("run", minute.run.run_us),
                ("store", minute.run.store_us),
            ];
            phases.iter().try_for_each(|(phase, us)| one(&[("phase", phase)], seconds(*us)))
        }),
    },
    Metric {
        name: "time_left_seconds",
        labels: &["bound"],
        help: "Time until all is done, at least and at most; absent if too little is known",
        figures: Figures::Gauge(|view, one| {
            let Some((least, most)) = view.picture.farm.left_us else { return Ok(()) };
            one(&[("bound", "least")], seconds(least))?;
            one(&[("bound", "most")], seconds(most))
        }),
    },
    Metric {
        name: "kind_tasks_running",
        labels: &["kind"],
        help: "Tasks that run, by kind",
        figures: Figures::Gauge(|view, one| by_kind(view, one, |kind| u64::from(kind.running))),
    },
    Metric {
        name: "kind_tasks_waiting",
        labels: &["kind"],
        help: "Unfinished tasks that do not run, by kind",
        figures: Figures::Gauge(|view, one| by_kind(view, one, Picture::waiting)),
    },
    Metric {
        name: "kind_tasks_ended",
        labels: &["kind"],
        help: "Tasks that have ended, by kind",
        figures: Figures::Counter(|view, one| by_kind(view, one, |kind| kind.ended)),
    },
    Metric {
        name: "kind_tasks_failed",
        labels: &["kind"],
        help: "Tasks that have failed, by kind",
        figures: Figures::Counter(|view, one| by_kind(view, one, |kind| kind.failed)),
    },
    Metric {
        name: "kind_tasks_retried",
        labels: &["kind"],
        help: "Times that tasks were run again, by kind",
        figures: Figures::Counter(|view, one| by_kind(view, one, |kind| kind.retries)),
    },
    Metric {
        name: "kind_request_bytes",
        labels: &["kind"],
        help: "Bytes of calls and arguments of ended tasks, by kind",
        figures: Figures::Counter(|view, one| by_kind(view, one, |kind| kind.request_bytes)),
    },
    Metric {
        name: "kind_result_bytes",
        labels: &["kind"],
        help: "Bytes of results, by kind",
        figures: Figures::Counter(|view, one| by_kind(view, one, |kind| kind.result_bytes)),
    },
    Metric {
        name: "task_phase_seconds",
        labels: &["kind", "phase"],
        help: "Time that tasks have spent in queue, run and overhead, by kind",
        figures: Figures::Histogram(|view, spans| {
            view.kinds().iter().try_for_each(|(name, kinds)| {
                PHASES.iter().try_for_each(|(phase, of)| {
                    let of_kinds: Vec<&SpanSeen> = kinds.iter().map(|kind| of(kind)).collect();
                    spans(&[("kind", name), ("phase", phase)], &of_kinds)
                })
            })
        }),
    },
    Metric {
        name: "request_bytes",
        labels: &[],
        help: "Bytes of calls and arguments of ended tasks",
        figures: Figures::Counter(|view, one| sum(one, view.picture.farm.request_bytes)),
    },
    Metric {
        name: "result_bytes",
        labels: &[],
        help: "Bytes of results",
        figures: Figures::Counter(|view, one| sum(one, view.picture.farm.result_bytes)),
    },
    Metric {
        name: "engines",
        labels: &["state"],
        help: "Engines by state",
        figures: Figures::Gauge(|view, one| {
            let engines = &view.picture.engines;
            EngineState::ALL.iter().try_for_each(|state| {
                let count = engines.values().filter(|engine| engine.state == *state).count();
                one(&[("state", state.as_str())], count as f64)
            })
        }),
    },
    Metric {
        name: "engine_busy_seconds",
        labels: &[],
        help: "Time for which code has run on the engines that are known",
        figures: Figures::Gauge(|view, one| {
            one(NO_LABELS, view.engines(|engine| engine.busy_us) / 1e6)
        }),
    },
    Metric {
        name: "engine_interpreter_deaths",
        labels: &[],
        help: "Interpreters of known engines that have ended unasked",
        figures: Figures::Gauge(|view, one| {
            one(NO_LABELS, view.engines(|engine| u64::from(engine.deaths)))
        }),
    },
    Metric {
        name: "engine_cpu_ratio",
        labels: &["host"],
        help: "Processors that interpreters and programs of engines take, by host",
        figures: Figures::Gauge(|view, one| {
            by_host(view, one, |host| Some(f64::from(host.cpu_percent) / 100.0))
        }),
    },
    Metric {
        name: "engine_resident_memory_bytes",
        labels: &["host"],
        help: "Memory that interpreters and programs of engines have, by host",
        figures: Figures::Gauge(|view, one| {
            by_host(view, one, |host| Some(host.resident_bytes as f64))
        }),
    },
    Metric {
        name: "engine_silent_seconds",
        labels: &["host"],
        help: "Time since the engine of a host that has been silent longest has answered",
        figures: Figures::Gauge(|view, one| by_host(view, one, |it| Some(seconds(it.silent_us)))),
    },
    Metric {
        name: "host_cpu_ratio",
        labels: &["host"],
        help: "Share of a host's processors that are in use",
        figures: Figures::Gauge(|view, one| {
            by_host(view, one, |host| Some(f64::from(host.machine.cpu_percent?) / 100.0))
        }),
    },
    Metric {
        name: "host_load",
        labels: &["host"],
        help: "Processes of a host that ran or waited for a processor, the mean over a minute",
        figures: Figures::Gauge(|view, one| {
            by_host(view, one, |it| Some(f64::from(it.machine.load_hundredths) / 100.0))
        }),
    },
    Metric {
        name: "host_memory_bytes",
        labels: &["host"],
        help: "Memory of a host",
        figures: Figures::Gauge(|view, one| {
            by_host(view, one, |host| Some(host.machine.memory_bytes as f64))
        }),
    },
    Metric {
        name: "host_memory_free_bytes",
        labels: &["host"],
        help: "Memory of a host that can be given to processes",
        figures: Figures::Gauge(|view, one| {
            by_host(view, one, |host| Some(host.machine.memory_free_bytes as f64))
        }),
    },
    Metric {
        name: "clients",
        labels: &[],
        help: "Clients that are connected",
        figures: Figures::Gauge(|view, one| sum(one, u64::from(view.picture.farm.clients))),
    },
    Metric {
        name: "sessions",
        labels: &[],
        help: "Sessions of clients, also of those whose connection is cut",
        figures: Figures::Gauge(|view, one| {
            sum(one, view.picture.owners.iter().map(|owner| u64::from(owner.sessions)).sum())
        }),
    },
    Metric {
        name: "payload_bytes",
        labels: &[],
        help: "Payload bytes that the broker holds",
        figures: Figures::Gauge(|view, one| sum(one, view.picture.farm.payload_bytes.0)),
    },
    Metric {
        name: "payload_limit_bytes",
        labels: &[],
        help: "Payload bytes that it may hold",
        figures: Figures::Gauge(|view, one| sum(one, view.picture.farm.payload_bytes.1)),
    },
    Metric {
        name: "notes",
        labels: &["note"],
        help: "Things that somebody should look at, by the rule that found them",
        figures: Figures::Gauge(|view, one| {
            let notes = &view.picture.notes;
            NoteCode::ALL.iter().try_for_each(|code| {
                let count = notes.iter().filter(|note| note.code == *code).count();
                one(&[("note", code.as_str())], count as f64)
            })
        }),
    },
];

/// A phase of a kind's tasks.
type Phase = (&'static str, fn(&KindSeen) -> &SpanSeen);

const PHASES: [Phase; 3] =
    [("queue", |kind| &kind.queue), ("run", |kind| &kind.run), ("overhead", |kind| &kind.overhead)];

fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}

fn sum(one: &mut One<'_>, value: u64) -> Encoded {
    one(NO_LABELS, value as f64)
}

fn each<const N: usize>(one: &mut One<'_>, label: &str, values: [(&str, u64); N]) -> Encoded {
    values.iter().try_for_each(|(name, value)| one(&[(label, name)], *value as f64))
}

fn by_kind(view: &View, one: &mut One<'_>, of: fn(&KindSeen) -> u64) -> Encoded {
    view.kinds().iter().try_for_each(|(name, kinds)| {
        let value: u64 = kinds.iter().map(|kind| of(kind)).sum();
        one(&[("kind", name)], value as f64)
    })
}

/// Hosts whose engines have told no figures have none here.
fn by_host(view: &View, one: &mut One<'_>, of: fn(&HostLoad) -> Option<f64>) -> Encoded {
    view.hosts()
        .iter()
        .try_for_each(|(name, host)| of(host).map_or(Ok(()), |value| one(&[("host", name)], value)))
}

/// The metrics of a farm; without a view, of one whose broker is away.
pub fn text_of(view: Option<View>) -> Result<String, std::fmt::Error> {
    let mut registry = Registry::with_prefix(PREFIX);
    registry.register_collector(Box::new(Farm(view)));
    let mut text = String::new();
    text::encode(&mut text, &registry)?;
    Ok(text)
}

/// The rows of a table in Markdown: names as they are printed, types, labels and meanings.
pub fn table() -> String {
    let mut table = "| metric | type | labels | meaning |\n|---|---|---|---|\n".to_owned();
    for metric in METRICS {
        let (type_name, ending) = match metric.figures {
            Figures::Gauge(_) => ("gauge", ""),
            Figures::Counter(_) => ("counter", "_total"),
            Figures::Histogram(_) => ("histogram", ""),
        };
        let labels: Vec<String> = metric.labels.iter().map(|name| format!("`{name}`")).collect();
        let (name, labels, help) = (metric.name, labels.join(", "), metric.help);
        writeln!(table, "| `{PREFIX}_{name}{ending}` | {type_name} | {labels} | {help} |")
            .expect("a string takes all that is written to it");
    }
    table
}

#[derive(Debug)]
struct Farm(Option<View>);

impl Collector for Farm {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Encoded {
        let Some(view) = &self.0 else {
            let mut up = encoder.encode_descriptor(UP, UP_HELP, None, MetricType::Gauge)?;
            return up.encode_gauge(&0.0);
        };
        METRICS.iter().try_for_each(|metric| metric.encode(view, &mut encoder))
    }
}

impl Metric {
    fn encode(&self, view: &View, encoder: &mut DescriptorEncoder<'_>) -> Encoded {
        let metric_type = match self.figures {
            Figures::Gauge(_) => MetricType::Gauge,
            Figures::Counter(_) => MetricType::Counter,
            Figures::Histogram(_) => MetricType::Histogram,
        };
        let mut metric = encoder.encode_descriptor(self.name, self.help, None, metric_type)?;
        match self.figures {
            Figures::Gauge(figures) => figures(view, &mut |labels, value| {
                labelled(&mut metric, labels, |it| it.encode_gauge(&value))
            }),
            Figures::Counter(figures) => figures(view, &mut |labels, value| {
                labelled(&mut metric, labels, |it| {
                    it.encode_counter::<NoLabelSet, _, f64>(&value, None)
                })
            }),
            Figures::Histogram(figures) => figures(view, &mut |labels, spans| {
                let (sum_s, count, buckets) = histogram(spans);
                labelled(&mut metric, labels, |it| {
                    it.encode_histogram::<NoLabelSet>(sum_s, count, &buckets, None)
                })
            }),
        }
    }
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
