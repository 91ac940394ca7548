//! A screen: a few lines that say how the farm is, and the tables of a page.

use furlong_client::{Picture, sentence};
use furlong_host::printable;
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};

use super::cursor::Row;
use super::pages::{self, Shown};
use super::state::{Page, State};
use super::table::Table;
use super::words::{bytes, count, duration, left, share_bars, sparkline};

/// Columns of a screen from which on it has all lines.
const WIDE: usize = 100;
/// Columns from which on two tables are beside each other.
const TWO_TABLES: usize = 150;
/// Notes that are shown above the tables.
const NOTES_SHOWN: usize = 3;
/// Seconds over which the rate goes.
const RATE_S: usize = 10;

/// Where the picture comes from, for the first line.
#[derive(Clone, Debug)]
pub struct Source {
    /// The broker's endpoint.
    pub endpoint: String,
    /// The time of the day.
    pub clock: String,
    /// The place in a recording, in words; empty for the farm itself.
    pub replay: String,
    /// True if what is shown is recorded.
    pub is_recorded: bool,
}

/// The lines of a screen of this size. `is_plain` leaves out all but ASCII.
pub fn lines(
    shown: &Shown,
    state: &State,
    source: &Source,
    (width, height): (usize, usize),
    is_plain: bool,
) -> Vec<Line<'static>> {
    let footer = footer(shown, state, width);
    let height = height.saturating_sub(footer.len());
    let mut lines = if state.shows_help {
        let [of_farm, of_replay] = [[KEYS, ACTING, COLUMNS], [KEYS_OF_REPLAY, "", COLUMNS]];
        let parts = if state.is_replay { of_replay } else { of_farm };
        text(parts.iter().flat_map(|part| part.lines()), width)
    } else if state.acting.report.is_empty() {
        let mut lines = header(&shown.picture, state, source, width, is_plain);
        let room = height.saturating_sub(lines.len());
        lines.extend(body(shown, state, width, room));
        lines
    } else {
        text(state.acting.report.iter().map(String::as_str), width)
    };
    lines.resize(height, Line::default());
    lines.extend(footer);
    lines
}

fn text<'a>(lines: impl Iterator<Item = &'a str>, width: usize) -> Vec<Line<'static>> {
    let clipped = |line: &str| Line::from(line.chars().take(width).collect::<String>());
    lines.map(clipped).collect()
}

/// The rows that keys can act on, in the order in which they are shown.
pub fn rows(shown: &Shown, state: &State) -> Vec<Row> {
    match state.page {
        Page::Engines => made(pages::engines(&shown.picture), state).rows(),
        Page::Queue => made(pages::queue(&shown.queue), state).rows(),
        _ => Vec::new(),
    }
}

/// A table, filtered and sorted.
fn made(mut table: Table, state: &State) -> Table {
    table.filter(&state.filter);
    table.sort(state.sort);
    table
}

/// The lines above the tables.
pub fn header(
    picture: &Picture,
    state: &State,
    source: &Source,
    width: usize,
    is_plain: bool,
) -> Vec<Line<'static>> {
    let mut texts = if width >= WIDE {
        wide_header(picture, state, source, width, is_plain)
    } else {
        let replay = (!source.replay.is_empty()).then(|| source.replay.clone());
        replay.into_iter().chain(narrow_header(picture, is_plain)).collect()
    };
    texts.iter_mut().for_each(|text| clip(text, width));
    let mut lines: Vec<Line<'static>> = texts.into_iter().map(Line::from).collect();
    if state.page != Page::Notes {
        let notes = picture.notes.len();
        // One alone takes the line that would say that it is left out.
        let told = if notes <= NOTES_SHOWN + 1 { notes } else { NOTES_SHOWN };
        let shown =
            picture.notes.iter().take(told).map(|note| {
                printable::line(&format!("! {}", sentence(note, picture))).into_owned()
            });
        let more = (told < notes)
            .then(|| format!("! and {} more: key 7, or `--page notes`", notes - told));
        lines.extend(shown.chain(more).map(|mut text| {
            clip(&mut text, width);
            Line::from(Span::styled(text, Style::new().add_modifier(Modifier::BOLD)))
        }));
    }
    lines
}

