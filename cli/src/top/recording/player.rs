//! The place in a recording, and how fast it goes on. Time is an argument.

use std::time::Duration;

use ratatui::crossterm::event::KeyCode;

/// A move in a recording.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Move {
    /// Stops, or goes on.
    Pause,
    /// Faster, or slower.
    Speed {
        /// True for faster.
        is_up: bool,
    },
    /// So many looks on or back, and stops.
    Step(isize),
    /// So many seconds on or back: a look at least.
    Jump(i64),
    /// To the first look.
    First,
    /// To the last look.
    Last,
}

impl Move {
    /// The move of a key, if it is one for moves.
    pub fn of(key: KeyCode) -> Option<Self> {
        Some(match key {
            KeyCode::Char(' ') => Self::Pause,
            KeyCode::Char('+') => Self::Speed { is_up: true },
            KeyCode::Char('-') => Self::Speed { is_up: false },
            KeyCode::Char('.') => Self::Step(1),
            KeyCode::Char(',') => Self::Step(-1),
            KeyCode::Char(']') | KeyCode::Right => Self::Jump(10),
            KeyCode::Char('[') | KeyCode::Left => Self::Jump(-10),
            KeyCode::Char('}') => Self::Jump(60),
            KeyCode::Char('{') => Self::Jump(-60),
            KeyCode::Char('0') => Self::First,
            KeyCode::Char('$') => Self::Last,
            _ => return None,
        })
    }
}

/// Speeds, in hundredths of that of the farm.
const SPEEDS: [u64; 8] = [25, 50, 100, 200, 500, 1_000, 3_000, 10_000];
/// The farm's own.
const AS_IT_WAS: usize = 2;
/// The least time between two looks that are shown.
const LEAST: Duration = Duration::from_millis(40);
/// A longer time without a look, as after a pause of the recording, is passed over.
const GAP_MS: u64 = 30_000;

/// The place in a recording.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Player {
    times_ms: Vec<u64>,
    /// The look that is shown.
    look: usize,
    speed: usize,
    is_paused: bool,
}

impl Player {
    /// The first of looks at these times, which are one at least and only ever become later. It
    /// goes on.
    pub fn new(times_ms: Vec<u64>) -> Self {
        Self { times_ms, look: 0, speed: AS_IT_WAS, is_paused: false }
    }

    /// The look that is shown.
    pub fn look(&self) -> usize {
        self.look
    }

    /// The time until the next look is shown; none if it does not go on.
    pub fn wait(&self) -> Option<Duration> {
        let next = self.times_ms.get(self.look + 1).filter(|_| !self.is_paused)?;
        let later_ms = next - self.at_ms();
        let later_ms = if later_ms > GAP_MS { 0 } else { later_ms };
        let later = Duration::from_micros(later_ms * 100_000 / SPEEDS[self.speed]);
        Some(later.max(LEAST))
    }

    /// Goes on to the next look, after [`Player::wait`]. At high speed looks are left out.
    pub fn go_on(&mut self) {
        let passed_ms = LEAST.as_millis() as u64 * SPEEDS[self.speed] / 100;
        let until_ms = self.at_ms() + passed_ms;
        self.look = self.last_until(until_ms).max(self.look + 1).min(self.last());
        self.is_paused |= self.look == self.last();
    }

    /// A key asks for a move.
    pub fn make(&mut self, step: Move) {
        match step {
            // From the end it begins again.
            Move::Pause if self.look == self.last() => (self.look, self.is_paused) = (0, false),
            Move::Pause => self.is_paused = !self.is_paused,
            Move::Speed { is_up: true } => self.speed = (self.speed + 1).min(SPEEDS.len() - 1),
            Move::Speed { is_up: false } => self.speed = self.speed.saturating_sub(1),
            Move::Step(looks) => {
                self.look = self.look.saturating_add_signed(looks).min(self.last());
                self.is_paused = true;
            }
            Move::Jump(seconds) => self.jump(seconds),
            Move::First => self.look = 0,
            Move::Last => (self.look, self.is_paused) = (self.last(), true),
        }
    }

    /// Goes to the moment so many milliseconds after the first look. Returns false if that is
    /// after the last one.
    pub fn seek(&mut self, at_ms: u64) -> bool {
        self.look = self.last_until(at_ms);
        at_ms <= self.times_ms[self.last()]
    }

    /// Goes to a look. Returns false if there is none.
    pub fn step_to(&mut self, look: usize) -> bool {
        let is_there = look <= self.last();
        if is_there {
            self.look = look;
        }
        is_there
    }

    fn jump(&mut self, seconds: i64) {
        let to_ms = self.at_ms().saturating_add_signed(seconds * 1_000);
        let look = self.last_until(to_ms);
        self.look = if seconds > 0 {
            look.max(self.look + 1).min(self.last())
        } else {
            look.min(self.look.saturating_sub(1))
        };
    }

