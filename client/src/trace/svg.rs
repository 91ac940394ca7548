//! Traces as pictures: a row for each engine, a colour for each kind of task.
//!
//! What is narrower than the picture can show is drawn together, so that a picture of very many
//! tasks is not large. It can stand in a page: its classes have a prefix, and it has no script.

use std::fmt::Write as _;

use furlong_host::durations::short;

use super::perfetto::failure;
use super::{Slice, Trace, TracedTask};

/// The picture's width, in pixels.
const WIDTH: f64 = 960.0;
/// The place of the engines' names.
const LEFT: f64 = 130.0;
const RIGHT: f64 = 20.0;
/// The height of the lines above the rows.
const TOP: f64 = 48.0;
const ROW: f64 = 18.0;
const BAR: f64 = 14.0;
/// Rows that are drawn.
const ROWS_MAX: usize = 128;
/// Colours, after which all kinds have the last one.
pub(super) const COLOURS: usize = 8;
/// Characters of names beside rows and in the legend.
const LABEL_CHARACTERS_MAX: usize = 18;
/// Bars and gaps that are narrower than this are drawn together with what is before them.
const PIXELS_LEAST: f64 = 0.5;
/// Marks of the axis, about.
const TICKS: u64 = 8;

const STYLE: &str = "\
.furlong-trace{background:#fff;font:12px system-ui,sans-serif}\
.furlong-trace text{fill:#222}\
.furlong-trace .furlong-dim{fill:#666}\
.furlong-trace line{stroke:#ccc}\
.furlong-0{fill:#0072b2}.furlong-1{fill:#e69f00}.furlong-2{fill:#009e73}.furlong-3{fill:#cc79a7}\
.furlong-4{fill:#56b4e9}.furlong-5{fill:#f0e442}.furlong-6{fill:#8a6d3b}.furlong-7{fill:#999}\
.furlong-failed{stroke:#c00;stroke-width:2}\
@media(prefers-color-scheme:dark){\
.furlong-trace{background:#181818}\
.furlong-trace text{fill:#ddd}\
.furlong-trace .furlong-dim{fill:#999}\
.furlong-trace line{stroke:#444}\
.furlong-failed{stroke:#ff6b6b}}";

/// The picture.
pub(super) fn written(trace: &Trace) -> String {
    let lanes: Vec<(String, &[Slice])> = rows(trace);
    let drawn = lanes.len().min(ROWS_MAX);
    let kinds = legend(trace);
    let legend_rows = kinds.len().div_ceil(4);
    let axis_y = TOP + ROW * drawn as f64;
    let more = if lanes.len() > drawn { ROW } else { 0.0 };
    let height = axis_y + more + 30.0 + ROW * legend_rows as f64;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"furlong-trace\" role=\"img\" viewBox=\"0 0 {WIDTH} {height}\" \
         width=\"{WIDTH}\" height=\"{height}\"><title>{title}</title><style>{STYLE}</style>",
        title = escaped(&format!("Trace of {}: {}", trace.cluster, trace.extent())),
    );
    text(&mut out, (8.0, 18.0), "", &format!("Trace of {}", trace.cluster));
    text(&mut out, (8.0, 36.0), "furlong-dim", &extent(trace));
    let scale = Scale::of(trace);
    scale.axis(&mut out, axis_y);
    for (row, (name, slices)) in lanes.iter().take(drawn).enumerate() {
        let y = TOP + ROW * row as f64;
        text(&mut out, (8.0, y + 12.0), "", &clipped(name));
        bars(&mut out, trace, slices, &scale, y);
    }
    if lanes.len() > drawn {
        let words = format!("and {} more engines, which are not drawn", lanes.len() - drawn);
        text(&mut out, (8.0, axis_y + 30.0), "furlong-dim", &words);
    }
    for (place, (colour, name)) in kinds.iter().enumerate() {
        let x = 8.0 + (place % 4) as f64 * 235.0;
        let y = axis_y + more + 30.0 + ROW * (place / 4) as f64;
        _ = write!(
            out,
            "<rect class=\"furlong-{colour}\" x=\"{x}\" y=\"{y}\" width=\"10\" height=\"10\"/>"
        );
        text(&mut out, (x + 16.0, y + 10.0), "", name);
    }
    out.push_str("</svg>\n");
    out
}

fn extent(trace: &Trace) -> String {
    let failed = trace.tasks.iter().filter(|task| task.has_failed()).count();
    let (from_us, to_us) = trace.span_us();
    format!("{}, {failed} failed, in {}", trace.extent(), short(to_us - from_us))
}

/// Each lane with its name.
fn rows(trace: &Trace) -> Vec<(String, &[Slice])> {
    let mut rows = Vec::new();
    for engine in &trace.engines {
        for (lane, slices) in engine.lanes.iter().enumerate() {
            let lent = if lane == 0 { "" } else { " (lent)" };
            rows.push((format!("{}{lent} {}", engine.id, engine.host), &slices[..]));
        }
    }
    rows
}

