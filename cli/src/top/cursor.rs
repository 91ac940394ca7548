//! The row that keys act on, and rows that are marked. A row is known by what it shows, so that it
//! stays the same one while others come and go.

use std::collections::BTreeSet;

use furlong_client::{EngineId, TaskId};

/// A row that keys can act on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Row {
    /// An engine.
    Engine(EngineId),
    /// A task.
    Task(TaskId),
}

/// The row that keys act on, and those that are marked.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Cursor {
    row: Option<Row>,
    /// The row's place: where it goes, the one that comes there is next.
    place: usize,
    marked: BTreeSet<Row>,
}

impl Cursor {
    /// The rows of a table are these now.
    pub fn follow(&mut self, rows: &[Row]) {
        let found = rows.iter().position(|row| Some(*row) == self.row);
        self.go(found.unwrap_or(self.place), rows);
        if !self.marked.is_empty() {
            // What is no longer shown is not acted on unseen.
            let shown: BTreeSet<Row> = rows.iter().copied().collect();
            self.marked.retain(|row| shown.contains(row));
        }
    }

    /// Goes so many rows down, or up.
    pub fn step(&mut self, by: isize, rows: &[Row]) {
        self.go(self.place.saturating_add_signed(by), rows);
    }

    fn go(&mut self, place: usize, rows: &[Row]) {
        self.place = place.min(rows.len().saturating_sub(1));
        self.row = rows.get(self.place).copied();
    }

    /// Marks the row, or no longer.
    pub fn mark(&mut self) {
        if let Some(row) = self.row
            && !self.marked.remove(&row)
        {
            self.marked.insert(row);
        }
    }

    /// Marks all rows; none if some are marked.
    pub fn mark_all(&mut self, rows: &[Row]) {
        if self.marked.is_empty() {
            self.marked.extend(rows);
        } else {
            self.marked.clear();
        }
    }

    /// The rows that are meant: those that are marked, else the one.
    pub fn meant(&self) -> Vec<Row> {
        if self.marked.is_empty() {
            return self.row.into_iter().collect();
        }
        self.marked.iter().copied().collect()
    }

    /// The place of the row.
    pub fn place(&self) -> usize {
        self.place
    }

    /// The signs in front of a row: that it is the one, and that it is marked.
    pub fn signs(&self, row: Row) -> String {
        let is_here = if self.row == Some(row) { '>' } else { ' ' };
        let is_marked = if self.marked.contains(&row) { '*' } else { ' ' };
        format!("{is_here}{is_marked}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(ids: &[u32]) -> Vec<Row> {
        ids.iter().map(|id| Row::Engine(EngineId(*id))).collect()
    }

    #[test]
    fn the_row_stays_the_same_while_others_come_and_go() {
        let mut cursor = Cursor::default();
        cursor.follow(&rows(&[1, 2, 3]));
        cursor.step(1, &rows(&[1, 2, 3]));
        assert_eq!(cursor.meant(), rows(&[2]));
        cursor.follow(&rows(&[7, 8, 2, 3]));
        assert_eq!((cursor.meant(), cursor.place()), (rows(&[2]), 2));
        cursor.follow(&rows(&[7, 8, 3]));
        assert_eq!(cursor.meant(), rows(&[3]), "the one that comes to its place");
        cursor.follow(&[]);
        assert_eq!(cursor.meant(), []);
        cursor.step(isize::MAX, &rows(&[4, 5]));
        assert_eq!(cursor.meant(), rows(&[5]));
    }

    #[test]
    fn marked_rows_are_meant_as_long_as_they_are_shown() {
        let all = rows(&[1, 2, 3]);
        let mut cursor = Cursor::default();
        cursor.follow(&all);
        cursor.mark();
        cursor.step(2, &all);
        cursor.mark();
        assert_eq!(cursor.meant(), rows(&[1, 3]));
        assert_eq!(cursor.signs(all[2]), ">*");
        cursor.follow(&rows(&[2, 3]));
        assert_eq!(cursor.meant(), rows(&[3]), "a filter hides the other one");
        cursor.mark();
        cursor.mark_all(&all);
        assert_eq!(cursor.meant(), all);
        cursor.mark_all(&all);
        assert_eq!(cursor.meant(), rows(&[3]), "none is marked");
    }
}
