//! Profiles as pictures: flame graphs, with the outermost calls on top.
//!
//! Each thread has a part of its own, as wide as the picture: threads run beside each other. What
//! is too narrow or too deep is not drawn, and that is said. A picture can stand in a page: its
//! classes have a prefix, and it has no script.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt::Write as _;

use furlong_host::durations::short;
use furlong_host::printable;

use crate::inspect::{InterpreterSeen, MAIN_THREAD};
use crate::trace::escaped;

/// The picture's width, in pixels.
const WIDTH: f64 = 960.0;
/// The margin left and right.
const MARGIN: f64 = 8.0;
/// The height of the title and the line below it.
const TOP: f64 = 46.0;
/// The height of a thread's name, and of a row of calls.
const ROW: f64 = 18.0;
/// The height of a call.
const BAR: f64 = 17.0;
/// Calls in calls that are drawn.
const DEPTH_MAX: usize = 100;
/// Threads that are drawn.
const THREADS_MAX: usize = 32;
/// Calls that are narrower than this, in pixels, are not drawn.
const PIXELS_LEAST: f64 = 0.3;
/// The width of a character of a name, in pixels, with some room.
const CHARACTER: f64 = 6.7;
/// Names of which fewer characters have room are left out.
const CHARACTERS_LEAST: usize = 3;
/// Colours: one for each file, or for several.
const COLOURS: u64 = 6;

const STYLE: &str = "\
.furlong-flame{background:#fff;font:12px system-ui,sans-serif}\
.furlong-flame text{fill:#222}\
.furlong-flame .furlong-dim{fill:#666}\
.furlong-flame .furlong-call text{fill:#111;font:11px ui-monospace,monospace}\
.furlong-flame rect{stroke:#fff;stroke-width:.5}\
.furlong-f0{fill:#f2b279}.furlong-f1{fill:#f0d264}.furlong-f2{fill:#e89b8b}\
.furlong-f3{fill:#b5d38b}.furlong-f4{fill:#9cc8e6}.furlong-f5{fill:#d3b3df}\
@media(prefers-color-scheme:dark){\
.furlong-flame{background:#181818}\
.furlong-flame text{fill:#ddd}\
.furlong-flame .furlong-dim{fill:#999}\
.furlong-flame rect{stroke:#181818}}";

/// The picture.
pub(crate) fn written(seen: &InterpreterSeen, title: &str) -> String {
    let threads = threads(seen);
    let mut drawing = Drawing { seen, out: String::new(), y: TOP, narrow: 0, deep: 0 };
    for (name, tree) in threads.iter().take(THREADS_MAX) {
        drawing.thread(name, tree);
    }
    for words in drawing.left_out(threads.len()) {
        drawing.words(&words);
    }
    let Drawing { out: body, y: height, .. } = drawing;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"furlong-flame\" role=\"img\" viewBox=\"0 0 {WIDTH} {height}\" \
         width=\"{WIDTH}\" height=\"{height}\"><title>Flame graph of {title}</title><desc>{}</desc><style>{STYLE}</style>",
        shown(&described(seen)),
        title = shown(title),
    );
    let samples = format!("{} samples in {}", seen.samples, short(seen.seen_us));
    _ = write!(
        out,
        "<text x=\"{MARGIN}\" y=\"18\">{}</text><text class=\"furlong-dim\" x=\"{MARGIN}\" y=\"36\">{samples}; \
         a call is as wide as its time, waiting included</text>",
        shown(title)
    );
    out.push_str(&body);
    out.push_str("</svg>\n");
    out
}

/// The same in words: the functions in which the main thread was most.
fn described(seen: &InterpreterSeen) -> String {
    let hottest = seen.hottest();
    let hottest = hottest.iter().take(5).map(|(own, total, (name, ..))| {
        format!("{name}: {} itself, {} with its calls", short(*own), short(*total))
    });
    hottest.collect::<Vec<_>>().join("; ")
}

/// A call of a function at a place of a stack: the sum of its samples.
#[derive(Debug, Default)]
struct Call {
    us: u64,
    /// The calls in it, by their function.
    calls: BTreeMap<usize, usize>,
}

/// The calls of a thread; the first one is the thread itself.
#[derive(Debug)]
struct Tree(Vec<Call>);

impl Tree {
    fn add(&mut self, us: u64, stack: &[usize]) {
        let mut at = 0;
        self.0[at].us = self.0[at].us.saturating_add(us);
        for frame in stack {
            let next = self.0.len();
            at = *self.0[at].calls.entry(*frame).or_insert(next);
            if at == next {
                self.0.push(Call::default());
            }
            self.0[at].us = self.0[at].us.saturating_add(us);
        }
    }
}

