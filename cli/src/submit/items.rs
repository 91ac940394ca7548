//! The source of a submit's tasks: one, an array of numbers, the lines of a file, or JSON items.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use furlong_wire::limits::UNFINISHED_TASKS_MAX;
use furlong_wire::os_text::OsText;
use serde::Deserializer as _;
use serde::de::{SeqAccess, Visitor};
use serde_json::value::RawValue;
use tokio::sync::mpsc;

/// Bytes of an item: Linux takes no longer string in the environment (`MAX_ARG_STRLEN`), and the
/// name is part of it.
const ITEM_BYTES_MAX: usize = 128 * 1024 - "FURLONG_ITEM=".len() - 1;
/// Items that are read ahead.
const READ_AHEAD: usize = 64;

/// The parts of one task.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Item {
    /// The array's number, or the item's place from 1: `FURLONG_TASK`.
    pub number: u64,
    /// The line or the JSON item: `FURLONG_ITEM`.
    pub text: Option<OsText>,
}

/// The numbers of `--array`: spans that rise.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Array {
    spans: Vec<Span>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Span {
    first: u64,
    last: u64,
    step: u64,
}

impl Span {
    fn len(self) -> u64 {
        (self.last - self.first) / self.step + 1
    }

    fn numbers(self) -> impl Iterator<Item = u64> + Send {
        (0..self.len()).map(move |place| self.first + place * self.step)
    }
}

/// Reads `1-100`, `0-90:10`, `7` or `1,4,10-20:2`.
///
/// # Errors
/// The problem with it, for the usage message.
pub fn array(text: &str) -> Result<Array, String> {
    let mut spans: Vec<Span> = Vec::new();
    let mut tasks = 0_u64;
    for part in text.split(',') {
        let span = span(part).ok_or_else(|| {
            format!("`{part}`: numbers are `1-100`, `0-90:10`, `7` or `1,4,10-20:2`")
        })?;
        if let Some(before) = spans.last().filter(|before| before.last >= span.first) {
            return Err(format!(
                "`{part}` comes after {}: the numbers of an array rise",
                before.last
            ));
        }
        tasks = tasks.saturating_add(span.len());
        spans.push(span);
    }
    if tasks > UNFINISHED_TASKS_MAX {
        return Err(format!(
            "an array has at most {UNFINISHED_TASKS_MAX} tasks, and this one {tasks}"
        ));
    }
    Ok(Array { spans })
}

fn span(text: &str) -> Option<Span> {
    let number = |text: &str| {
        text.bytes().all(|it| it.is_ascii_digit()).then(|| text.parse::<u64>().ok()).flatten()
    };
    let (range, step) = text.split_once(':').unwrap_or((text, "1"));
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let span = Span { first: number(first)?, last: number(last)?, step: number(step)? };
    // A number alone has no step, and the last number of all is no end: what comes after it could
    // not be said.
    let is_sound = span.first <= span.last && span.step > 0 && span.last < u64::MAX;
    (is_sound && (range.contains('-') || !text.contains(':'))).then_some(span)
}

/// The items, one after the other.
pub enum Items {
    /// Numbers that are known.
    Numbers(Box<dyn Iterator<Item = u64> + Send>, u64),
    /// Items that a thread reads.
    Read(mpsc::Receiver<Result<Item>>),
}

impl Items {
    /// One task.
    pub fn one() -> Self {
        Self::Numbers(Box::new(std::iter::once(1)), 1)
    }

    /// One task for each number.
    pub fn array(array: Array) -> Self {
        let tasks = array.spans.iter().map(|span| span.len()).sum();
        Self::Numbers(Box::new(array.spans.into_iter().flat_map(Span::numbers)), tasks)
    }

    /// One task for each line of a file, or of standard input if its name is `-`.
    pub fn lines(path: &Path) -> Result<Self> {
        let (name, input) = open(path)?;
        Ok(Self::read(move |items| send_lines(&name, input, items)))
    }

    /// One task for each element of the JSON array in a file, or for each of its documents.
    pub fn json(path: &Path) -> Result<Self> {
        let (name, input) = open(path)?;
        Ok(Self::read(move |items| send_json(&name, input, items)))
    }

    /// The number of items, if that is known.
    pub fn total(&self) -> Option<u64> {
        match self {
            Self::Numbers(_, total) => Some(*total),
            Self::Read(_) => None,
        }
    }

    /// The next one.
    pub async fn next(&mut self) -> Option<Result<Item>> {
        match self {
            Self::Numbers(numbers, _) => {
                numbers.next().map(|number| Ok(Item { number, text: None }))
            }
            Self::Read(items) => items.recv().await,
        }
    }

