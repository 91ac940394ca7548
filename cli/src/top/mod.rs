//! `furlong top`: the farm as it goes, on a terminal.
//!
//! `words`, `table`, `pages` and `screen` make a screen of a picture of the farm, `state`, `cursor`
//! and `acts` are what keys change; none of them does I/O. `carry_out` acts.

mod acts;
mod carry_out;
mod cursor;
mod pages;
mod screen;
mod state;
mod table;
#[cfg(test)]
mod tests;
mod words;

use std::io::IsTerminal;
use std::time::Duration;

use anyhow::{Context, Result};
use furlong_client::{Client, TaskQuery, Wanted, watch_json};
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::text::Text;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use crate::connect::{ConnectArgs, OBSERVERS};
use crate::exit::ExitCode;
use crate::print;
use acts::Act;
use carry_out::Doing;
use pages::Shown;
use screen::Source;
use state::{Page, State, Wish};

/// Flags of `top`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Keys: 1 to 8 and tab for pages, j k g G to move, / to filter, s S to sort, space to pause, + - for the interval,
? for help, q to quit. Names and tasks are those of the capability's owner; sums are those of all.

On the pages of engines and of the queue c K i r D p cancel, kill, interrupt, restart, drain and profile, after a
question. They need client.cap.json, or another file that may, and D needs admin.cap.json. To look,
observer.cap.json is enough.

Exit codes: 0 ended by q; 1 an error; 2 wrong usage; with --check 3 if there is a note, or no engine online.

Example: furlong top --once --check")]
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
    #[command(flatten)]
    connect: ConnectArgs,
}

/// The size of what is printed where there is no terminal.
const SIZE: (u16, u16) = (120, 40);
/// The exit code of `--check` if there is something to look at.
const LOOK_AT_IT: u8 = 3;
/// Keys that wait until they are looked at: a thread that reads more waits itself.
const KEYS_WAITING_MAX: usize = 64;
/// Looks after which a farm is shown, though there is more of it.
const LOOKS_AT_ONCE: usize = 200;

fn interval(text: &str) -> Result<f64, String> {
    let seconds = text.parse::<f64>().ok().filter(|seconds| (0.1..=10.0).contains(seconds));
    seconds.ok_or_else(|| "a number of seconds from 0.1 to 10".to_owned())
}

/// Shows the farm until it is told to stop.
pub async fn run(args: TopArgs) -> Result<ExitCode> {
    let client = args.connect.connect(OBSERVERS).await?;
    let ended = show(&client, &args).await;
    client.close().await;
    ended
}

async fn show(client: &Client, args: &TopArgs) -> Result<ExitCode> {
    let state = State::new(args.page, (args.every * 1e3) as u64);
    let mut shown = Shown::default();
    look(client, &mut shown, &state).await?;
    if args.json {
        return print_json(client, shown, &state, args.once).await;
    }
    if args.once {
        print_once(client, &shown, &state)?;
        let picture = &shown.picture;
        let is_fine = picture.notes.is_empty() && picture.farm.engines_online > 0;
        let code = if args.check && !is_fine { LOOK_AT_IT } else { 0 };
        return Ok(ExitCode::from(code));
    }
    let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
    if args.plain || is_dumb || !std::io::stdout().is_terminal() {
        return print_changes(client, shown, &state).await;
    }
    on_terminal(client, shown, state, &args.connect).await.map(|()| ExitCode::SUCCESS)
}

/// Brings what is shown up to date, with what a page needs.
async fn look(client: &Client, shown: &mut Shown, state: &State) -> Result<()> {
    let wanted = Wanted {
        ends: state.page == Page::Tasks,
        failures: state.page == Page::Failures,
        // An engine is told when it has changed: who wants its figures wants them always.
        loads: true,
        ..Wanted::default()
    };
    for _ in 0..LOOKS_AT_ONCE {
        if !client.look(&mut shown.picture, wanted).await? {
            break;
        }
    }
    if state.page == Page::Queue {
        let open =
            TaskQuery { ended: Some(false), limit: pages::QUEUE_MAX, ..TaskQuery::default() };
        shown.queue = client.query_tasks(open).all().await?;
    }
    Ok(())
}

