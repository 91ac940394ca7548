//! Selectors: how tasks are named on the command line.
//!
//! `last` is the newest session that has kept tasks, or such as will be kept; `k3f9a2` is a
//! session, by the six characters that a submit prints. Numbers follow a colon: `k3f9a2:17`,
//! `k3f9a2:1-10`. Alone they are of `last`: `17`, `1-10`. A comma adds more:
//! `k3f9a2:1-10,15,last:3`, where numbers alone are of the session before them.

use std::fmt;
use std::str::FromStr;

use furlong_client::TaskSeq;
use furlong_wire::message::TaskQuery;

/// The characters of a session's short name, as the wire has them.
const ALPHABET: &str = "0123456789abcdefghjkmnpqrstvwxyz";
/// The number of them in a name.
const NAME_CHARACTERS: usize = 6;
const FORMS: &str = "tasks are named as `last`, `k3f9a2`, `k3f9a2:17`, `k3f9a2:1-10`, `17` or \
                     `1-10` (of `last`), several with commas";

/// Tasks, by session and number.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Selector {
    /// At least one.
    pub parts: Vec<Part>,
}

/// Tasks of one session.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Part {
    /// The session.
    pub session: Session,
    /// First and last number; none for all.
    pub range: Option<(TaskSeq, TaskSeq)>,
}

/// A session, as people name it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Session {
    /// The newest one that has kept tasks.
    Last,
    /// By its short name.
    Named(String),
}

impl Part {
    /// The question to the broker for these tasks.
    pub fn query(&self) -> TaskQuery {
        let (first, last) = self.range.unzip();
        let session = match &self.session {
            Session::Last => None,
            Session::Named(name) => Some(name.clone()),
        };
        TaskQuery {
            newest_session: session.is_none(),
            session,
            first,
            last,
            ..TaskQuery::default()
        }
    }
}

impl FromStr for Selector {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut session = Session::Last;
        let mut parts = Vec::new();
        for part in text.split(',') {
            let part = read_part(part, &session).ok_or_else(|| format!("`{part}`: {FORMS}"))?;
            session = part.session.clone();
            parts.push(part);
        }
        Ok(Self { parts })
    }
}

/// Reads a part; numbers alone are of the session before it.
fn read_part(text: &str, before: &Session) -> Option<Part> {
    if let Some((name, numbers)) = text.split_once(':') {
        let session = read_session(name)?;
        let range = if numbers == "*" { None } else { Some(read_range(numbers)?) };
        return Some(Part { session, range });
    }
    match read_range(text) {
        Some(range) => Some(Part { session: before.clone(), range: Some(range) }),
        None => Some(Part { session: read_session(text)?, range: None }),
    }
}

fn read_session(name: &str) -> Option<Session> {
    let is_name = name.len() == NAME_CHARACTERS && name.chars().all(|it| ALPHABET.contains(it));
    match name {
        "last" => Some(Session::Last),
        name => is_name.then(|| Session::Named(name.to_owned())),
    }
}

