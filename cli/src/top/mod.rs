//! `furlong top`: the farm as it goes, on a terminal.
//!
//! `words`, `table`, `pages` and `screen` make a screen of a picture of the farm, `state`, `cursor`
//! and `acts` are what keys change; none of them does I/O. `feed` looks, `terminal` draws, and
//! `carry_out` acts. `recording` keeps looks in a file, and `replay` shows them.

mod acts;
mod carry_out;
mod cursor;
mod feed;
mod pages;
mod recording;
mod replay;
mod screen;
mod state;
mod table;
mod terminal;
#[cfg(test)]
mod tests;
mod words;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use furlong_client::{Client, Picture, watch_json};
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use crate::connect::{ConnectArgs, OBSERVERS};
use crate::exit::ExitCode;
use crate::print;
use acts::Act;
use carry_out::Doing;
use feed::Feed;
use pages::Shown;
use recording::Recorder;
use screen::Source;
use state::{Page, State, Wish};
use terminal::Terminal;

/// Flags of `top`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Keys: 1 to 8 and tab for pages, j k g G to move, / to filter, s S to sort, space to pause, + - for the interval,
? for help, q to quit. Names and tasks are those of the capability's owner; sums are those of all.

On the pages of engines and of the queue c K i r D p cancel, kill, interrupt, restart, drain and profile, after a
question. They need client.cap.json, or another file that may, and D needs admin.cap.json. To look,
observer.cap.json is enough.

With --record each look is added to a file, all pages of it, until q or a signal. --replay shows such a file
without a farm: space pauses, . and , step, [ ] { } jump, + and - change the speed.

Exit codes: 0 ended by q; 1 an error; 2 wrong usage; with --check 3 if there is a note, or no engine online.

Examples:
  furlong top --once --check
  furlong top --record night.furlong --plain > /dev/null
  furlong top --replay night.furlong")]
pub struct TopArgs {
    /// Print one screen as text, and end
    #[arg(long)]
    once: bool,
    /// Print each look as a JSON document on a line
    #[arg(long, conflicts_with = "plain")]
    json: bool,
    /// Print a line whenever something has changed: no other screen, no keys, ASCII alone
    #[arg(long)]
    plain: bool,
    /// End with 3 if there is something to look at: a note, or no engine online
    #[arg(long, requires = "once")]
    check: bool,
    /// The page that is shown first
    #[arg(long, value_enum, default_value = "overview")]
    page: Page,
    /// Seconds between two looks: 0.1 to 10
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = interval)]
    every: f64,
    /// Add each look to a file, for --replay
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// Show the looks of a file of --record, and no farm
    #[arg(long, value_name = "FILE", conflicts_with_all = ["record", "cap", "cluster", "wait"])]
    replay: Option<PathBuf>,
    /// Begin the replay so many seconds after its first look; with --once, show that moment
    #[arg(long, value_name = "SECONDS", requires = "replay", value_parser = moment)]
    at: Option<f64>,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// The size of what is printed where there is no terminal.
const SIZE: (u16, u16) = (120, 40);
/// The exit code of `--check` if there is something to look at.
const LOOK_AT_IT: u8 = 3;

impl TopArgs {
    fn every_ms(&self) -> u64 {
        (self.every * 1e3) as u64
    }
}

fn moment(text: &str) -> Result<f64, String> {
    let seconds = text.parse::<f64>().ok().filter(|seconds| (0.0..=1e9).contains(seconds));
    seconds.ok_or_else(|| "a number of seconds from 0 on".to_owned())
}

fn interval(text: &str) -> Result<f64, String> {
    let seconds = text.parse::<f64>().ok().filter(|seconds| (0.1..=10.0).contains(seconds));
    seconds.ok_or_else(|| "a number of seconds from 0.1 to 10".to_owned())
}

/// Shows the farm until it is told to stop.
pub async fn run(args: TopArgs) -> Result<ExitCode> {
    if let Some(path) = &args.replay {
        return replay::run(path, &args).await;
    }
    let client = args.connect.connect(OBSERVERS).await?;
    let ended = show(&client, &args).await;
    client.close().await;
    ended
}

async fn show(client: &Client, args: &TopArgs) -> Result<ExitCode> {
    let state = State::new(args.page, args.every_ms());
    let mut feed = Feed::new(client, recorder(client, args)?);
    let mut shown = Shown::default();
    feed.look(&mut shown, &state).await?;
    if args.json {
        return print_json(&mut feed, shown, &state, args.once).await;
    }
    if args.once {
        print_once(&shown, &state, &feed.source())?;
        return Ok(verdict(&shown.picture, args));
    }
    if args.plain || !terminal::is_there() {
        return print_changes(&mut feed, shown, &state).await;
    }
    on_terminal(&mut feed, shown, state, &args.connect).await.map(|()| ExitCode::SUCCESS)
}

