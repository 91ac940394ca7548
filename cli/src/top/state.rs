//! The state of the screen: which page is shown, how it is sorted and filtered. Keys change it.

use ratatui::crossterm::event::KeyCode;

use super::acts::{Act, Acting, Verb};
use super::cursor::{Cursor, Row};
use super::recording::Move;

/// The pages, in the order of their keys.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
pub enum Page {
    /// Kinds and engines beside each other.
    #[default]
    Overview,
    /// Kinds of tasks.
    Kinds,
    /// Engines.
    Engines,
    /// Tasks that have ended.
    Tasks,
    /// Failures by type and place.
    Failures,
    /// Owners of tasks.
    Owners,
    /// All notes.
    Notes,
    /// Tasks that have not ended.
    Queue,
}

impl Page {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Overview,
        Self::Kinds,
        Self::Engines,
        Self::Tasks,
        Self::Failures,
        Self::Owners,
        Self::Notes,
        Self::Queue,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Overview => "overview",
            Self::Kinds => "kinds",
            Self::Engines => "engines",
            Self::Tasks => "tasks",
            Self::Failures => "failures",
            Self::Owners => "owners",
            Self::Notes => "notes",
            Self::Queue => "queue",
        }
    }

    /// Returns true if keys act on its rows.
    pub fn has_cursor(self) -> bool {
        matches!(self, Self::Engines | Self::Queue)
    }
}

/// The intervals between two looks, in milliseconds.
const INTERVALS_MS: [u64; 7] = [100, 200, 500, 1_000, 2_000, 5_000, 10_000];

/// What a key asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Wish {
    /// Nothing but to draw again.
    Draw,
    /// To ask whether this is to be done to the rows that are meant.
    Ask(Verb),
    /// To do it.
    Act(Act),
    /// A move in a recording.
    Play(Move),
    /// The end.
    Quit,
}

/// The state of the screen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct State {
    /// The page that is shown.
    pub page: Page,
    /// The first row that is shown.
    pub first: usize,
    /// The column by which rows are sorted, and whether the other way round.
    pub sort: (usize, bool),
    /// The filter: rows have this text.
    pub filter: String,
    /// True while the filter is typed.
    pub types_filter: bool,
    /// True while nothing new is shown.
    pub is_paused: bool,
    /// True if a recording is shown: nothing of it can be acted on.
    pub is_replay: bool,
    /// True while the keys are explained.
    pub shows_help: bool,
    /// The row that keys act on, where there is one.
    pub cursor: Cursor,
    /// Acts that keys have asked for.
    pub acting: Acting,
    interval: usize,
}

impl State {
    /// A page, with the interval that is nearest to so many milliseconds.
    pub fn new(page: Page, every_ms: u64) -> Self {
        let nearest = |at: &usize| INTERVALS_MS[*at].abs_diff(every_ms);
        Self {
            page,
            first: 0,
            sort: (0, false),
            filter: String::new(),
            types_filter: false,
            is_paused: false,
            is_replay: false,
            shows_help: false,
            cursor: Cursor::default(),
            acting: Acting::default(),
            interval: (0..INTERVALS_MS.len()).min_by_key(nearest).unwrap_or(0),
        }
    }

    /// Milliseconds between two looks.
    pub fn every_ms(&self) -> u64 {
        INTERVALS_MS[self.interval]
    }

    /// A key was pressed, while these rows were there to be acted on.
    pub fn press(&mut self, key: KeyCode, rows: &[Row]) -> Wish {
        self.acting.said.clear();
        if self.acting.question.is_some() {
            let act = self.acting.answer(key == KeyCode::Char('y'));
            return act.map_or(Wish::Draw, Wish::Act);
        }
        if self.types_filter {
            self.type_filter(key);
            return Wish::Draw;
        }
        if self.is_replay
            && let Some(step) = Move::of(key)
        {
            return Wish::Play(step);
        }
        match key {
            KeyCode::Char('q') => return Wish::Quit,
            KeyCode::Char('?') => self.shows_help = !self.shows_help,
            KeyCode::Esc => self.step_back(),
            KeyCode::Char(digit @ '1'..='8') => {
                self.open(Page::ALL[digit as usize - '1' as usize]);
            }
            KeyCode::Tab => self.turn(1),
            KeyCode::BackTab => self.turn(Page::ALL.len() - 1),
            KeyCode::Char('s') => self.sort.0 += 1,
            KeyCode::Char('S') => self.sort.1 = !self.sort.1,
            KeyCode::Char('/') => self.types_filter = true,
            KeyCode::Char(' ') => self.is_paused = !self.is_paused,
            KeyCode::Char('+') => self.interval = self.interval.saturating_sub(1),
            KeyCode::Char('-') => self.interval = (self.interval + 1).min(INTERVALS_MS.len() - 1),
            _ => return self.move_or_act(key, rows),
        }
        Wish::Draw
    }

