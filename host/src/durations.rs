//! Spans of time as people write and read them.

use std::time::Duration;

/// The units, the longest first, in milliseconds.
const UNITS: [(&str, f64); 5] =
    [("ms", 1.0), ("d", 86_400_000.0), ("h", 3_600_000.0), ("m", 60_000.0), ("s", 1000.0)];
/// A hundred years: beyond, it is a slip.
const MS_MAX: f64 = 3.2e12;

/// Reads `90`, `90s`, `500ms`, `5m`, `2h`, `1.5h` or `1d`: a number alone is of seconds.
///
/// # Errors
/// The problem with it, for the usage message.
pub fn duration(text: &str) -> Result<Duration, String> {
    let unit = UNITS.iter().find_map(|(unit, ms)| Some((text.strip_suffix(unit)?, ms)));
    let (number, ms) = unit.unwrap_or((text, &1000.0));
    let is_plain = !number.is_empty() && number.chars().all(|it| it.is_ascii_digit() || it == '.');
    let value = number.parse::<f64>().ok().filter(|_| is_plain).map(|number| number * ms);
    match value {
        Some(value) if value <= MS_MAX => {
            Ok(Duration::from_micros((value * 1000.0).round() as u64))
        }
        Some(_) => Err("a time of more than a hundred years".to_owned()),
        None => {
            Err("a time is a number of seconds, or has a unit: 90, 90s, 500ms, 5m, 2h, 1d"
                .to_owned())
        }
    }
}

/// As [`duration`], and not zero: a limit of no time at all would end everything before it begins.
///
/// # Errors
/// The problem with it, for the usage message.
pub fn limit(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => {
            Err("a limit of no time would end a task before it begins; leave it out for none"
                .to_owned())
        }
        limit => Ok(limit),
    }
}

/// A span of time in a table: `430 us`, `12 ms`, `3.2 s`, `4m10s`, `2h05m`, `3d04h`.
pub fn short(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} us"),
        1_000..1_000_000 => format!("{} ms", us / 1_000),
        1_000_000..60_000_000 => format!("{}.{} s", us / 1_000_000, us / 100_000 % 10),
        60_000_000..3_600_000_000 => format!("{}m{:02}s", us / 60_000_000, us / 1_000_000 % 60),
        3_600_000_000..86_400_000_000 => {
            format!("{}h{:02}m", us / 3_600_000_000, us / 60_000_000 % 60)
        }
        _ => format!("{}d{:02}h", us / 86_400_000_000, us / 3_600_000_000 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units_and_are_seconds_without() {
        let ms = |text: &str| duration(text).map(|it| it.as_millis());
        for (text, expected) in [
            ("90", 90_000),
            ("90s", 90_000),
            ("0.25", 250),
            ("500ms", 500),
            ("5m", 300_000),
            ("2h", 7_200_000),
            ("1.5h", 5_400_000),
            ("1d", 86_400_000),
            ("0", 0),
        ] {
            assert_eq!(ms(text), Ok(expected), "{text}");
        }
        for wrong in ["", "s", "-1", "1 s", "5M", "1e3", "inf", "nan", "5x", "1..2", "99999999999d"]
        {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
        assert!(limit("0").is_err() && limit("1ms").is_ok());
    }

    #[test]
    fn times_in_tables_are_short() {
        let shown =
            [430, 12_345, 3_250_000, 250_000_000, 7_500_000_000, 273_600_000_000].map(short);
        assert_eq!(shown, ["430 us", "12 ms", "3.2 s", "4m10s", "2h05m", "3d04h"]);
    }
}