fn wide_header(
    picture: &Picture,
    state: &State,
    source: &Source,
    width: usize,
    is_plain: bool,
) -> Vec<String> {
    let farm = &picture.farm;
    let paused = if state.is_paused { "   PAUSED" } else { "" };
    let recorded = if source.is_recorded { ", recorded" } else { "" };
    let pace = match &*source.replay {
        "" => format!("every {}{recorded}", duration(state.every_ms() * 1_000)),
        replay => replay.to_owned(),
    };
    let first = format!(
        "furlong top   {} at {}   up {}   {pace}   {}{paused}   {}",
        printable::line(&farm.cluster_name),
        printable::line(&source.endpoint),
        duration(picture.at_us),
        source.clock,
        notes_count(picture)
    );
    let away = match farm.engines_away {
        0 => String::new(),
        away => format!(" ({away} away)"),
    };
    let rate = rate(picture);
    let tasks = format!(
        "tasks   waiting {}   held {}   running {}/{}{away}   unread {}   ended {} (+{rate}/s, last {})   failed {}   ",
        count(farm.tasks_waiting),
        count(farm.tasks_held),
        farm.engines_busy,
        farm.engines_online,
        count(farm.results_held),
        count(farm.tasks_ended),
        last_end(picture),
        count(farm.tasks_failed)
    );
    let spark = width.saturating_sub(tasks.chars().count() + 7).min(farm.ends_per_s.len());
    let spark = &farm.ends_per_s[farm.ends_per_s.len() - spark..];
    let tasks = format!("{tasks}ends/s {}", sparkline(spark, is_plain));
    let time = format!(
        "time    {}   (tasks of the last 60 s)",
        share_bars(&farm.minute, width.saturating_sub(80), is_plain)
    );
    let (held, most) = farm.payload_bytes;
    let left = format!(
        "left    {} for {} tasks   payloads {} of {}   calls {}   results {}   clients {}",
        left(farm.left_us),
        count(farm.tasks_submitted.saturating_sub(farm.tasks_ended)),
        bytes(held),
        bytes(most),
        bytes(farm.request_bytes),
        bytes(farm.result_bytes),
        farm.clients
    );
    vec![first, tasks, time, left]
}

fn narrow_header(picture: &Picture, is_plain: bool) -> Vec<String> {
    let farm = &picture.farm;
    let first = format!(
        "farm {}  {}/{} run  {} wait  {}/s  {} failed  {} left  {}",
        printable::line(&farm.cluster_name),
        farm.engines_busy,
        farm.engines_online,
        count(farm.tasks_waiting + farm.tasks_held),
        rate(picture),
        count(farm.tasks_failed),
        left(farm.left_us),
        notes_count(picture)
    );
    vec![first, format!("time {}", share_bars(&farm.minute, 20, is_plain))]
}

fn notes_count(picture: &Picture) -> String {
    match picture.notes.len() {
        0 => "no notes".to_owned(),
        1 => "1 note".to_owned(),
        notes => format!("{notes} notes"),
    }
}

/// Ends a second, over the last whole seconds.
fn rate(picture: &Picture) -> String {
    let ends = &picture.farm.ends_per_s;
    let whole = &ends[..ends.len().saturating_sub(1)];
    let last = &whole[whole.len().saturating_sub(RATE_S)..];
    let sum: u64 = last.iter().map(|ends| u64::from(*ends)).sum();
    let rate = sum as f64 / last.len().max(1) as f64;
    if rate < 10.0 && rate > 0.0 { format!("{rate:.1}") } else { count(rate.round() as u64) }
}

fn last_end(picture: &Picture) -> String {
    let last = picture.farm.last_end_us;
    last.map_or("never".to_owned(), |at| {
        format!("{} ago", duration(picture.at_us.saturating_sub(at)))
    })
}

fn body(shown: &Shown, state: &State, width: usize, height: usize) -> Vec<Line<'static>> {
    let Shown { picture, queue } = shown;
    let of_page = |make: fn(&Picture) -> Table| made(make(picture), state);
    let acted_on = |table: Table| made(table, state).lines_around(width, height, &state.cursor);
    let one = |make: fn(&Picture) -> Table| of_page(make).lines(width, height, state.first);
    match state.page {
        Page::Overview if width >= TWO_TABLES => {
            let half = width / 2 - 1;
            let left = of_page(pages::kinds).lines(half, height, state.first);
            let right = of_page(pages::engines).lines(width - half - 3, height, state.first);
            beside(left, &right, half)
        }
        Page::Overview => {
            let kinds = of_page(pages::kinds);
            let of_kinds = (kinds.len() + 1).min(height / 2).max(1);
            let mut lines = kinds.lines(width, of_kinds, 0);
            let rest = height.saturating_sub(lines.len() + 1);
            if rest > 1 {
                lines.push(Line::default());
                lines.extend(of_page(pages::engines).lines(width, rest, state.first));
            }
            lines
        }
        Page::Kinds => one(pages::kinds),
        Page::Engines => acted_on(pages::engines(picture)),
        Page::Tasks => one(pages::tasks),
        Page::Failures => one(pages::failures),
        Page::Owners => one(pages::owners),
        Page::Notes => one(pages::notes),
        Page::Queue => acted_on(pages::queue(queue)),
    }
}

