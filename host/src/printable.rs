//! Text from elsewhere, made fit for a terminal and for a log.
//!
//! A peer's text may hold what moves a cursor, renames a window, hides other text, or ends the line
//! and begins one that looks like ours. Here it becomes what it is, in the form that JSON has for
//! it: `\u001b`, `\n`.

use std::borrow::Cow;
use std::fmt::Write;

/// Text that stays on one line: whatever is not printable is escaped, newlines too. Tabs stay.
pub fn line(text: &str) -> Cow<'_, str> {
    escaped(text, |char| char == '\t' || !has_effect(char))
}

/// Text of several lines: the same, but newlines stay.
pub fn lines(text: &str) -> Cow<'_, str> {
    escaped(text, |char| matches!(char, '\t' | '\n') || !has_effect(char))
}

fn escaped(text: &str, is_fit: impl Fn(char) -> bool) -> Cow<'_, str> {
    if text.chars().all(&is_fit) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for char in text.chars() {
        match char {
            char if is_fit(char) => out.push(char),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            char => _ = write!(out, "\\u{:04x}", u32::from(char)),
        }
    }
    Cow::Owned(out)
}

/// Returns true if a character acts instead of being seen: control characters (C0, DEL and C1), the
/// separators of lines and paragraphs, and those that turn the direction of text (Unicode's
/// `Bidi_Control`). All have four digits.
fn has_effect(char: char) -> bool {
    let turns = matches!(
        char,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    );
    char.is_control() || turns || matches!(char, '\u{2028}' | '\u{2029}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_seen_stays_as_it_is() {
        for text in ["", "engine 3: 7 µs", "naïve 数字 🦀", "a\tb", "back\\slash"] {
            assert!(matches!(line(text), Cow::Borrowed(same) if same == text), "{text}");
            assert_eq!(lines(text), text);
        }
        assert_eq!(lines("one\ntwo\n"), "one\ntwo\n");
    }

    #[test]
    fn what_has_an_effect_is_escaped_as_json_does_it() {
        for (text, shown) in [
            ("\x1b]0;x\x07", "\\u001b]0;x\\u0007"),
            ("a\r\nb", "a\\r\\nb"),
            ("\0\x7f\u{9b}31m", "\\u0000\\u007f\\u009b31m"),
            ("\u{202e}\u{2066}\u{200f}\u{61c}\u{2028}", "\\u202e\\u2066\\u200f\\u061c\\u2028"),
        ] {
            assert_eq!(line(text), shown);
        }
        assert_eq!(lines("a\r\n\x1b[2Jb"), "a\\r\n\\u001b[2Jb");
    }
}