fn read_range(text: &str) -> Option<(TaskSeq, TaskSeq)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    // `u64` itself would take `+1`.
    let number = |text: &str| {
        text.bytes().all(|it| it.is_ascii_digit()).then(|| text.parse().ok().map(TaskSeq)).flatten()
    };
    let is_range = |(first, last): &(TaskSeq, TaskSeq)| (TaskSeq::FIRST..=*last).contains(first);
    number(first).zip(number(last)).filter(is_range)
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, part) in self.parts.iter().enumerate() {
            if place > 0 {
                f.write_str(",")?;
            }
            part.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.session {
            Session::Last => f.write_str("last")?,
            Session::Named(name) => f.write_str(name)?,
        }
        match self.range {
            None if self.session == Session::Last => Ok(()),
            // A name of digits alone would be read as a number.
            None => f.write_str(":*"),
            Some((first, last)) if first == last => write!(f, ":{first}"),
            Some((first, last)) => write!(f, ":{first}-{last}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn part(session: &str, range: Option<(u64, u64)>) -> Part {
        let session =
            if session == "last" { Session::Last } else { Session::Named(session.to_owned()) };
        Part { session, range: range.map(|(first, last)| (TaskSeq(first), TaskSeq(last))) }
    }

    #[test]
    fn tasks_are_named_by_session_and_number() {
        for (text, expected) in [
            ("last", vec![part("last", None)]),
            ("k3f9a2", vec![part("k3f9a2", None)]),
            ("k3f9a2:17", vec![part("k3f9a2", Some((17, 17)))]),
            ("k3f9a2:1-10", vec![part("k3f9a2", Some((1, 10)))]),
            ("1-10", vec![part("last", Some((1, 10)))]),
            ("17", vec![part("last", Some((17, 17)))]),
            ("123456", vec![part("last", Some((123_456, 123_456)))]),
            ("123456:*", vec![part("123456", None)]),
            ("last:3", vec![part("last", Some((3, 3)))]),
            ("k3f9a2:1,3", vec![part("k3f9a2", Some((1, 1))), part("k3f9a2", Some((3, 3)))]),
            (
                "7,k3f9a2,2",
                vec![
                    part("last", Some((7, 7))),
                    part("k3f9a2", None),
                    part("k3f9a2", Some((2, 2))),
                ],
            ),
        ] {
            assert_eq!(text.parse::<Selector>().unwrap().parts, expected, "{text}");
        }
    }

    #[test]
    fn what_names_nothing_is_refused_in_one_line() {
        for wrong in [
            "",
            ",",
            "1,",
            "0",
            "3-1",
            "-1",
            "1-",
            "+1",
            "k3f9a",
            "k3f9a2:",
            "k3f9a2:x",
            "K3F9A2",
            "LAST",
            "1:2",
            "k3f9a2:1:2",
            "k3f9ai",
            "k3f9a2 ",
            "99999999999999999999",
            "last:0-3",
            "é3f9a2",
        ] {
            let error = wrong.parse::<Selector>().unwrap_err();
            assert!(error.contains("`last`") && error.lines().count() == 1, "{wrong}: {error}");
        }
    }

    #[test]
    fn a_query_says_what_the_part_says() {
        let query = part("last", Some((2, 5))).query();
        assert!(query.newest_session && query.session.is_none());
        assert_eq!((query.first, query.last), (Some(TaskSeq(2)), Some(TaskSeq(5))));
        let query = part("k3f9a2", None).query();
        assert_eq!(
            (query.newest_session, query.session.as_deref(), query.first),
            (false, Some("k3f9a2"), None)
        );
    }

    fn any_part() -> impl Strategy<Value = Part> {
        let session = prop_oneof![Just("last".to_owned()), "[0-9a-hjkmnp-tv-z]{6}"];
        let range = prop::option::of((1..u64::MAX, 0..1000_u64));
        (session, range).prop_map(|(session, range)| {
            part(&session, range.map(|(first, more)| (first, first.saturating_add(more))))
        })
    }

    proptest! {
        /// A printed selector reads back as the same.
        #[test]
        fn a_selector_survives_the_round_trip(parts in prop::collection::vec(any_part(), 1..6)) {
            let selector = Selector { parts };
            prop_assert_eq!(selector.to_string().parse::<Selector>(), Ok(selector));
        }

        /// Whatever is typed is read or refused, and what is read is sound.
        #[test]
        fn nothing_that_is_typed_breaks_it(text in "[ -~é]{0,24}|[0-9a-z:,*-]{0,24}") {
            if let Ok(selector) = text.parse::<Selector>() {
                prop_assert!(!selector.parts.is_empty());
                for part in selector.parts {
                    let (first, last) = part.range.unwrap_or((TaskSeq::FIRST, TaskSeq::FIRST));
                    prop_assert!(TaskSeq::FIRST <= first && first <= last);
                }
            }
        }
    }
}
