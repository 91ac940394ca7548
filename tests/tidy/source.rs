//! The kinds of characters in a Rust or Python file: code, comment or the inside of a string.
//!
//! Not a parser: enough of one to count braces and find names without being fooled by a comment or
//! a string.

use std::ops::Range;

/// A file's characters, each known for what it is. Lines count from 1, positions are in characters.
pub struct Source {
    /// The text as it is.
    pub chars: Vec<char>,
    /// The text with a space for everything that is not code. Quotation marks are code, what they
    /// enclose is not.
    pub code: Vec<char>,
    /// The kind of each character.
    pub kinds: Vec<Kind>,
    /// The offset at which each line begins.
    line_starts: Vec<usize>,
    /// Lines of `#[cfg(test)]` items (Rust).
    test_lines: Vec<Range<usize>>,
}

/// The kind of a character.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Code,
    Comment,
    /// Inside a string or character literal.
    Text,
}

/// A function and the lines that it takes.
#[derive(Debug, PartialEq, Eq)]
pub struct Function {
    pub name: String,
    pub line: usize,
    pub lines: usize,
}

impl Source {
    /// Of a Rust file.
    pub fn rust(text: &str) -> Self {
        let mut source = Self::new(text, rust_kinds);
        source.test_lines =
            source.find("#[cfg(test)]").map(|at| source.item_lines(at + 12)).collect();
        source
    }

    /// Of a Python file.
    pub fn python(text: &str) -> Self {
        Self::new(text, python_kinds)
    }

    fn new(text: &str, scan: fn(&[char]) -> Vec<Kind>) -> Self {
        let chars: Vec<char> = text.chars().collect();
        let kinds = scan(&chars);
        let masked = |(char, kind): (&char, &Kind)| {
            if *kind == Kind::Code || *char == '\n' { *char } else { ' ' }
        };
        let code = chars.iter().zip(&kinds).map(masked).collect();
        let line_starts = std::iter::once(0)
            .chain((1..=chars.len()).filter(|at| chars[at - 1] == '\n'))
            .collect();
        Self { chars, code, kinds, line_starts, test_lines: Vec::new() }
    }

    /// The line of a position.
    pub fn line_of(&self, at: usize) -> usize {
        self.line_starts.partition_point(|start| *start <= at)
    }

    /// Positions of each line, from line 1 on, without the line's end.
    pub fn lines(&self) -> impl Iterator<Item = Range<usize>> {
        let ends = self.line_starts.iter().skip(1).map(|next| next - 1).chain([self.chars.len()]);
        self.line_starts.iter().copied().zip(ends).map(|(start, end)| start..end)
    }

    /// Returns true if the line belongs to a `#[cfg(test)]` item.
    pub fn is_test_line(&self, line: usize) -> bool {
        self.test_lines.iter().any(|lines| lines.contains(&line))
    }