    /// Reads on a thread: standard input may block as long as it likes, and a thread does not keep
    /// the process.
    fn read(send: impl FnOnce(&Sender) -> Result<()> + Send + 'static) -> Self {
        let (sender, receiver) = mpsc::channel(READ_AHEAD);
        std::thread::spawn(move || {
            let sender = Sender(sender);
            if let Err(error) = send(&sender) {
                // If nobody listens any longer, nobody wants to know.
                let _ = sender.0.blocking_send(Err(error));
            }
        });
        Self::Read(receiver)
    }
}

/// The channel into which a reading thread puts its items.
struct Sender(mpsc::Sender<Result<Item>>);

impl Sender {
    /// Hands an item over. False if nobody wants more.
    fn send(&self, number: u64, text: OsText) -> Result<bool> {
        ensure_fits(number, text.len())?;
        ensure!(
            !text.as_bytes().contains(&0),
            "item {number} has a zero byte in it, which a variable cannot hold"
        );
        Ok(self.0.blocking_send(Ok(Item { number, text: Some(text) })).is_ok())
    }
}

fn ensure_fits(number: u64, bytes: usize) -> Result<()> {
    ensure!(
        bytes <= ITEM_BYTES_MAX,
        "item {number} is longer than the {ITEM_BYTES_MAX} bytes that a variable takes; put it into a file and name that"
    );
    Ok(())
}

type Input = BufReader<Box<dyn Read + Send>>;

fn open(path: &Path) -> Result<(PathBuf, Input)> {
    if path == Path::new("-") {
        return Ok(("standard input".into(), BufReader::new(Box::new(io::stdin()))));
    }
    let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok((path.to_owned(), BufReader::new(Box::new(file))))
}

fn send_lines(name: &Path, mut input: Input, items: &Sender) -> Result<()> {
    let name = name.display();
    // One byte more than the longest item and its line's end tells that a line is too long, and no
    // memory is lost to it.
    let most = ITEM_BYTES_MAX as u64 + 3;
    for number in 1.. {
        let mut line = Vec::new();
        let read = (&mut input).take(most).read_until(b'\n', &mut line);
        if read.with_context(|| format!("cannot read {name}"))? == 0 {
            return Ok(());
        }
        if line.ends_with(b"\n") {
            line.pop();
            line.pop_if(|last| *last == b'\r');
        }
        ensure_fits(number, line.len())?;
        if !items.send(number, OsText::from_bytes(line))? {
            return Ok(());
        }
    }
    Ok(())
}

fn send_json(name: &Path, mut input: Input, items: &Sender) -> Result<()> {
    let name = name.display();
    let wrong = |error: serde_json::Error| anyhow!("{name} is no JSON of items: {error}");
    let is_array =
        first_byte(&mut input).with_context(|| format!("cannot read {name}"))? == Some(b'[');
    let mut failed = None;
    if is_array {
        let mut documents = serde_json::Deserializer::from_reader(input);
        let outcome = documents.deserialize_seq(Each { items, failed: &mut failed });
        if let Some(error) = failed {
            return Err(error);
        }
        if outcome.map_err(wrong)? {
            documents.end().map_err(wrong)?;
        }
        return Ok(());
    }
    for (number, document) in
        (1..).zip(serde_json::Deserializer::from_reader(input).into_iter::<Box<RawValue>>())
    {
        let document = document.map_err(wrong)?;
        if document.get().starts_with('[') {
            bail!(
                "{name} has an array among its documents: put all items into one array, or each on a line of its own"
            );
        }
        if !items.send(number, text_of(&document)?)? {
            break;
        }
    }
    Ok(())
}

/// The first byte that is not white space, which is passed over.
fn first_byte(input: &mut Input) -> io::Result<Option<u8>> {
    loop {
        let buffered = input.fill_buf()?;
        if buffered.is_empty() {
            return Ok(None);
        }
        let blanks = buffered.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        let first = buffered.get(blanks).copied();
        input.consume(blanks);
        if first.is_some() {
            return Ok(first);
        }
    }
}

/// A string as it is, everything else as compact JSON, with its numbers as they are written.
fn text_of(value: &RawValue) -> Result<OsText> {
    let text = value.get();
    if text.starts_with('"') {
        return Ok(serde_json::from_str::<String>(text)
            .context("an item is a string that is not sound")?
            .into());
    }
    Ok(compact(text).into())
}

/// JSON without the white space between its parts.
fn compact(json: &str) -> String {
    let (mut is_in_string, mut is_escaped) = (false, false);
    let is_part = |it: &char| {
        if is_in_string {
            is_in_string = is_escaped || *it != '"';
            is_escaped = !is_escaped && *it == '\\';
            return true;
        }
        is_in_string = *it == '"';
        !it.is_ascii_whitespace()
    };
    json.chars().filter(is_part).collect()
}

/// Hands over the elements of an array as they are read. True if all of them were wanted.
struct Each<'a> {
    items: &'a Sender,
    failed: &'a mut Option<anyhow::Error>,
}

