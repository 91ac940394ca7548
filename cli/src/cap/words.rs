//! The claims of capabilities, as people write and read them: expiry, limits, labels, owners.

use furlong_wire::capability::check_reason;
use furlong_wire::ids::{ClusterId, OwnerId};
use furlong_wire::limits::NAME_BYTES_MAX;
use furlong_wire::token::{Claims, SCOPES_MAX, TokenLimits};
use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp, ZonedDateTime};

use crate::print;

/// To whom a new capability's tasks belong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum OwnerArg {
    /// Somebody who has nothing yet.
    New,
    /// This one.
    Id(OwnerId),
    /// The one with this name in the cluster.
    Name(String),
}

impl OwnerArg {
    /// The owner's id; `random` is that of somebody new.
    pub fn id(&self, cluster: ClusterId, random: [u8; 16]) -> OwnerId {
        match self {
            Self::New => OwnerId(random),
            Self::Id(id) => *id,
            Self::Name(name) => OwnerId::named(cluster, name),
        }
    }
}

/// Reads an owner.
///
/// # Errors
/// The problem with it, for the usage message.
pub fn owner(text: &str) -> Result<OwnerArg, String> {
    if text == "new" {
        return Ok(OwnerArg::New);
    }
    if let Ok(id) = text.parse() {
        return Ok(OwnerArg::Id(id));
    }
    let is_name = (1..=NAME_BYTES_MAX).contains(&text.len())
        && !text.contains(char::is_control)
        && text.trim() == text;
    let name = is_name.then(|| OwnerArg::Name(text.to_owned()));
    name.ok_or_else(|| {
        "an owner is a name, the 32 hexadecimal digits of an owner's id, or `new`".to_owned()
    })
}

/// Reads labels of engines, separated by commas.
///
/// # Errors
/// A description of what is wrong with them, for the usage message.
pub fn labels(text: &str) -> Result<Vec<String>, String> {
    let mut labels: Vec<String> = text.split(',').map(str::to_owned).collect();
    labels.sort();
    labels.dedup();
    let good = |label: &String| {
        (1..=NAME_BYTES_MAX).contains(&label.len())
            && !label.contains(char::is_control)
            && label.trim() == *label
    };
    if labels.len() <= SCOPES_MAX && labels.iter().all(good) {
        return Ok(labels);
    }
    Err(format!("labels are up to {SCOPES_MAX} words with commas between them, as in `gpu,big`"))
}

/// Reads `tasks=N`, `payload=SIZE` or both, separated by a comma.
///
/// # Errors
/// A description of what is wrong with them, for the usage message.
pub fn limits(text: &str) -> Result<TokenLimits, String> {
    let mut limits = TokenLimits::default();
    for part in text.split(',') {
        let read = match part.split_once('=') {
            Some(("tasks", number)) if limits.unfinished_tasks_max == 0 => number
                .parse()
                .ok()
                .map(|tasks| limits.unfinished_tasks_max = tasks)
                .filter(|()| number != "0"),
            Some(("payload", size)) if limits.payload_bytes_max == 0 => {
                bytes(size).map(|bytes| limits.payload_bytes_max = bytes)
            }
            _ => None,
        };
        read.ok_or_else(|| {
            format!("`{part}`: limits are written as `tasks=1000,payload=1G`, each at least 1")
        })?;
    }
    Ok(limits)
}

/// Bytes as `512M`, `1G` or `1.5` of nothing: whole numbers with a unit of 1024.
fn bytes(text: &str) -> Option<u64> {
    let units = [("K", 10), ("M", 20), ("G", 30), ("T", 40)];
    let unit = units.into_iter().find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, shift)));
    let (number, shift) = unit.unwrap_or((text, 0));
    let number: u64 = number.parse().ok()?;
    number.checked_mul(1 << shift).filter(|bytes| *bytes > 0)
}

/// Reads when something expires: `never`, a span as `2h` or `30d`, a day (to its end, as the clock
/// on the wall has it), or a moment. Gives the first second in which it is no longer good.
///
/// # Errors
/// The problem with it, for the usage message.
pub fn expiry(text: &str) -> Result<u64, String> {
    expiry_from(text, &ZonedDateTime::now())
}

fn expiry_from(text: &str, now: &ZonedDateTime) -> Result<u64, String> {
    if text == "never" {
        return Ok(Claims::NEVER);
    }
    let at = moment(text, now).ok_or_else(|| {
        format!(
            "`{text}` is no expiry: write a span as `2h` or `30d`, a day as `2026-12-31`, or \
             `never`"
        )
    })?;
    let seconds = u64::try_from(at.as_second()).ok().filter(|_| at > now.timestamp());
    seconds.ok_or_else(|| format!("`{text}` is not in the future"))
}

