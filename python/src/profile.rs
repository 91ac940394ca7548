//! Profiles of interpreters, as JSON for the package's Python files.

use furlong_client::Inspected;
use serde_json::{Value, json};

use crate::options::id_text;

/// The samples: sums, the hottest functions and lines, and the stacks in three formats.
pub fn told(profile: &Inspected) -> Value {
    let seen = &profile.seen;
    let functions: Vec<Value> = seen
        .hottest()
        .into_iter()
        .map(|(own, total, (name, file, line))| json!([own, total, name, file, line]))
        .collect();
    json!({
        "engine": profile.engine.0,
        "task": profile.task.map(id_text),
        "in_c": seen.in_c,
        "samples": seen.samples,
        "seen_us": seen.seen_us,
        "longest_us": seen.longest_us,
        "others_us": seen.others_us,
        "functions": functions,
        "lines": seen.lines,
        "collapsed": seen.collapsed(),
        "flame_graph": seen.flame_graph(&format!("engine {}", profile.engine)),
        "speedscope": seen.speedscope(&format!("engine {}", profile.engine)),
    })
}
