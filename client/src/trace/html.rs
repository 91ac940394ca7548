//! Traces as pages: one file, with the data and the script that draws it.
//!
//! The page asks for nothing from anywhere, and its policy lets it run its own script alone. Names
//! are in the data, and come into the page as text.

use base64ct::{Base64, Encoding as _};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::svg::escaped;
use super::{Slice, Trace};

const SCRIPT: &str = include_str!("page.js");
const STYLE: &str = include_str!("page.css");

/// The page.
pub(super) fn written(trace: &Trace) -> String {
    let hash = |text: &str| Base64::encode_string(&Sha256::digest(text.as_bytes()));
    let policy = format!(
        "default-src 'none'; base-uri 'none'; form-action 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'",
        hash(SCRIPT),
        hash(STYLE)
    );
    // Nothing in the data ends the element that it is in.
    let data = data(trace).to_string().replace('<', "\\u003c");
    let title = escaped(&format!("Trace of {}", trace.cluster));
    let extent = escaped(&trace.extent());
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{policy}\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title}</title>\n<style>{STYLE}</style></head>\n<body>\n\
         <h1>{title}</h1>\n<p>{extent}</p>\n\
         <p class=\"dim\">Wheel, or + and -, to zoom; drag, or arrow keys, to move; 0 for all.</p>\n\
         <canvas id=\"view\" tabindex=\"0\" role=\"img\" aria-label=\"{title}: the table below has the sums\"></canvas>\n\
         <p id=\"told\" role=\"status\">&nbsp;</p>\n<table id=\"kinds\"></table>\n\
         <script id=\"data\" type=\"application/json\">{data}</script>\n\
         <script>{SCRIPT}</script>\n</body></html>\n"
    )
}

/// What the script draws. Each slice is so many integers, see `page.js`.
fn data(trace: &Trace) -> Value {
    let mut errors: Vec<&str> = Vec::new();
    let mut lanes = Vec::new();
    for engine in &trace.engines {
        for (lane, slices) in engine.lanes.iter().enumerate() {
            let lent = if lane == 0 { "" } else { " (lent)" };
            let mut numbers: Vec<u64> = Vec::with_capacity(slices.len() * 9);
            slices.iter().for_each(|it| numbers.extend(row(trace, it, &mut errors)));
            let name = format!("{}{lent} {}", engine.id, engine.host);
            lanes.push(json!({ "name": name, "slices": numbers }));
        }
    }
    let mut sums = vec![[0_u64; 4]; trace.kinds.len()];
    for task in &trace.tasks {
        let sum = &mut sums[task.kind];
        sum[0] += 1;
        sum[1] += u64::from(task.has_failed());
        sum[2] = sum[2].saturating_add(task.times.run.run_us);
        let other_us = task.times.run.load_us.saturating_add(task.times.run.store_us);
        sum[3] = sum[3].saturating_add(other_us);
    }
    json!({ "kinds": trace.kinds, "sums": sums, "errors": errors, "lanes": lanes })
}

/// The beginning, three parts, the kind, the state and the error, the wait for the engine, the
/// number of the task in its session.
fn row<'a>(trace: &'a Trace, slice: &Slice, errors: &mut Vec<&'a str>) -> [u64; 9] {
    let task = &trace.tasks[slice.task];
    let error = task.error.as_deref().map_or(0, |error| {
        let known = errors.iter().position(|known| *known == error);
        known.unwrap_or_else(|| {
            errors.push(error);
            errors.len() - 1
        }) as u64
            + 1
    });
    let state = match task.state {
        None => 2,
        Some(_) => u64::from(task.has_failed()),
    };
    let waited_us = task.times.assigned_us.unwrap_or(0).saturating_sub(task.times.submitted_us);
    [
        slice.start_us,
        slice.loaded_us - slice.start_us,
        slice.ran_us - slice.loaded_us,
        slice.end_us - slice.ran_us,
        task.kind as u64,
        state,
        error,
        waited_us,
        task.id.n.0,
    ]
}