/// The recording that is asked for.
fn recorder(client: &Client, args: &TopArgs) -> Result<Option<Recorder>> {
    let Some(path) = &args.record else { return Ok(None) };
    let (recorder, cut_bytes) = Recorder::open(path, client.endpoint().to_string())?;
    if cut_bytes > 0 {
        let (file, bytes) = (path.display(), print::bytes(cut_bytes));
        print::note!("furlong: {file} ended in the middle of a look: its last {bytes} are gone");
    }
    Ok(Some(recorder))
}

/// The exit code of `--check`; without it all is well.
fn verdict(picture: &Picture, args: &TopArgs) -> ExitCode {
    let is_fine = picture.notes.is_empty() && picture.farm.engines_online > 0;
    ExitCode::from(if args.check && !is_fine { LOOK_AT_IT } else { 0 })
}

fn print_once(shown: &Shown, state: &State, source: &Source) -> Result<()> {
    let (width, height) = ratatui::crossterm::terminal::size().unwrap_or(SIZE);
    let is_plain = !std::io::stdout().is_terminal();
    // All rows: who prints once has no keys.
    let Shown { picture, queue } = shown;
    let rows = picture.engines.len() + picture.kinds.len() + queue.len();
    let height = usize::from(height).max(rows + 20);
    let size = (usize::from(width.max(SIZE.0)), height);
    let lines = screen::lines(shown, state, source, size, is_plain);
    let shown = lines.split_last().map_or(&[][..], |(_, lines)| lines);
    let end = shown.iter().rposition(|line| !line.to_string().is_empty()).map_or(0, |at| at + 1);
    shown[..end].iter().try_for_each(|line| print::line(line.to_string().trim_end()))
}

async fn print_json(
    feed: &mut Feed<'_>,
    mut shown: Shown,
    state: &State,
    is_once: bool,
) -> Result<ExitCode> {
    loop {
        print::json_line(&watch_json::of_picture(&shown.picture))?;
        if is_once {
            return Ok(ExitCode::SUCCESS);
        }
        tokio::time::sleep(Duration::from_millis(state.every_ms())).await;
        feed.look(&mut shown, state).await?;
    }
}

/// Prints a line for each change of what is in it, for those who do not see a screen.
async fn print_changes(feed: &mut Feed<'_>, mut shown: Shown, state: &State) -> Result<ExitCode> {
    let mut last = Vec::new();
    loop {
        let lines = screen::header(&shown.picture, state, &feed.source(), 80, true);
        let lines: Vec<String> = lines.iter().map(ToString::to_string).collect();
        for line in lines.iter().filter(|line| !last.contains(*line)) {
            print::line(line)?;
        }
        last = lines;
        tokio::time::sleep(Duration::from_millis(state.every_ms())).await;
        feed.look(&mut shown, state).await?;
    }
}

async fn on_terminal(
    feed: &mut Feed<'_>,
    mut latest: Shown,
    mut state: State,
    connect: &ConnectArgs,
) -> Result<()> {
    let mut terminal = Terminal::open()?;
    let mut shown = latest.clone();
    let mut source_shown = feed.source();
    let mut doing = Doing::new(connect.clone());
    state.acting.rights = carry_out::rights(connect);
    loop {
        let rows = screen::rows(&shown, &state);
        state.cursor.follow(&rows);
        terminal.draw(&shown, &state, &source_shown)?;
        let every = Duration::from_millis(state.every_ms());
        let mut ticks = interval_at(Instant::now() + every, every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let page = state.page;
        tokio::select! {
            event = terminal.event() => {
                let Some(event) = event else { break };
                let Some(key) = terminal::pressed(&event) else { continue };
                match state.press(key.code, &rows) {
                    _ if terminal::is_interrupt(&key) => break,
                    Wish::Draw | Wish::Play(_) => {}
                    Wish::Ask(verb) => {
                        let (meant, rights) = (state.cursor.meant(), state.acting.rights);
                        state.acting.ask(Act::new(verb, &meant, &shown.picture, rights));
                    }
                    Wish::Act(act) => doing.begin(act),
                    Wish::Quit => break,
                }
            }
            done = doing.done() => {
                state.acting.tell(done);
                feed.look(&mut latest, &state).await?;
            }
            _ = ticks.tick() => feed.look(&mut latest, &state).await?,
        }
        if state.page != page {
            feed.look(&mut latest, &state).await?;
        }
        if !state.is_paused {
            shown.clone_from(&latest);
            source_shown = feed.source();
        }
    }
    doing.leave().await;
    Ok(())
}