fn moment(text: &str, now: &ZonedDateTime) -> Option<Timestamp> {
    let zone = now.time_zone();
    if let Ok(moment) = text.parse::<Timestamp>() {
        return Some(moment);
    }
    if text.starts_with(|first: char| first.is_ascii_digit()) && text.contains('-') {
        // A day first: a `DateTime` reads one too, as its first second.
        if let Some(day) = text.parse::<Date>().ok().filter(|_| text.len() == "2026-12-31".len()) {
            return Some(day.tomorrow().ok()?.to_zoned_datetime(zone.clone()).ok()?.timestamp());
        }
        return Some(
            text.parse::<DateTime>().ok()?.to_zoned_datetime(zone.clone()).ok()?.timestamp(),
        );
    }
    let span: Span = text.parse().ok()?;
    Some(now.checked_add(span).ok()?.timestamp())
}

/// Reads the reason of a revocation.
///
/// # Errors
/// The problem with it, for the usage message.
pub fn reason(text: &str) -> Result<String, String> {
    check_reason(text).map(|()| text.to_owned()).map_err(|error| error.to_string())
}

/// Describes a token's validity at a Unix time: `does not expire`, `good until Thu 2026-12-31 18:00
/// CET (in 3 days)`.
pub fn validity(claims: &Claims, now_s: u64) -> String {
    let Claims { not_before_s, expires_s, .. } = *claims;
    if now_s < not_before_s {
        return format!("good from {} (in {})", local(not_before_s), span(not_before_s - now_s));
    }
    match expires_s {
        Claims::NEVER => "does not expire".to_owned(),
        expires_s if expires_s <= now_s => {
            format!("expired {} ({} ago)", local(expires_s), span(now_s - expires_s))
        }
        expires_s => format!("good until {} (in {})", local(expires_s), span(expires_s - now_s)),
    }
}

/// A second of 1970 by the clock on this machine's wall.
pub fn local(unix_s: u64) -> String {
    let moment =
        i64::try_from(unix_s).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    let zoned = moment.map(|moment| moment.to_zoned_datetime(TimeZone::system()));
    zoned.map_or_else(
        || format!("second {unix_s} of 1970"),
        |zoned| zoned.strftime("%a %Y-%m-%d %H:%M %Z").to_string(),
    )
}

/// A span in the largest unit of which there are two, to the nearest: what was issued for 30 days a
/// moment ago has 30 days left.
fn span(seconds: u64) -> String {
    let units = [
        (86_400 * 365, "year"),
        (86_400 * 30, "month"),
        (86_400, "day"),
        (3_600, "hour"),
        (60, "minute"),
    ];
    let (unit, noun) =
        units.into_iter().find(|(unit, _)| seconds >= 2 * unit).unwrap_or((1, "second"));
    print::counted((seconds + unit / 2) / unit, noun)
}

