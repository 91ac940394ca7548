//! `cargo xtask contrib`: a dashboard for Grafana and alerts for Prometheus, made from two tables.
//!
//! `tests/farm/metrics.rs` checks that their queries name nothing that `furlong metrics` does not
//! print.

use std::path::Path;

use anyhow::Context;
use serde_json::{Value, json};

use crate::workspace::Workspace;

/// A panel of the dashboard.
struct Panel {
    title: &'static str,
    /// Grafana's name for the unit.
    unit: &'static str,
    /// Each query with the name of its curves.
    queries: &'static [(&'static str, &'static str)],
}

/// In the order of reading: two beside each other.
const PANELS: &[Panel] = &[
    Panel { title: "Broker answers", unit: "bool_on_off", queries: &[("furlong_up", "up")] },
    Panel {
        title: "Tasks by state",
        unit: "short",
        queries: &[("sum by (state) (furlong_tasks)", "{{state}}")],
    },
    Panel {
        title: "Ends per second",
        unit: "ops",
        queries: &[(
            "sum by (outcome) (rate(furlong_tasks_ended_total[$__rate_interval]))",
            "{{outcome}}",
        )],
    },
    Panel {
        title: "Failures per second, by kind",
        unit: "ops",
        queries: &[(
            "topk(10, sum by (kind) (rate(furlong_kind_tasks_failed_total[$__rate_interval])))",
            "{{kind}}",
        )],
    },
    Panel {
        title: "Where the time of the last minute's tasks went",
        unit: "s",
        queries: &[("sum by (phase) (furlong_last_minute_seconds)", "{{phase}}")],
    },
    Panel {
        title: "Run of the code, 95th percentile by kind",
        unit: "s",
        queries: &[(
            "topk(10, histogram_quantile(0.95, sum by (kind, le) \
             (rate(furlong_task_phase_seconds_bucket{phase=\"run\"}[$__rate_interval]))))",
            "{{kind}}",
        )],
    },
    Panel {
        title: "Engines by state",
        unit: "short",
        queries: &[("sum by (state) (furlong_engines)", "{{state}}")],
    },
    Panel {
        title: "Time left",
        unit: "s",
        queries: &[("max by (bound) (furlong_time_left_seconds)", "at {{bound}}")],
    },
    Panel {
        title: "Payload memory",
        unit: "bytes",
        queries: &[
            ("sum(furlong_payload_bytes)", "held"),
            ("sum(furlong_payload_limit_bytes)", "limit"),
        ],
    },
    Panel {
        title: "Notes",
        unit: "short",
        queries: &[("sum by (note) (furlong_notes) > 0", "{{note}}")],
    },
    Panel {
        title: "Bytes per second",
        unit: "Bps",
        queries: &[
            ("sum(rate(furlong_request_bytes_total[$__rate_interval]))", "requests"),
            ("sum(rate(furlong_result_bytes_total[$__rate_interval]))", "results"),
        ],
    },
    Panel {
        title: "Time of the broker's answers",
        unit: "s",
        queries: &[("max(furlong_answer_seconds)", "answer")],
    },
];

/// An alert.
struct Alert {
    name: &'static str,
    query: &'static str,
    /// The time for which it must hold.
    lasts: &'static str,
    severity: &'static str,
    summary: &'static str,
    advice: &'static str,
}

