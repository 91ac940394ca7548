//! Tables that fit their place: the columns that come last give way first.

use std::cmp::Ordering;

use furlong_host::printable;
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};

use super::cursor::{Cursor, Row};

/// A cell: what is shown, and by what it is sorted.
#[derive(Clone, Debug)]
pub struct Cell {
    text: String,
    key: Key,
    is_marked: bool,
}

#[derive(Clone, Debug)]
enum Key {
    Number(f64),
    Text,
}

impl Cell {
    /// A name, which may come from elsewhere.
    pub fn text(text: &str) -> Self {
        Self { text: printable::line(text).into_owned(), key: Key::Text, is_marked: false }
    }

    /// A figure.
    pub fn number(text: String, number: f64) -> Self {
        Self { text, key: Key::Number(number), is_marked: false }
    }

    /// The same, to which somebody should look.
    #[must_use]
    pub fn marked(self, is_marked: bool) -> Self {
        Self { is_marked, ..self }
    }

    fn compare(&self, other: &Self) -> Ordering {
        match (&self.key, &other.key) {
            // The largest first: of figures that is what one looks for.
            (Key::Number(one), Key::Number(two)) => two.total_cmp(one),
            _ => self.text.cmp(&other.text),
        }
    }

    fn is_number(&self) -> bool {
        matches!(self.key, Key::Number(_))
    }
}

/// A table.
#[derive(Debug)]
pub struct Table {
    columns: &'static [&'static str],
    rows: Vec<Entry>,
}

/// A row: its cells, and what keys act on.
#[derive(Debug)]
struct Entry {
    cells: Vec<Cell>,
    row: Option<Row>,
}

/// Characters that a name has at most, where there are other columns.
const NAME_MAX: usize = 32;

impl Table {
    /// A table with these columns.
    pub fn new(columns: &'static [&'static str], rows: Vec<Vec<Cell>>) -> Self {
        let rows = rows.into_iter().map(|cells| Entry { cells, row: None });
        Self { columns, rows: rows.collect() }
    }

    /// The same, with rows that keys can act on.
    pub fn of_rows(columns: &'static [&'static str], rows: Vec<(Row, Vec<Cell>)>) -> Self {
        let rows = rows.into_iter().map(|(row, cells)| Entry { cells, row: Some(row) });
        Self { columns, rows: rows.collect() }
    }

    /// The rows that keys can act on, in order.
    pub fn rows(&self) -> Vec<Row> {
        self.rows.iter().filter_map(|entry| entry.row).collect()
    }

    /// Leaves the rows that have a text.
    pub fn filter(&mut self, text: &str) {
        if !text.is_empty() {
            self.rows.retain(|row| row.cells.iter().any(|cell| cell.text.contains(text)));
        }
    }

    /// Sorts by a column, counted from 1 and from the front again after the last one; 0 leaves the
    /// order as it is.
    pub fn sort(&mut self, (column, is_reversed): (usize, bool)) {
        if let Some(column) = (column % (self.columns.len() + 1)).checked_sub(1) {
            self.rows.sort_by(|one, two| one.cells[column].compare(&two.cells[column]));
        }
        if is_reversed {
            self.rows.reverse();
        }
    }

    /// The number of rows.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// The table in so many columns and lines of a screen, from a row on: the heading, rows, and a
    /// line that says how many there are if not all are shown.
    pub fn lines(&self, width: usize, height: usize, first: usize) -> Vec<Line<'static>> {
        self.lines_of((width, height), first, None)
    }

    /// The same, around the row that keys act on.
    pub fn lines_around(&self, width: usize, height: usize, cursor: &Cursor) -> Vec<Line<'static>> {
        let first = cursor.place().saturating_sub(height.saturating_sub(1) / 2);
        self.lines_of((width, height), first, Some(cursor))
    }

    fn lines_of(
        &self,
        (width, height): (usize, usize),
        first: usize,
        cursor: Option<&Cursor>,
    ) -> Vec<Line<'static>> {
        let signs = |row: Option<Row>| {
            let of_row = |cursor: &Cursor| row.map_or("  ".to_owned(), |row| cursor.signs(row));
            let mut signs = cursor.map(of_row).unwrap_or_default();
            signs.truncate(width);
            signs
        };
        let widths = self.widths(width.saturating_sub(signs(None).len()));
        let mut lines = vec![Line::from(Span::styled(
            format!("{}{}", signs(None), self.heading(&widths)).trim_end().to_owned(),
            Style::new().add_modifier(Modifier::BOLD),
        ))];
        let room = height.saturating_sub(1);
        let is_cut = self.rows.len() > room;
        let shown = if is_cut { room.saturating_sub(1) } else { room };
        let first = first.min(self.rows.len().saturating_sub(shown));
        let rows = self.rows.iter().skip(first).take(shown);
        lines.extend(rows.map(|entry| row_line(signs(entry.row), &entry.cells, &widths)));
        if is_cut && room > 0 {
            let last = (first + shown).min(self.rows.len());
            let from = (first + 1).min(last);
            let text = format!("{from} to {last} of {}", self.rows.len());
            lines.push(Line::from(Span::styled(text, Style::new().add_modifier(Modifier::DIM))));
        }
        lines
    }

    fn widths(&self, width: usize) -> Vec<usize> {
        let mut left = width;
        let mut widths = Vec::new();
        for (column, name) in self.columns.iter().enumerate() {
            let cells = self.rows.iter().map(|row| row.cells[column].text.chars().count());
            let is_last = column + 1 == self.columns.len();
            let most = if is_last { left.saturating_sub(1) } else { NAME_MAX };
            let wanted = cells.max().unwrap_or(0).min(most).max(name.chars().count());
            let used = wanted + usize::from(column > 0);
            if used > left {
                break;
            }
            left -= used;
            widths.push(wanted);
        }
        widths
    }

    fn heading(&self, widths: &[usize]) -> String {
        let is_number =
            |column: usize| self.rows.first().is_some_and(|row| row.cells[column].is_number());
        let names = self.columns.iter().zip(widths).enumerate();
        let names = names.map(|(column, (name, width))| fit(name, *width, is_number(column)));
        names.collect::<Vec<_>>().join(" ").trim_end().to_owned()
    }
}

