//! The replay of a recording: the same screens, of looks of before.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail};
use furlong_client::watch_json;
use tokio::time::Instant;

use super::recording::{Player, Recording, Reel, clock};
use super::screen::{self, Source};
use super::state::{State, Wish};
use super::terminal::{self, Terminal};
use super::{TopArgs, print_once, verdict};
use crate::exit::ExitCode;
use crate::print;

/// A replay.
struct Replay {
    reel: Reel,
    player: Player,
}

/// Shows a recording until it is told to stop.
pub async fn run(path: &Path, args: &TopArgs) -> Result<ExitCode> {
    let recording = Recording::open(path)?;
    let file = path.display();
    if recording.cut_bytes > 0 {
        let bytes = print::bytes(recording.cut_bytes);
        print::note!("furlong: {file} ends in the middle of a look: its last {bytes} are left out");
    }
    let mut player = Player::new(recording.times_ms());
    let at_s = match args.at {
        None if args.once => None,
        at => Some(at.unwrap_or(0.0)),
    };
    let length_s = player.length_ms() as f64 / 1e3;
    match at_s.map(|at_s| player.seek((at_s * 1e3) as u64)) {
        None => _ = player.seek(player.length_ms()),
        Some(true) => {}
        Some(false) => bail!("{file} has {length_s:.1} s: --at is after its end"),
    }
    let mut replay = Replay { reel: Reel::new(recording), player };
    replay.reel.wind(replay.player.look())?;
    let mut state = State::new(args.page, args.every_ms());
    state.is_replay = true;
    if args.json {
        return replay.print_json(args.once);
    }
    if args.once {
        let shown = replay.reel.shown();
        print_once(&shown, &state, &replay.source())?;
        return Ok(verdict(&shown.picture, args));
    }
    if args.plain || !terminal::is_there() {
        return replay.print_changes(&state);
    }
    replay.on_terminal(state).await.map(|()| ExitCode::SUCCESS)
}

impl Replay {
    fn source(&self) -> Source {
        let unix_ms = i64::try_from(self.reel.unix_ms()).unwrap_or(i64::MAX);
        let time = jiff::Timestamp::from_millisecond(unix_ms);
        let clock = time.map(|time| time.strftime("%Y-%m-%d %H:%M:%SZ").to_string());
        Source {
            endpoint: self.reel.endpoint().to_owned(),
            clock: clock.unwrap_or_default(),
            replay: self.player.words(),
            is_recorded: false,
        }
    }

    /// Goes to the next look, without waiting. Returns false at the end.
    fn next(&mut self) -> Result<bool> {
        let next = self.player.look() + 1;
        if !self.player.step_to(next) {
            return Ok(false);
        }
        self.reel.wind(next)?;
        Ok(true)
    }

    /// Prints a line for each look from here on.
    fn print_json(mut self, is_once: bool) -> Result<ExitCode> {
        loop {
            print::json_line(&watch_json::of_picture(&self.reel.shown().picture))?;
            if is_once || !self.next()? {
                return Ok(ExitCode::SUCCESS);
            }
        }
    }

    /// Prints a line for each change of what is in it, with the time in front.
    fn print_changes(mut self, state: &State) -> Result<ExitCode> {
        let mut last = Vec::new();
        loop {
            let source = Source { replay: String::new(), ..self.source() };
            let lines = screen::header(&self.reel.shown().picture, state, &source, 80, true);
            let lines: Vec<String> = lines.iter().map(ToString::to_string).collect();
            for line in lines.iter().filter(|line| !last.contains(*line)) {
                print::line(format!("{}  {line}", clock(self.player.at_ms())))?;
            }
            last = lines;
            if !self.next()? {
                return Ok(ExitCode::SUCCESS);
            }
        }
    }

    async fn on_terminal(mut self, mut state: State) -> Result<()> {
        let mut terminal = Terminal::open()?;
        let mut due = self.due();
        loop {
            self.reel.wind(self.player.look())?;
            let shown = self.reel.shown();
            let rows = screen::rows(&shown, &state);
            state.cursor.follow(&rows);
            terminal.draw(&shown, &state, &self.source())?;
            tokio::select! {
                event = terminal.event() => {
                    let Some(event) = event else { return Ok(()) };
                    let Some(key) = terminal::pressed(&event) else { continue };
                    if terminal::is_interrupt(&key) {
                        return Ok(());
                    }
                    match state.press(key.code, &rows) {
                        Wish::Quit => return Ok(()),
                        Wish::Play(step) => {
                            self.player.make(step);
                            due = self.due();
                        }
                        // There is nothing to act on.
                        Wish::Draw | Wish::Ask(_) | Wish::Act(_) => {}
                    }
                }
                () = until(due) => {
                    self.player.go_on();
                    due = self.due();
                }
            }
        }
    }

    /// The moment of the next look.
    fn due(&self) -> Option<Instant> {
        self.player.wait().map(|wait: Duration| Instant::now() + wait)
    }
}

/// Returns at a moment; never without one.
async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}