    /// The offsets of the pattern in the code.
    pub fn find<'a>(&'a self, pattern: &'a str) -> impl Iterator<Item = usize> {
        let pattern: Vec<char> = pattern.chars().collect();
        (0..self.code.len()).filter(move |at| self.code[*at..].starts_with(&pattern))
    }

    /// The offsets of the path in the code, as whole words: `rand::` is in `rand::rng()` but not in
    /// `operand::new()`.
    pub fn find_path<'a>(&'a self, path: &'a str) -> impl Iterator<Item = usize> {
        let ends_in_word = path.ends_with(is_word);
        self.find(path).filter(move |at| {
            let before = at.checked_sub(1).map(|before| self.code[before]);
            let after = self.code.get(at + path.chars().count());
            !(before.is_some_and(is_word)
                || ends_in_word && after.is_some_and(|char| is_word(*char)))
        })
    }

    /// The first position from `at` on that is not white space, in the code.
    pub fn skip_space(&self, at: usize) -> usize {
        (at..self.code.len()).find(|at| !self.code[*at].is_whitespace()).unwrap_or(self.code.len())
    }

    /// The identifier at the position, perhaps empty.
    pub fn word_at(&self, at: usize) -> String {
        self.code[at.min(self.code.len())..].iter().take_while(|char| is_word(**char)).collect()
    }

    /// The functions of a Rust file, from `fn` to the closing brace. Declarations without a body
    /// are none.
    pub fn rust_functions(&self) -> Vec<Function> {
        let mut functions = Vec::new();
        for at in self.find_path("fn") {
            let name = self.word_at(self.skip_space(at + 2));
            let Some(open) = self.body_start(at).filter(|_| !name.is_empty()) else { continue };
            let line = self.line_of(at);
            functions.push(Function {
                name,
                line,
                lines: self.line_of(self.closing(open)) + 1 - line,
            });
        }
        functions
    }

    /// The functions of a Python file, from `def` to the last line that is indented deeper,
    /// docstrings not counted.
    pub fn python_functions(&self) -> Vec<Function> {
        let lines: Vec<_> = self.lines().collect();
        let depths = self.bracket_depths();
        // A line begins code of its own unless it continues a string or a bracket, or is empty.
        let indent = |line: &Range<usize>| {
            let first = self.skip_space(line.start);
            let continues = line.start > 0 && self.kinds[line.start - 1] == Kind::Text;
            (first < line.end && !continues && depths[line.start] == 0).then(|| first - line.start)
        };
        let in_text =
            |line: &Range<usize>| line.start > 0 && self.kinds[line.start - 1] == Kind::Text;
        let mut functions = Vec::new();
        for at in self.find_path("def") {
            let first = self.line_of(at) - 1;
            let Some(own_indent) = indent(&lines[first]) else { continue };
            let rest = lines[first + 1..].iter();
            let body: Vec<_> = rest
                .take_while(|line| indent(line).is_none_or(|deeper| deeper > own_indent))
                .collect();
            let filled = body
                .iter()
                .rposition(|line| self.skip_space(line.start) < line.end)
                .map_or(0, |last| last + 1);
            let counted = body[..filled].iter().filter(|line| !in_text(line)).count();
            let name = self.word_at(self.skip_space(at + 3));
            functions.push(Function { name, line: first + 1, lines: 1 + counted });
        }
        functions
    }

    /// Returns the number of open brackets before each character.
    fn bracket_depths(&self) -> Vec<usize> {
        let mut depth = 0_usize;
        let step = |char: &char| {
            let before = depth;
            match char {
                '(' | '[' | '{' => depth += 1,
                ')' | ']' | '}' => depth = depth.saturating_sub(1),
                _ => {}
            }
            before
        };
        let mut depths: Vec<usize> = self.code.iter().map(step).collect();
        depths.push(0);
        depths
    }

    /// The opening brace of the item at the position; `None` if a semicolon ends it before.
    pub fn body_start(&self, at: usize) -> Option<usize> {
        let mut depth = 0_usize;
        for (at, char) in self.code.iter().enumerate().skip(at) {
            match char {
                '(' | '[' => depth += 1,
                ')' | ']' => depth = depth.saturating_sub(1),
                '{' if depth == 0 => return Some(at),
                ';' if depth == 0 => return None,
                _ => {}
            }
        }
        None
    }

    /// The brace that closes the one at the position, or the end of the file.
    pub fn closing(&self, open: usize) -> usize {
        let mut depth = 0_usize;
        for (at, char) in self.code.iter().enumerate().skip(open) {
            match char {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                return at;
            }
        }
        self.code.len().saturating_sub(1)
    }

    /// Lines of the item that follows an attribute.
    fn item_lines(&self, at: usize) -> Range<usize> {
        let end = self.body_start(at).map(|open| self.closing(open));
        let end = end.or_else(|| (at..self.code.len()).find(|at| self.code[*at] == ';'));
        self.line_of(at)..end.map_or(usize::MAX, |end| self.line_of(end) + 1)
    }
}

/// Returns true if the character can stand in an identifier.
pub fn is_word(char: char) -> bool {
    char.is_alphanumeric() || char == '_'
}

fn rust_kinds(chars: &[char]) -> Vec<Kind> {
    let mut scanner = Scanner::new(chars);
    scanner.rust();
    scanner.kinds
}

fn python_kinds(chars: &[char]) -> Vec<Kind> {
    let mut scanner = Scanner::new(chars);
    scanner.python();
    scanner.kinds
}

/// Goes through a file once and marks what is not code.
struct Scanner<'a> {
    chars: &'a [char],
    kinds: Vec<Kind>,
    at: usize,
}

impl<'a> Scanner<'a> {
    fn new(chars: &'a [char]) -> Self {
        Self { chars, kinds: vec![Kind::Code; chars.len()], at: 0 }
    }

    fn rust(&mut self) {
        while self.at < self.chars.len() {
            match self.chars[self.at] {
                '/' if self.peek(1) == Some('/') => self.line_comment(),
                '/' if self.peek(1) == Some('*') => self.block_comment(),
                '"' => self.string(&['"'], true),
                'r' if !self.is_inside_word() => self.raw_string(),
                '\'' if self.peek(1) == Some('\\') || self.peek(2) == Some('\'') => {
                    self.string(&['\''], true);
                }
                _ => self.at += 1,
            }
        }
    }