    fn move_or_act(&mut self, key: KeyCode, rows: &[Row]) -> Wish {
        let by = match key {
            KeyCode::Char('j') | KeyCode::Down => 1,
            KeyCode::Char('k') | KeyCode::Up => -1,
            KeyCode::PageDown => 10,
            KeyCode::PageUp => -10,
            KeyCode::Char('g') | KeyCode::Home => isize::MIN,
            KeyCode::Char('G') | KeyCode::End => isize::MAX,
            _ => return self.act(key, rows),
        };
        if self.page.has_cursor() {
            self.cursor.step(by, rows);
        } else {
            self.first = self.first.saturating_add_signed(by);
        }
        Wish::Draw
    }

    fn act(&mut self, key: KeyCode, rows: &[Row]) -> Wish {
        let verb = match key {
            KeyCode::Char('c') => Verb::Cancel,
            KeyCode::Char('K') => Verb::Kill,
            KeyCode::Char('i') => Verb::Interrupt,
            KeyCode::Char('r') => Verb::Restart,
            KeyCode::Char('D') => Verb::Drain,
            KeyCode::Char('p') => Verb::Profile,
            KeyCode::Char('m') => {
                self.cursor.mark();
                self.cursor.step(1, rows);
                return Wish::Draw;
            }
            KeyCode::Char('M') => {
                self.cursor.mark_all(rows);
                return Wish::Draw;
            }
            _ => return Wish::Draw,
        };
        if self.is_replay {
            "this is a replay: what is past cannot be acted on".clone_into(&mut self.acting.said);
            return Wish::Draw;
        }
        if !rows.is_empty() {
            return Wish::Ask(verb);
        }
        self.acting.said = if self.page.has_cursor() {
            "there is nothing here to do that to".to_owned()
        } else {
            "that is for the pages 3 (engines) and 8 (queue)".to_owned()
        };
        Wish::Draw
    }

    fn type_filter(&mut self, key: KeyCode) {
        match key {
            KeyCode::Char(character) => self.filter.push(character),
            KeyCode::Backspace => _ = self.filter.pop(),
            KeyCode::Enter => self.types_filter = false,
            KeyCode::Esc => (self.types_filter, self.filter) = (false, String::new()),
            _ => return,
        }
        self.first = 0;
    }

    fn step_back(&mut self) {
        if !self.acting.report.is_empty() {
            self.acting.report.clear();
        } else if self.shows_help {
            self.shows_help = false;
        } else if !self.filter.is_empty() {
            self.filter.clear();
        } else {
            self.open(Page::Overview);
        }
    }

    fn open(&mut self, page: Page) {
        (self.page, self.first, self.sort) = (page, 0, (0, false));
        self.cursor = Cursor::default();
        self.acting.report.clear();
    }

    fn turn(&mut self, pages: usize) {
        let at = Page::ALL.iter().position(|page| *page == self.page).unwrap_or(0);
        self.open(Page::ALL[(at + pages) % Page::ALL.len()]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn press_all(state: &mut State, keys: &str) {
        for key in keys.chars() {
            let code = match key {
                '\n' => KeyCode::Enter,
                '\t' => KeyCode::Tab,
                key => KeyCode::Char(key),
            };
            assert_eq!(state.press(code, &[]), Wish::Draw);
        }
    }

    #[test]
    fn keys_are_those_of_a_pager() {
        let mut state = State::new(Page::Overview, 900);
        assert_eq!(state.every_ms(), 1_000);
        press_all(&mut state, "2jj+-- ");
        assert_eq!((state.page, state.first, state.every_ms()), (Page::Kinds, 2, 2_000));
        assert!(state.is_paused);
        press_all(&mut state, "\t\t/qj\n");
        assert_eq!((state.page, &*state.filter), (Page::Tasks, "qj"), "a filter is typed");
        state.press(KeyCode::Esc, &[]);
        assert_eq!((state.page, &*state.filter), (Page::Tasks, ""));
        state.press(KeyCode::Esc, &[]);
        assert_eq!(state.page, Page::Overview);
        state.press(KeyCode::BackTab, &[]);
        assert_eq!(state.page, Page::Queue);
        assert_eq!(state.press(KeyCode::Char('q'), &[]), Wish::Quit);
    }

    #[test]
    fn keys_of_a_replay_move_in_it_and_act_on_nothing() {
        let mut state = State { is_replay: true, ..State::new(Page::Overview, 1_000) };
        assert_eq!(state.press(KeyCode::Char(' '), &[]), Wish::Play(Move::Pause));
        assert_eq!(state.press(KeyCode::Char('+'), &[]), Wish::Play(Move::Speed { is_up: true }));
        assert_eq!(state.press(KeyCode::Left, &[]), Wish::Play(Move::Jump(-10)));
        assert!(!state.is_paused && state.every_ms() == 1_000);
        press_all(&mut state, "/0 \n");
        assert_eq!(state.filter, "0 ", "a filter is typed");
        for key in "cKirDp".chars() {
            assert_eq!(state.press(KeyCode::Char(key), &[]), Wish::Draw);
            assert!(state.acting.said.starts_with("this is a replay"), "{key}");
        }
    }
}