fn row_line(signs: String, row: &[Cell], widths: &[usize]) -> Line<'static> {
    let mut spans = vec![Span::raw(signs)];
    for (cell, width) in row.iter().zip(widths) {
        if spans.len() > 1 {
            spans.push(Span::raw(" "));
        }
        let text = fit(&cell.text, *width, cell.is_number());
        let bold = Style::new().add_modifier(Modifier::BOLD);
        spans.push(if cell.is_marked { Span::styled(text, bold) } else { Span::raw(text) });
    }
    Line::from(spans)
}

/// A text in exactly so many characters.
fn fit(text: &str, width: usize, is_right: bool) -> String {
    let length = text.chars().count();
    if length > width {
        let kept: String = text.chars().take(width.saturating_sub(1)).collect();
        return format!("{kept}~");
    }
    let space = " ".repeat(width - length);
    if is_right { format!("{space}{text}") } else { format!("{text}{space}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let row = |name: &str, number: u32| {
            vec![
                Cell::text(name),
                Cell::number(number.to_string(), f64::from(number)),
                Cell::text("somewhere"),
            ]
        };
        let rows = vec![row("a", 1), row("b\u{1b}[2J", 30), row("c", 7), row("d", 9)];
        Table::new(&["NAME", "RUNS", "PLACE"], rows)
    }

    fn shown(table: &Table, width: usize, height: usize, first: usize) -> Vec<String> {
        table.lines(width, height, first).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn columns_that_do_not_fit_give_way_from_the_end() {
        let lines = shown(&table(), 80, 9, 0);
        assert_eq!(lines[0], "NAME       RUNS PLACE");
        assert!(lines[2].contains("30 somewhere") && !lines[2].contains('\u{1b}'), "{lines:?}");
        assert_eq!(shown(&table(), 18, 9, 0)[0], "NAME       RUNS");
        assert!(shown(&table(), 1, 9, 0).iter().all(String::is_empty));
    }

    #[test]
    fn what_is_not_shown_is_counted() {
        assert_eq!(shown(&table(), 80, 5, 9).len(), 5, "all fit");
        let lines = shown(&table(), 80, 4, 0);
        assert_eq!(lines[3], "1 to 2 of 4");
        let lines = shown(&table(), 80, 4, usize::MAX);
        assert!(lines[2].starts_with('d') && lines[3] == "3 to 4 of 4", "{lines:?}");
        assert_eq!(shown(&table(), 80, 1, 0).len(), 1);
    }

    #[test]
    fn rows_are_sorted_by_figures_from_the_largest_and_filtered_by_text() {
        let mut sorted = table();
        sorted.sort((2, false));
        let first = |table: &Table| table.rows[0].cells[0].text.clone();
        assert!(first(&sorted).starts_with('b'));
        sorted.sort((6, true));
        assert_eq!(first(&sorted), "a", "the column after the last one is the first");
        let mut filtered = table();
        filtered.filter("30");
        assert_eq!(filtered.len(), 1);
    }
}