impl<'de> Visitor<'de> for Each<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of items")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<bool, A::Error> {
        for number in 1.. {
            let Some(value) = elements.next_element::<Box<RawValue>>()? else { return Ok(true) };
            match text_of(&value).and_then(|text| self.items.send(number, text)) {
                Ok(true) => {}
                Ok(false) => return Ok(false),
                Err(error) => {
                    *self.failed = Some(error);
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(text: &str) -> Vec<u64> {
        let Items::Numbers(numbers, total) = Items::array(array(text).unwrap()) else {
            panic!("numbers")
        };
        let numbers: Vec<u64> = numbers.collect();
        assert_eq!(numbers.len() as u64, total, "{text}");
        numbers
    }

    fn read(
        text: &str,
        send: impl FnOnce(&Path, Input, &Sender) -> Result<()> + Send + 'static,
    ) -> Vec<Result<Item>> {
        read_bytes(text.as_bytes(), send)
    }

    fn read_bytes(
        bytes: &[u8],
        send: impl FnOnce(&Path, Input, &Sender) -> Result<()> + Send + 'static,
    ) -> Vec<Result<Item>> {
        let input: Input = BufReader::new(Box::new(io::Cursor::new(bytes.to_vec())));
        let Items::Read(mut items) =
            Items::read(move |items| send(Path::new("items"), input, items))
        else {
            panic!("a reader")
        };
        std::iter::from_fn(|| items.blocking_recv()).collect()
    }

    fn texts(items: Vec<Result<Item>>) -> Vec<(u64, String)> {
        items
            .into_iter()
            .map(Result::unwrap)
            .map(|item| (item.number, item.text.unwrap().to_text()))
            .collect()
    }

    fn owned(texts: &[&str]) -> Vec<(u64, String)> {
        (1..).zip(texts.iter().map(ToString::to_string)).collect()
    }

    #[test]
    fn an_array_is_numbers_and_spans_that_rise() {
        assert_eq!(numbers("1-4"), [1, 2, 3, 4]);
        assert_eq!(numbers("0-9:4"), [0, 4, 8]);
        assert_eq!(numbers("7"), [7]);
        assert_eq!(numbers("1,4,10-14:2"), [1, 4, 10, 12, 14]);
        for wrong in [
            "",
            "x",
            "3-1",
            "1-5:0",
            "7:2",
            "1-",
            "-1",
            "1,1",
            "5,1-3",
            "1-4,4",
            "0-18446744073709551615",
            "1-10000001",
            "1 - 3",
            "+1",
        ] {
            assert!(array(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn each_line_is_an_item_whatever_is_on_it() {
        assert_eq!(texts(read("a\n\n b c \r\nd", send_lines)), owned(&["a", "", " b c ", "d"]));
        assert!(read("", send_lines).is_empty());
        let latin = read_bytes(b"caf\xe9\n", send_lines).pop().unwrap().unwrap();
        assert_eq!(latin.text.unwrap().as_bytes(), b"caf\xe9");
        let long = "x".repeat(ITEM_BYTES_MAX);
        assert_eq!(texts(read(&format!("{long}\n"), send_lines)), owned(&[&long]));
        let error = read(&format!("{long}x\n"), send_lines).pop().unwrap().unwrap_err();
        assert!(error.to_string().contains("item 1 is longer than"), "{error}");
    }

    #[test]
    fn json_items_are_an_array_or_documents() {
        let expected = owned(&["a b", "1", r#"{"x":[1,2]}"#, "null"]);
        assert_eq!(texts(read(r#" ["a b", 1, {"x": [1, 2]}, null] "#, send_json)), expected);
        assert_eq!(texts(read("\"a b\" 1\n{\"x\": [1, 2]}\nnull", send_json)), expected);
        assert!(read("", send_json).is_empty() && read("[]", send_json).is_empty());
        let as_written =
            ["12345678901234567890123", "1.10", "1e2", "-0.0", r#"{"b":1.50,"a":" \" \\"}"#];
        let array = r#"[12345678901234567890123, 1.10 ,1e2,-0.0, {"b": 1.50,\n "a": " \" \\" }]"#
            .replace("\\n", "\n");
        assert_eq!(texts(read(&array, send_json)), owned(&as_written));
        assert_eq!(
            texts(read(
                &array[1..array.len() - 1].replace(',', "\n").replace("1.50\n", "1.50,"),
                send_json
            ))
            .len(),
            5
        );
        for wrong in ["[1", "[1] 2", "[1,]", "1 [2]", "{", "\"\\u0000\"", "nope"] {
            let last = read(wrong, send_json).pop().unwrap();
            let error = last.expect_err(wrong).to_string();
            assert_eq!(error.lines().count(), 1, "{error}");
        }
    }
}