/// Two columns of lines, the left one so many characters wide.
fn beside(left: Vec<Line<'static>>, right: &[Line<'static>], width: usize) -> Vec<Line<'static>> {
    let rows = left.len().max(right.len());
    let mut left = left.into_iter();
    let line = |(row, left): (usize, Line<'static>)| {
        let length: usize = left.spans.iter().map(|span| span.content.chars().count()).sum();
        let mut spans = left.spans;
        spans.push(Span::raw(format!("{} | ", " ".repeat(width.saturating_sub(length)))));
        spans.extend(right.get(row).into_iter().flat_map(|line| line.spans.clone()));
        Line::from(spans)
    };
    (0..rows).map(|row| line((row, left.next().unwrap_or_default()))).collect()
}

/// The last line; a question, or what was said to a key, may take more.
fn footer(shown: &Shown, state: &State, width: usize) -> Vec<Line<'static>> {
    let style = Style::new().add_modifier(Modifier::REVERSED);
    let line = |text: String| Line::from(Span::styled(text, style));
    if let Some(said) = state.acting.line() {
        let said: Vec<char> = said.chars().collect();
        return said.chunks(width.max(1)).map(|part| line(part.iter().collect())).collect();
    }
    let mut text = if state.types_filter {
        format!("/{}_", printable::line(&state.filter))
    } else if state.shows_help || !state.acting.report.is_empty() {
        "esc: back".to_owned()
    } else {
        let pages = Page::ALL.iter().zip(1..).map(|(page, key)| {
            let name = page.name();
            if *page == state.page { format!("[{key} {name}]") } else { format!("{key} {name}") }
        });
        let filter = match &*state.filter {
            "" => String::new(),
            filter => format!("  filter {}", printable::line(filter)),
        };
        let is_cut = state.page == Page::Queue && shown.queue.len() >= pages::QUEUE_MAX as usize;
        let part =
            if is_cut { format!("the first {} tasks  ", pages::QUEUE_MAX) } else { String::new() };
        let acts = match (state.is_replay, state.page.has_cursor()) {
            (true, _) => "  space , . [ ] + - replay",
            (false, true) => "  c K i r D p act",
            (false, false) => "",
        };
        let pause = if state.is_replay { "" } else { "  space pause" };
        format!(
            "{part}{}{filter}{acts}   ? help  q  / filter  s sort{pause}",
            pages.collect::<Vec<_>>().join(" ")
        )
    };
    clip(&mut text, width);
    vec![line(text)]
}

fn clip(text: &mut String, width: usize) {
    if let Some((end, _)) = text.char_indices().nth(width) {
        text.truncate(end);
    }
}

const KEYS: &str = "\
1 to 8, tab   pages: overview, kinds, engines, tasks, failures, owners, notes, queue
j k, arrows   move; g and G: to the first, to the last row
/             filter: rows that have a text; enter ends it, esc takes it back
s S           sort by the next column; the other way round
space         pause: nothing new is shown
+ -           look more often, less often
q             quit
";

const KEYS_OF_REPLAY: &str = "\
1 to 8, tab   pages: overview, kinds, engines, tasks, failures, owners, notes, queue
j k g G       move, as the arrows up and down; to the first, to the last row
/  s S        filter; sort by the next column, the other way round
space         pause, or go on; at the end: begin again
. ,           the next look, the one before
] [           10 s on, 10 s back, as the arrows right and left; } { a minute
0 $           to the first look, to the last one
+ -           faster, slower: from a quarter of the speed to a hundred times
q             quit

This is a recording: nothing of it can be cancelled, restarted or profiled.
";

const ACTING: &str = "
On the pages 3 and 8, with a capability that may; each asks first:
m M           mark the row; all rows, or none: the keys below mean those that are marked
c K           cancel tasks; K also kills an interpreter that does not respond
i r           interrupt what runs of yours on an engine; give it a new interpreter
D             let an engine finish what it has been given, and leave
p             profile a task or an engine for 5 s
";

const COLUMNS: &str = "
WAIT  tasks that wait: for others, for an engine, or at one
OVER  the share of way, load and store in the time of tasks that have run
LEFT  the time until all are done, at least and at most; ? if too little is known
PACE  the time that an engine takes for its tasks, beside what is usual for such tasks
CPU MEM  what its interpreter and programs take: of one processor, and of memory
SILENT   since it has answered last; it is asked every 5 s while somebody looks
HOST CPU, LOAD, FREE  its machine: processors in use, mean load, memory that is free
!     look at this one; the notes say why
";