fn source(client: &Client) -> Source {
    Source {
        endpoint: client.endpoint().to_string(),
        clock: jiff::Timestamp::now().strftime("%H:%M:%SZ").to_string(),
    }
}

fn print_once(client: &Client, shown: &Shown, state: &State) -> Result<()> {
    let (width, height) = ratatui::crossterm::terminal::size().unwrap_or(SIZE);
    let is_plain = !std::io::stdout().is_terminal();
    // All rows: who prints once has no keys.
    let Shown { picture, queue } = shown;
    let rows = picture.engines.len() + picture.kinds.len() + queue.len();
    let height = usize::from(height).max(rows + 20);
    let size = (usize::from(width.max(SIZE.0)), height);
    let lines = screen::lines(shown, state, &source(client), size, is_plain);
    let shown = lines.split_last().map_or(&[][..], |(_, lines)| lines);
    let end = shown.iter().rposition(|line| !line.to_string().is_empty()).map_or(0, |at| at + 1);
    shown[..end].iter().try_for_each(|line| print::line(line.to_string().trim_end()))
}

async fn print_json(
    client: &Client,
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
        look(client, &mut shown, state).await?;
    }
}

/// Prints a line for each change of what is in it, for those who do not see a screen.
async fn print_changes(client: &Client, mut shown: Shown, state: &State) -> Result<ExitCode> {
    let mut last = Vec::new();
    loop {
        let lines = screen::header(&shown.picture, state, &source(client), 80, true);
        let lines: Vec<String> = lines.iter().map(ToString::to_string).collect();
        for line in lines.iter().filter(|line| !last.contains(*line)) {
            print::line(line)?;
        }
        last = lines;
        tokio::time::sleep(Duration::from_millis(state.every_ms())).await;
        look(client, &mut shown, state).await?;
    }
}

/// Puts the terminal in order again, however its owner ends.
struct Restored;

impl Drop for Restored {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

async fn on_terminal(
    client: &Client,
    mut latest: Shown,
    mut state: State,
    connect: &ConnectArgs,
) -> Result<()> {
    let mut terminal = ratatui::try_init().context("cannot draw on this terminal; try --plain")?;
    let _restored = Restored;
    let mut events = read_events();
    let mut shown = latest.clone();
    let mut source_shown = source(client);
    let mut doing = Doing::new(connect.clone());
    state.acting.rights = carry_out::rights(connect);
    loop {
        let rows = screen::rows(&shown, &state);
        state.cursor.follow(&rows);
        terminal.draw(|frame| {
            let area = frame.area();
            let size = (usize::from(area.width), usize::from(area.height));
            let lines = screen::lines(&shown, &state, &source_shown, size, false);
            frame.render_widget(Text::from(lines), area);
        })?;
        let every = Duration::from_millis(state.every_ms());
        let mut ticks = interval_at(Instant::now() + every, every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let page = state.page;
        tokio::select! {
            event = events.recv() => {
                let Some(event) = event else { break };
                let Some(key) = pressed(&event) else { continue };
                match state.press(key.code, &rows) {
                    _ if is_interrupt(&key) => break,
                    Wish::Draw => {}
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
                look(client, &mut latest, &state).await?;
            }
            _ = ticks.tick() => look(client, &mut latest, &state).await?,
        }
        if state.page != page {
            look(client, &mut latest, &state).await?;
        }
        if !state.is_paused {
            shown.clone_from(&latest);
            source_shown = source(client);
        }
    }
    doing.leave().await;
    Ok(())
}

/// The key that was pressed, if one was.
fn pressed(event: &Event) -> Option<KeyEvent> {
    let Event::Key(key) = event else { return None };
    (key.kind != KeyEventKind::Release).then_some(*key)
}

/// Ctrl-C: the screen has taken the signal's place.
fn is_interrupt(key: &KeyEvent) -> bool {
    key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c')
}

/// Reads keys and changes of the size on a thread of its own, which ends with the process.
fn read_events() -> mpsc::Receiver<Event> {
    let (sender, receiver) = mpsc::channel(KEYS_WAITING_MAX);
    std::thread::spawn(move || {
        while let Ok(event) = event::read() {
            if sender.blocking_send(event).is_err() {
                return;
            }
        }
    });
    receiver
}