/// The threads with their calls, the main one first.
fn threads(seen: &InterpreterSeen) -> Vec<(&str, Tree)> {
    let mut places = BTreeMap::new();
    let mut threads: Vec<(&str, Tree)> = Vec::new();
    for (us, thread, stack) in &seen.stacks {
        let place = *places.entry(thread.as_str()).or_insert(threads.len());
        if place == threads.len() {
            threads.push((thread, Tree(vec![Call::default()])));
        }
        threads[place].1.add(*us, stack);
    }
    threads.sort_by_key(|(name, tree)| (*name != MAIN_THREAD, Reverse(tree.0[0].us)));
    threads
}

/// A picture that is being drawn, from the top.
struct Drawing<'a> {
    seen: &'a InterpreterSeen,
    out: String,
    /// The place below what is drawn.
    y: f64,
    /// Calls that are too narrow.
    narrow: usize,
    /// Calls that are too deep.
    deep: usize,
}

impl Drawing<'_> {
    /// A thread: its name, and a row for each depth of its calls.
    fn thread(&mut self, name: &str, Tree(calls): &Tree) {
        let total = calls[0].us.max(1);
        self.words(&format!("{name}, {}", short(total)));
        let (top, mut depth_most) = (self.y, 0);
        let mut left = vec![(0, MARGIN, 0)];
        while let Some((at, mut x, depth)) = left.pop() {
            let mut inner: Vec<(usize, usize)> =
                calls[at].calls.iter().map(|(frame, call)| (*frame, *call)).collect();
            inner.sort_by_key(|(frame, call)| (Reverse(calls[*call].us), *frame));
            for (frame, call) in inner {
                let share = calls[call].us as f64 / total as f64;
                let width = share * (WIDTH - 2.0 * MARGIN);
                if depth == DEPTH_MAX {
                    self.deep += 1;
                } else if width < PIXELS_LEAST {
                    self.narrow += 1;
                } else {
                    let y = top + ROW * depth as f64;
                    self.call((frame, calls[call].us, 100.0 * share), (x, y, width));
                    depth_most = depth_most.max(depth + 1);
                    left.push((call, x, depth + 1));
                }
                x += width;
            }
        }
        self.y = top + ROW * depth_most as f64 + ROW / 2.0;
    }

    fn call(&mut self, (frame, us, percent): (usize, u64, f64), (x, y, width): (f64, f64, f64)) {
        let unknown = (String::from("?"), String::new(), 0);
        let (name, file, line) = self.seen.frames.get(frame).unwrap_or(&unknown);
        let what = format!("{name} ({file}:{line}): {}, {percent:.1} %", short(us));
        _ = write!(
            self.out,
            "<g class=\"furlong-call\"><title>{}</title><rect class=\"furlong-f{}\" x=\"{x:.1}\" y=\"{y}\" \
             width=\"{width:.1}\" height=\"{BAR}\"/>",
            shown(&what),
            colour(file)
        );
        if let Some(name) = fit(name, ((width - 6.0) / CHARACTER) as usize) {
            let (x, y) = (x + 3.0, y + 12.5);
            _ = write!(self.out, "<text x=\"{x:.1}\" y=\"{y}\">{}</text>", shown(&name));
        }
        self.out.push_str("</g>");
    }

    /// A line of words.
    fn words(&mut self, words: &str) {
        let y = self.y + 12.0;
        _ = write!(self.out, "<text x=\"{MARGIN}\" y=\"{y}\">{}</text>", shown(words));
        self.y += ROW;
    }

    /// Lines on the parts that the picture does not have.
    fn left_out(&self, threads: usize) -> Vec<String> {
        let mut lines = Vec::new();
        if threads == 0 {
            lines.push("there is no sample".to_owned());
        }
        let more = threads.saturating_sub(THREADS_MAX);
        let counts = [
            (more, "threads beyond the first"),
            (self.narrow, "calls that are too narrow, with those in them"),
            (self.deep, "calls that are too deep, with those in them"),
        ];
        let counts = counts.iter().filter(|(count, _)| *count > 0);
        lines.extend(counts.map(|(count, of)| format!("not drawn: {of}: {count}")));
        if self.seen.others_us > 0 {
            let others = short(self.seen.others_us);
            lines.push(format!("not drawn: {others} of all threads, in stacks that are not told"));
        }
        lines
    }
}

