//! The terminal: what is drawn on it, and the keys that are pressed.

use std::io::IsTerminal;

use anyhow::{Context, Result};
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::text::Text;
use tokio::sync::mpsc;

use super::pages::Shown;
use super::screen::{self, Source};
use super::state::State;

/// Keys that wait until they are looked at: a thread that reads more waits itself.
const KEYS_WAITING_MAX: usize = 64;

/// A terminal that shows screens. When it is dropped it is as it was before.
#[derive(Debug)]
pub struct Terminal {
    terminal: DefaultTerminal,
    events: mpsc::Receiver<Event>,
}

impl Terminal {
    /// Takes the terminal.
    pub fn open() -> Result<Self> {
        let terminal = ratatui::try_init().context("cannot draw on this terminal; try --plain")?;
        Ok(Self { terminal, events: read_events() })
    }

    /// Draws a screen.
    pub fn draw(&mut self, shown: &Shown, state: &State, source: &Source) -> Result<()> {
        self.terminal.draw(|frame| {
            let area = frame.area();
            let size = (usize::from(area.width), usize::from(area.height));
            let lines = screen::lines(shown, state, source, size, false);
            frame.render_widget(Text::from(lines), area);
        })?;
        Ok(())
    }

    /// The next key, or change of the size; none if the terminal is gone.
    pub async fn event(&mut self) -> Option<Event> {
        self.events.recv().await
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

/// Returns true if standard output is a terminal that can be drawn on.
pub fn is_there() -> bool {
    let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
    !is_dumb && std::io::stdout().is_terminal()
}

/// The key that was pressed, if one was.
pub fn pressed(event: &Event) -> Option<KeyEvent> {
    let Event::Key(key) = event else { return None };
    (key.kind != KeyEventKind::Release).then_some(*key)
}

/// Ctrl-C: the screen has taken the signal's place.
pub fn is_interrupt(key: &KeyEvent) -> bool {
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