/// Colours with the names of their kinds and how many tasks are of each.
fn legend(trace: &Trace) -> Vec<(usize, String)> {
    let mut counts = vec![0_u64; trace.kinds.len()];
    trace.tasks.iter().for_each(|task| counts[task.kind] += 1);
    let named = trace.kinds.iter().zip(&counts).take(COLOURS - 1).enumerate();
    let mut legend: Vec<(usize, String)> = named
        .map(|(colour, (name, count))| (colour, format!("{} {count}", clipped(name))))
        .collect();
    let others: u64 = counts.iter().skip(COLOURS - 1).sum();
    if others > 0 {
        legend.push((COLOURS - 1, format!("others {others}")));
    }
    legend
}

/// From moments to places in the picture.
struct Scale {
    from_us: u64,
    span_us: u64,
}

impl Scale {
    /// From the first run to the last end.
    fn of(trace: &Trace) -> Self {
        let slices = || trace.engines.iter().flat_map(|it| it.lanes.iter().flatten());
        let from_us = slices().map(|slice| slice.start_us).min().unwrap_or(0);
        let to_us = slices().map(|slice| slice.end_us).max().unwrap_or(0);
        Self { from_us, span_us: (to_us - from_us).max(1) }
    }

    fn x(&self, at_us: u64) -> f64 {
        let part = at_us.saturating_sub(self.from_us) as f64 / self.span_us as f64;
        LEFT + part.min(1.0) * (WIDTH - LEFT - RIGHT)
    }

    /// Lines at round times, with words below.
    fn axis(&self, out: &mut String, y: f64) {
        let least = self.span_us.div_ceil(TICKS).max(1);
        let power = 10_u64.pow(least.ilog10());
        let step = [1, 2, 5, 10].into_iter().map(|it| it * power).find(|step| *step >= least);
        let step = step.unwrap_or(least);
        for tick in 0..=self.span_us / step {
            let x = self.x(self.from_us + tick * step);
            _ = write!(out, "<line x1=\"{x:.1}\" y1=\"{TOP}\" x2=\"{x:.1}\" y2=\"{y}\"/>");
            text(out, (x, y + 14.0), "furlong-dim", &short(tick * step));
        }
    }
}

/// A bar: one task, or as many as are too narrow to be told apart.
struct Bar<'a> {
    first: &'a TracedTask,
    tasks: usize,
    from: f64,
    to: f64,
    ran_us: u64,
}

/// The bars of a lane.
fn bars(out: &mut String, trace: &Trace, slices: &[Slice], scale: &Scale, y: f64) {
    let mut last: Option<Bar<'_>> = None;
    for slice in slices {
        let task = &trace.tasks[slice.task];
        let (from, to) = (scale.x(slice.start_us), scale.x(slice.end_us));
        let ran_us = slice.end_us - slice.start_us;
        if let Some(bar) = &mut last {
            let is_alike =
                bar.first.kind == task.kind && bar.first.has_failed() == task.has_failed();
            let is_narrow = to - bar.to < PIXELS_LEAST;
            let is_dense = is_alike && to - from < 1.0 && from - bar.to < PIXELS_LEAST;
            if is_narrow || is_dense {
                (bar.to, bar.tasks, bar.ran_us) = (to, bar.tasks + 1, bar.ran_us + ran_us);
                // One failure among many is what is looked for.
                if task.has_failed() {
                    bar.first = task;
                }
                continue;
            }
            draw(out, trace, bar, y);
        }
        last = Some(Bar { first: task, tasks: 1, from, to, ran_us });
    }
    if let Some(bar) = &last {
        draw(out, trace, bar, y);
    }
}

fn draw(out: &mut String, trace: &Trace, bar: &Bar<'_>, y: f64) {
    let Bar { first, tasks, from, to, ran_us } = bar;
    let colour = first.kind.min(COLOURS - 1);
    let failed = if first.has_failed() { " furlong-failed" } else { "" };
    let name = trace.name(first);
    let what = match tasks {
        1 => format!("{name} {}, {}: {}", first.id, short(*ran_us), failure(first)),
        _ => format!(
            "{tasks} tasks, {} together, such as {name} {}: {}",
            short(*ran_us),
            first.id,
            failure(first)
        ),
    };
    let width = (to - from).max(PIXELS_LEAST);
    _ = write!(
        out,
        "<rect class=\"furlong-{colour}{failed}\" x=\"{from:.1}\" y=\"{y}\" width=\"{width:.1}\" height=\"{BAR}\">\
         <title>{}</title></rect>",
        escaped(&what)
    );
}

fn text(out: &mut String, (x, y): (f64, f64), class: &str, words: &str) {
    let class = if class.is_empty() { String::new() } else { format!(" class=\"{class}\"") };
    _ = write!(out, "<text{class} x=\"{x:.1}\" y=\"{y:.1}\">{}</text>", escaped(words));
}

fn clipped(name: &str) -> String {
    match name.char_indices().nth(LABEL_CHARACTERS_MAX) {
        None => name.to_owned(),
        Some((end, _)) => format!("{}...", &name[..end]),
    }
}

/// A text as XML and HTML have it. Characters that have an effect are not in it any more.
pub(crate) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // XML has no way to write these.
            '\u{fffe}' | '\u{ffff}' => out.push(char::REPLACEMENT_CHARACTER),
            char => out.push(char),
        }
    }
    out
}