    /// The last look up to this time; the first one if there is none.
    fn last_until(&self, at_ms: u64) -> usize {
        self.times_ms.partition_point(|time| *time <= at_ms).saturating_sub(1)
    }

    fn last(&self) -> usize {
        self.times_ms.len().saturating_sub(1)
    }

    /// The time of the look that is shown.
    pub fn at_ms(&self) -> u64 {
        self.times_ms.get(self.look).copied().unwrap_or(0)
    }

    /// The time of the last look.
    pub fn length_ms(&self) -> u64 {
        self.times_ms.last().copied().unwrap_or(0)
    }

    /// The place and the speed, in words: `replay 1:03 of 5:00, speed 2`.
    pub fn words(&self) -> String {
        let speed = SPEEDS[self.speed] as f64 / 100.0;
        let (at, length) = (clock(self.at_ms()), clock(self.length_ms()));
        let state = match (self.is_paused, self.look == self.last()) {
            (_, true) => "   END",
            (true, false) => "   PAUSED",
            (false, false) => "",
        };
        format!("replay {at} of {length}, speed {speed}{state}")
    }
}

/// A time as minutes and seconds, or with hours before them: `1:03`, `2:00:09`.
pub fn clock(ms: u64) -> String {
    let s = ms / 1_000;
    let (hours, minutes, seconds) = (s / 3_600, s / 60 % 60, s % 60);
    if hours > 0 {
        format!("{hours}:{minutes:02}:{seconds:02}")
    } else {
        format!("{minutes}:{seconds:02}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_second(looks: u64) -> Player {
        Player::new((0..looks).map(|look| look * 1_000).collect())
    }

    fn press(player: &mut Player, keys: &str) {
        for key in keys.chars() {
            player.make(Move::of(KeyCode::Char(key)).expect("a key for moves"));
        }
    }

    #[test]
    fn looks_follow_each_other_as_they_did() {
        let mut player = Player::new(vec![0, 1_000, 3_000]);
        assert_eq!(player.wait(), Some(Duration::from_secs(1)));
        player.go_on();
        assert_eq!((player.look(), player.wait()), (1, Some(Duration::from_secs(2))));
        press(&mut player, "+");
        assert_eq!(player.wait(), Some(Duration::from_secs(1)));
        press(&mut player, "--");
        assert_eq!(player.wait(), Some(Duration::from_secs(4)));
        player.go_on();
        assert_eq!((player.look(), player.wait()), (2, None), "it stops at the end");
        assert_eq!(player.words(), "replay 0:03 of 0:03, speed 0.5   END");
        press(&mut player, " ");
        assert_eq!((player.look(), player.wait().is_some()), (0, true), "and begins again");
    }

    #[test]
    fn keys_pause_step_and_jump() {
        let mut player = every_second(200);
        press(&mut player, "]]");
        assert_eq!(player.look(), 20);
        assert!(player.wait().is_some(), "a jump does not stop it");
        press(&mut player, "}[");
        assert_eq!(player.look(), 70);
        press(&mut player, ".");
        assert_eq!((player.look(), player.wait()), (71, None));
        press(&mut player, ",,,");
        assert_eq!(player.words(), "replay 1:08 of 3:19, speed 1   PAUSED");
        press(&mut player, "{{{");
        assert_eq!(player.look(), 0);
        press(&mut player, "$]");
        assert_eq!(player.look(), 199);
        press(&mut player, "0 ");
        assert_eq!((player.look(), player.wait()), (0, Some(Duration::from_secs(1))));
        assert_eq!(Move::of(KeyCode::Char('x')), None);
    }

    #[test]
    fn a_jump_moves_by_a_look_at_least_and_gaps_are_passed_over() {
        let mut player = Player::new(vec![0, 1_000, 7_200_000, 7_201_000]);
        press(&mut player, "]");
        assert_eq!(player.look(), 1);
        assert_eq!(player.wait(), Some(LEAST), "two hours without a look");
        press(&mut player, "]");
        assert_eq!(player.look(), 2);
        press(&mut player, "[");
        assert_eq!(player.look(), 1);
        assert_eq!(clock(7_201_000), "2:00:01");
    }

    #[test]
    fn at_high_speed_looks_are_left_out_and_the_end_is_reached() {
        let mut player = every_second(100);
        press(&mut player, "+++++++++");
        assert_eq!(player.wait(), Some(LEAST));
        player.go_on();
        assert_eq!(player.look(), 4, "40 ms at speed 100");
        for _ in 0..100 {
            player.go_on();
        }
        assert_eq!((player.look(), player.wait()), (99, None));
    }

    #[test]
    fn a_moment_is_the_last_look_up_to_it() {
        let mut player = every_second(10);
        assert!(player.seek(3_999));
        assert_eq!(player.look(), 3);
        assert!(player.seek(9_000) && !player.seek(9_001));
        assert_eq!(player.look(), 9);
    }
}