/// Describes what a token's holder may occupy.
pub fn limits_in_words(limits: TokenLimits) -> String {
    let tasks = (limits.unfinished_tasks_max > 0).then(|| {
        format!("{} at once", print::counted(limits.unfinished_tasks_max, "unfinished task"))
    });
    let payload = (limits.payload_bytes_max > 0)
        .then(|| format!("{} of payload at once", print::bytes(limits.payload_bytes_max)));
    let nested = limits.no_nested.then(|| "no tasks that submit tasks".to_owned());
    match tasks.into_iter().chain(payload).chain(nested).collect::<Vec<_>>() {
        limits if limits.is_empty() => "those of the broker".to_owned(),
        limits => limits.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use furlong_wire::ids::TokenId;
    use furlong_wire::keys::PublicKey;
    use furlong_wire::token::Role;

    use super::*;

    fn at(text: &str) -> ZonedDateTime {
        text.parse().unwrap()
    }

    #[test]
    fn an_expiry_is_a_span_a_day_a_moment_or_never() {
        let now = at("2026-03-01T12:00:00+01:00[+01:00]");
        let seconds =
            |text: &str| u64::try_from(text.parse::<Timestamp>().unwrap().as_second()).unwrap();
        let cases = [
            ("2h", seconds("2026-03-01T13:00:00Z")),
            ("90m", seconds("2026-03-01T12:30:00Z")),
            ("1h30m", seconds("2026-03-01T12:30:00Z")),
            ("30d", seconds("2026-03-31T11:00:00Z")),
            ("2w", seconds("2026-03-15T11:00:00Z")),
            ("2026-12-31", seconds("2026-12-31T23:00:00Z")),
            ("2026-03-01", seconds("2026-03-01T23:00:00Z")),
            ("2026-12-31T18:00", seconds("2026-12-31T17:00:00Z")),
            ("2026-12-31T18:00:00Z", seconds("2026-12-31T18:00:00Z")),
            ("never", Claims::NEVER),
        ];
        for (text, expected) in cases {
            assert_eq!(expiry_from(text, &now), Ok(expected), "{text}");
        }
        for wrong in
            ["", "soon", "2", "h", "2026-13-01", "2026-02-30", "31.12.2026", "1e9d", "99999999y"]
        {
            let error = expiry_from(wrong, &now).unwrap_err();
            assert!(error.contains("is no expiry"), "{wrong}: {error}");
        }
        for past in ["2026-02-28", "0s", "-2h", "2h ago", "1969-12-31", "2026-03-01T11:59"] {
            let error = expiry_from(past, &now).unwrap_err();
            assert!(error.contains("future"), "{past}: {error}");
        }
    }

    #[test]
    fn limits_are_tasks_and_bytes() {
        let of = |unfinished_tasks_max, payload_bytes_max| {
            Ok(TokenLimits { unfinished_tasks_max, payload_bytes_max, no_nested: false })
        };
        assert_eq!(limits("tasks=1000,payload=1G"), of(1000, 1 << 30));
        assert_eq!(limits("payload=512M"), of(0, 512 << 20));
        assert_eq!(limits("payload=5000"), of(0, 5000));
        for wrong in [
            "",
            "tasks",
            "tasks=",
            "tasks=0",
            "tasks=-1",
            "payload=0",
            "payload=1X",
            "cpu=1",
            "tasks=1,tasks=2",
        ] {
            assert!(limits(wrong).is_err(), "{wrong}");
        }
        assert!(limits("payload=99999999999T").is_err(), "more than there are numbers for");
        let words = |text: &str| limits_in_words(limits(text).unwrap());
        assert_eq!(
            words("tasks=1000,payload=1G"),
            "1 000 unfinished tasks at once, 1.0 GiB of payload at once"
        );
        assert_eq!(limits_in_words(TokenLimits::default()), "those of the broker");
    }

    #[test]
    fn labels_are_sorted_and_each_is_there_once() {
        assert_eq!(labels("gpu,big,gpu").unwrap(), ["big", "gpu"]);
        for wrong in ["", "a,,b", " a", "a\nb", &"x".repeat(257)] {
            assert!(labels(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn an_owner_is_new_an_id_or_a_name() {
        let cluster = ClusterId([1; 32]);
        let id = |text: &str| owner(text).unwrap().id(cluster, [7; 16]);
        assert_eq!(id("new"), OwnerId([7; 16]));
        assert_eq!(id("alice"), OwnerId::named(cluster, "alice"));
        assert_eq!(id(&"0a".repeat(16)), OwnerId([0x0a; 16]));
        for wrong in ["", " alice", "a\tb", &"x".repeat(257)] {
            assert!(owner(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn validity_is_told_by_the_clock_on_the_wall() {
        let claims = |not_before_s, expires_s| Claims {
            cluster: ClusterId([1; 32]),
            token_id: TokenId([2; 16]),
            holder: PublicKey([3; 32]),
            owner: OwnerId([4; 16]),
            role: Role::Client,
            scopes: vec![],
            limits: TokenLimits::default(),
            not_before_s,
            expires_s,
        };
        assert_eq!(validity(&claims(1, Claims::NEVER), 5), "does not expire");
        let day = 86_400;
        let words = validity(&claims(1, 40 * day), 8 * day);
        assert!(words.starts_with("good until ") && words.ends_with("(in 32 days)"), "{words}");
        let words = validity(&claims(1, 40 * day), 41 * day);
        assert!(words.starts_with("expired ") && words.ends_with("(24 hours ago)"), "{words}");
        assert!(validity(&claims(10 * day, Claims::NEVER), day).ends_with("(in 9 days)"));
        assert_eq!(
            [1, 119, 120, 7_199, 86_400 * 30 - 1, 86_400 * 800].map(span),
            ["1 second", "119 seconds", "2 minutes", "120 minutes", "30 days", "2 years"]
        );
    }
}
