//! Figures and bars for a narrow place.

use furlong_wire::message::PhaseTimes;

/// A duration: `6 us`, `310 ms`, `1.8 s`, `4 min`, `2.5 h`, `3 d`.
pub fn duration(us: u64) -> String {
    let s = us as f64 / 1e6;
    match us {
        0..1_000 => format!("{us} us"),
        1_000..10_000 => format!("{:.1} ms", us as f64 / 1e3),
        10_000..1_000_000 => format!("{:.0} ms", us as f64 / 1e3),
        1_000_000..10_000_000 => format!("{s:.1} s"),
        10_000_000..120_000_000 => format!("{s:.0} s"),
        120_000_000..7_200_000_000 => format!("{:.0} min", s / 60.0),
        7_200_000_000..172_800_000_000 => format!("{:.1} h", s / 3_600.0),
        _ => format!("{:.0} d", s / 86_400.0),
    }
}

/// The time left as a range: `6-9 min`; `?` if it is not known.
pub fn left(left_us: Option<(u64, u64)>) -> String {
    match left_us {
        None => "?".to_owned(),
        Some((0, 0)) => "-".to_owned(),
        Some((least, most)) => {
            let (least, most) = (duration(least), duration(most));
            let (number, unit) = least.split_once(' ').unwrap_or((&least, ""));
            match most.split_once(' ') {
                _ if least == most => most,
                Some((_, same)) if same == unit => format!("{number}-{most}"),
                _ => format!("{least}-{most}"),
            }
        }
    }
}

/// A count in at most six characters: `48113`, `1.2M`.
pub fn count(number: u64) -> String {
    match number {
        0..100_000 => number.to_string(),
        100_000..1_000_000 => format!("{}k", number / 1_000),
        1_000_000..1_000_000_000 => format!("{:.1}M", number as f64 / 1e6),
        _ => format!("{:.1}G", number as f64 / 1e9),
    }
}

/// Bytes in at most six characters: `310 B`, `2.1G`.
pub fn bytes(bytes: u64) -> String {
    let units = ["B", "K", "M", "G", "T"];
    let unit = (0..4).find(|unit| bytes < 1024 << (10 * unit)).unwrap_or(4);
    let scaled = bytes as f64 / (1_u64 << (10 * unit)) as f64;
    match unit {
        0 => format!("{bytes} B"),
        _ if scaled < 10.0 => format!("{scaled:.1}{}", units[unit]),
        _ => format!("{scaled:.0}{}", units[unit]),
    }
}

/// A row of bars of different height, the largest number being the highest.
pub fn sparkline(numbers: &[u32], is_plain: bool) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    const PLAIN: [char; 8] = ['_', '.', ':', '-', '=', '+', '*', '#'];
    let bars = if is_plain { PLAIN } else { BARS };
    let most = numbers.iter().copied().max().unwrap_or(0).max(1);
    let height = |number: u32| match number {
        0 => ' ',
        number => bars[(u64::from(number) * 7 / u64::from(most)) as usize],
    };
    numbers.iter().map(|number| height(*number)).collect()
}

/// The phases that a task goes through, each with its share of the time.
pub fn shares(times: &PhaseTimes) -> Vec<(&'static str, f64)> {
    let run = &times.run;
    let phases = [
        ("queue", times.queue_us + run.began_us),
        ("way", times.way_us),
        ("load", run.load_us),
        ("run", run.run_us),
        ("store", run.store_us),
    ];
    let total: u64 = phases.iter().map(|(_, us)| us).sum();
    let share = |us: u64| if total == 0 { 0.0 } else { us as f64 / total as f64 };
    phases.into_iter().map(|(name, us)| (name, share(us))).collect()
}

/// The shares as names, per cents and bars: `queue 38% ██████ run 55% █████████`.
pub fn share_bars(times: &PhaseTimes, width: usize, is_plain: bool) -> String {
    let full = if is_plain { "#" } else { "█" };
    let bars = shares(times).into_iter().map(|(name, share)| {
        let bar = full.repeat((share * width as f64).round() as usize);
        let percent = (share * 100.0).round();
        format!("{name} {percent}% {bar}").trim_end().to_owned()
    });
    bars.collect::<Vec<_>>().join("  ")
}

#[cfg(test)]
mod tests {
    use furlong_wire::message::RunTimes;

    use super::*;

    #[test]
    fn figures_are_short() {
        let durations = [6, 999, 1_500, 310_000, 1_800_000, 41_000_000, 360_000_000, 9_000_000_000];
        let words: Vec<String> = durations.iter().map(|us| duration(*us)).collect();
        assert_eq!(
            words,
            ["6 us", "999 us", "1.5 ms", "310 ms", "1.8 s", "41 s", "6 min", "2.5 h"]
        );
        assert_eq!(left(Some((360_000_000, 540_000_000))), "6-9 min");
        assert_eq!(left(Some((50_000_000, 180_000_000))), "50 s-3 min");
        assert_eq!((left(None), left(Some((0, 0)))), ("?".to_owned(), "-".to_owned()));
        assert_eq!((count(48_113), count(1_234_567)), ("48113".into(), "1.2M".into()));
        assert_eq!((bytes(310), bytes(2_254_857_830)), ("310 B".into(), "2.1G".into()));
    }

    #[test]
    fn bars_show_shares_and_heights() {
        assert_eq!(sparkline(&[0, 1, 5, 10], false), " ▁▄█");
        assert_eq!(sparkline(&[0, 0], true), "  ");
        let run = RunTimes { run_us: 75, ..RunTimes::default() };
        let times = PhaseTimes { queue_us: 25, run, ..PhaseTimes::default() };
        let bars = share_bars(&times, 8, true);
        assert_eq!(bars, "queue 25% ##  way 0%  load 0%  run 75% ######  store 0%");
    }
}