const ALERTS: &[Alert] = &[
    Alert {
        name: "FurlongDown",
        query: "furlong_up == 0",
        lasts: "2m",
        severity: "critical",
        summary: "The broker does not answer",
        advice: "Look at its log, and start it again: engines and clients come back to it.",
    },
    Alert {
        name: "FurlongFailuresRise",
        query: "sum by (instance) (rate(furlong_tasks_ended_total{outcome=\"failed\"}[10m])) \
                / sum by (instance) (rate(furlong_tasks_ended_total[10m])) > 0.1",
        lasts: "10m",
        severity: "warning",
        summary: "More than one task in ten fails",
        advice: "`furlong top --once --page failures` shows the errors by type and place.",
    },
    Alert {
        name: "FurlongNoEngine",
        query: "sum by (instance) (furlong_engines{state=~\"idle|busy|restarting\"}) == 0 \
                and sum by (instance) (furlong_tasks{state=\"waiting\"}) > 0",
        lasts: "5m",
        severity: "critical",
        summary: "Tasks wait, and there is no engine",
        advice: "Start engines; `furlong status` says which were there.",
    },
    Alert {
        name: "FurlongMemoryNearlyFull",
        query: "furlong_payload_bytes / furlong_payload_limit_bytes > 0.9",
        lasts: "5m",
        severity: "warning",
        summary: "Payloads fill nine tenths of the broker's memory for them",
        advice: "Results that nobody reads stay: `furlong top --once` names such sessions.",
    },
    Alert {
        name: "FurlongBrokerSlow",
        query: "furlong_answer_seconds > 0.5",
        lasts: "5m",
        severity: "warning",
        summary: "The broker takes half a second or longer for an answer",
        advice: "Look at the load of its machine, and of the way to it.",
    },
    Alert {
        name: "FurlongEngineStuck",
        query: "sum by (instance) (furlong_engines{state=\"stuck\"}) > 0",
        lasts: "10m",
        severity: "warning",
        summary: "An engine runs a task that has been ended",
        advice: "`furlong restart` gives it a new interpreter.",
    },
];

/// The files below the top folder, with their texts.
fn files() -> [(&'static str, String); 2] {
    [("contrib/grafana.json", dashboard()), ("contrib/alerts.yaml", alerts())]
}

/// Writes the files.
pub fn write(workspace: &Workspace) -> anyhow::Result<()> {
    for (name, text) in files() {
        let path = workspace.root().join(name);
        std::fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))
            .and_then(|()| std::fs::write(&path, text))
            .with_context(|| format!("cannot write {}", path.display()))?;
        println!("{name}");
    }
    Ok(())
}

fn dashboard() -> String {
    let source = json!({"type": "prometheus", "uid": "${source}"});
    let panels: Vec<Value> = PANELS
        .iter()
        .enumerate()
        .map(|(at, panel)| {
            let queries = panel.queries.iter().enumerate();
            let targets: Vec<Value> = queries
                .map(|(at, (query, legend))| {
                    let id = format!("Q{at}");
                    json!({"expr": query, "legendFormat": legend, "refId": id})
                })
                .collect();
            json!({
                "id": at + 1,
                "type": "timeseries",
                "title": panel.title,
                "datasource": source,
                "gridPos": {"h": 8, "w": 12, "x": at % 2 * 12, "y": at / 2 * 8},
                "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
                "targets": targets,
            })
        })
        .collect();
    let dashboard = json!({
        "title": "Furlong",
        "uid": "furlong",
        "tags": ["furlong"],
        "schemaVersion": 39,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [
            {"name": "source", "label": "Data source", "type": "datasource", "query": "prometheus"},
        ]},
        "panels": panels,
    });
    format!("{dashboard:#}\n")
}

/// A JSON string is one of YAML too.
fn alerts() -> String {
    let quoted = |text: &str| Value::from(text).to_string();
    let mut text =
        "# Written by `cargo xtask contrib`.\ngroups:\n  - name: furlong\n    rules:\n".to_owned();
    for Alert { name, query, lasts, severity, summary, advice } in ALERTS {
        let (query, summary, advice) = (quoted(query), quoted(summary), quoted(advice));
        let lines = [
            format!("      - alert: {name}"),
            format!("        expr: {query}"),
            format!("        for: {lasts}"),
            "        labels:".to_owned(),
            format!("          severity: {severity}"),
            "        annotations:".to_owned(),
            format!("          summary: {summary}"),
            format!("          description: {advice}"),
        ];
        text.extend(lines.into_iter().flat_map(|line| [line, "\n".to_owned()]));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_are_those_that_the_tables_make() {
        let root = Workspace::find().unwrap().root().to_owned();
        for (name, text) in files() {
            let there = std::fs::read_to_string(root.join(name)).unwrap();
            assert!(there == text, "{name} is another one; `cargo xtask contrib` writes it");
        }
    }
}