    fn python(&mut self) {
        while self.at < self.chars.len() {
            match self.chars[self.at] {
                '#' => self.line_comment(),
                quote @ ('"' | '\'') => {
                    let is_triple = self.peek(1) == Some(quote) && self.peek(2) == Some(quote);
                    self.string(&[quote; 3][..if is_triple { 3 } else { 1 }], true);
                }
                _ => self.at += 1,
            }
        }
    }

    fn peek(&self, ahead: usize) -> Option<char> {
        self.chars.get(self.at + ahead).copied()
    }

    /// True if the `r` here ends or continues a word that is no prefix of a string: `br` and `cr`
    /// are prefixes, `for` is not.
    fn is_inside_word(&self) -> bool {
        let before = |count: usize| self.at.checked_sub(count).map(|at| self.chars[at]);
        match before(1) {
            Some('b' | 'c') => before(2).is_some_and(is_word),
            other => other.is_some_and(is_word),
        }
    }

    fn line_comment(&mut self) {
        while self.peek(0).is_some_and(|char| char != '\n') {
            self.mark(1, Kind::Comment);
        }
    }

    fn block_comment(&mut self) {
        let mut depth = 0;
        while self.at < self.chars.len() {
            match (self.peek(0), self.peek(1)) {
                (Some('/'), Some('*')) => depth += 1,
                (Some('*'), Some('/')) => depth -= 1,
                _ => {
                    self.mark(1, Kind::Comment);
                    continue;
                }
            }
            self.mark(2, Kind::Comment);
            if depth == 0 {
                return;
            }
        }
    }

    /// From an `r` on: `r"..."`, `r#"..."#`, or only a letter.
    fn raw_string(&mut self) {
        let hashes = self.chars[self.at + 1..].iter().take_while(|char| **char == '#').count();
        if self.peek(1 + hashes) != Some('"') {
            self.at += 1;
            return;
        }
        let end: Vec<char> = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
        self.at += 1 + hashes + 1;
        self.text_until(&end, false);
    }

    fn string(&mut self, end: &[char], has_escapes: bool) {
        self.at += end.len();
        self.text_until(end, has_escapes);
    }

    fn text_until(&mut self, end: &[char], has_escapes: bool) {
        while self.at < self.chars.len() && !self.chars[self.at..].starts_with(end) {
            let is_escape = has_escapes && self.chars[self.at] == '\\';
            self.mark(if is_escape { 2 } else { 1 }, Kind::Text);
        }
        self.at = (self.at + end.len()).min(self.chars.len());
    }

    fn mark(&mut self, count: usize, kind: Kind) {
        let end = (self.at + count).min(self.chars.len());
        self.kinds[self.at..end].fill(kind);
        self.at = end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(source: &Source) -> String {
        source.code.iter().collect()
    }

    #[test]
    fn rust_comments_and_strings_are_no_code() {
        let text = r##"f("a{\"b", r#"}"c"#, b"x", '{', '\'', 'x', &'a str) /* { /* */ */ // }"##;
        let expected = r##"f("     ", r#"   "#, b" ", ' ', '  ', ' ', &'a str)"##;
        assert_eq!(code(&Source::rust(text)).trim_end(), expected);
        assert_eq!(code(&Source::rust("for\"x\"")), "for\" \"");
    }

    #[test]
    fn python_comments_and_strings_are_no_code() {
        let text = "x = 'a#\\'b' # c\n'''d\n\"e'''\n";
        assert_eq!(code(&Source::python(text)), "x = '     '    \n''' \n  '''\n");
    }

    #[test]
    fn rust_functions_have_their_lines() {
        let text = "fn a(x: [u8; 2]) {\n    if b { '}' }\n}\n\
                    trait T {\n    fn none(&self);\n    fn one() {}\n}\n";
        let functions: Vec<_> = Source::rust(text)
            .rust_functions()
            .into_iter()
            .map(|f| (f.name, f.line, f.lines))
            .collect();
        assert_eq!(functions, [("a".into(), 1, 3), ("one".into(), 6, 1)]);
    }

    #[test]
    fn python_functions_have_their_lines_without_docstrings() {
        let text = "def a(\n  x,\n):\n  '''One.\n\nTwo.\n'''\n  return [\n1]\n\n\n\
                    class B:\n  def c(self):\n    pass\n";
        let functions: Vec<_> = Source::python(text)
            .python_functions()
            .into_iter()
            .map(|f| (f.name, f.line, f.lines))
            .collect();
        assert_eq!(functions, [("a".into(), 1, 6), ("c".into(), 13, 2)]);
    }

    #[test]
    fn test_items_have_their_lines() {
        let source =
            Source::rust("fn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() {}\n}\nfn c() {}\n");
        let lines: Vec<_> = (1..=6).filter(|line| source.is_test_line(*line)).collect();
        assert_eq!(lines, [2, 3, 4, 5]);
    }
}