/// A name in so many characters; none if too little of it has room.
fn fit(name: &str, characters: usize) -> Option<String> {
    if characters < CHARACTERS_LEAST {
        return None;
    }
    if name.chars().count() <= characters {
        return Some(name.to_owned());
    }
    Some(name.chars().take(characters - 2).chain("..".chars()).collect())
}

/// The colour of a file: the same in each picture.
fn colour(file: &str) -> u64 {
    // FNV-1a, by bytes.
    let hash = file.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    (hash >> 32) % COLOURS
}

/// A text of others, as it stands in the picture.
fn shown(text: &str) -> String {
    escaped(&printable::line(text))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn seen(stacks: &serde_json::Value) -> InterpreterSeen {
        serde_json::from_value(json!({
            "samples": 8,
            "seen_us": 800_000,
            "frames": [["outer", "a.py", 1], ["<inner&\u{1b}[2J>", "a.py", 9], ["wait", "b.py", 2]],
            "stacks": stacks,
        }))
        .unwrap()
    }

    /// The widths of the calls with their titles, in order.
    fn calls(picture: &str) -> Vec<(String, f64)> {
        let parts = picture.split("<g class=\"furlong-call\"><title>").skip(1);
        let call = |part: &str| {
            let title = part.split_once("</title>").unwrap().0.to_owned();
            let width = part.split_once("width=\"").unwrap().1.split_once('"').unwrap().0;
            (title, width.parse().unwrap())
        };
        parts.map(call).collect()
    }

    #[test]
    fn calls_are_as_wide_as_their_share_of_the_thread() {
        let stacks = json!([
            [400_000, "other", [2]],
            [300_000, "MainThread", [0, 2]],
            [100_000, "MainThread", [0, 0]],
            [100_000, "MainThread", [0, 2]],
            [300_000, "MainThread", [2]],
        ]);
        let picture = written(&seen(&stacks), "engine 3: no task");
        assert_eq!(
            calls(&picture),
            [
                ("outer (a.py:1): 500 ms, 62.5 %".to_owned(), 590.0),
                ("wait (b.py:2): 300 ms, 37.5 %".to_owned(), 354.0),
                ("wait (b.py:2): 400 ms, 50.0 %".to_owned(), 472.0),
                ("outer (a.py:1): 100 ms, 12.5 %".to_owned(), 118.0),
                ("wait (b.py:2): 400 ms, 100.0 %".to_owned(), 944.0),
            ]
        );
        let main = picture.find(">MainThread, 800 ms<").expect("the main thread");
        assert!(picture.find(">other, 400 ms<").expect("the other one") > main);
        assert!(!picture.contains("not drawn"), "{picture}");
        assert!(picture.contains("<desc>wait: 700 ms itself, 700 ms with its calls; outer:"));
    }

    #[test]
    fn names_of_others_are_text_and_nothing_else() {
        let picture =
            written(&seen(&json!([[1, "</text><script>", [1]]])), "<img src=x onerror=a>");
        assert!(picture.contains("&lt;inner&amp;") && picture.contains("&lt;/text&gt;&lt;script"));
        assert!(!picture.contains("<script") && !picture.contains("<img"), "{picture}");
        assert!(!picture.contains('\u{1b}'), "{picture}");
    }

    #[test]
    fn what_is_not_drawn_is_counted() {
        let deep = vec![0; DEPTH_MAX + 5];
        let stacks = json!([[10_000_000, "MainThread", deep], [1, "MainThread", [2]]]);
        let mut seen = seen(&stacks);
        seen.others_us = 2_000_000;
        let picture = written(&seen, "engine 3");
        assert_eq!(calls(&picture).len(), DEPTH_MAX);
        for said in [
            "not drawn: calls that are too narrow, with those in them: 1<",
            "not drawn: calls that are too deep, with those in them: 1<",
            "not drawn: 2.0 s of all threads",
        ] {
            assert!(picture.contains(said), "no `{said}` in {picture}");
        }
        let none = written(&InterpreterSeen::default(), "engine 3");
        assert!(none.contains("there is no sample"), "{none}");
    }

    #[test]
    fn figures_of_a_liar_are_drawn_all_the_same() {
        let stacks = json!([[u64::MAX, "MainThread", [0, 99]], [u64::MAX, "MainThread", [7]]]);
        let picture = written(&seen(&stacks), "engine 3");
        assert!(picture.contains("? (:0)") && !picture.contains("NaN"), "{picture}");
    }
}
