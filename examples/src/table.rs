//! Plain tables: columns as wide as their content.

use std::fmt;

use crate::status::{Credentials, ThreadStatus};

/// Up to this many threads, each has a row.
const EVERY_ROW: usize = 24;
/// Of more, this many of each state are shown; the others are counted.
const SHOWN: usize = 3;

/// Rows of cells under headings, indented by two spaces.
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with no rows yet.
    pub fn new(headings: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let mut table = Self { rows: Vec::new() };
        table.push(headings);
        table
    }

    /// Adds a row below the others.
    pub fn push(&mut self, cells: impl IntoIterator<Item = impl Into<String>>) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for row in &self.rows {
            let cells = row.iter().zip(&widths);
            let line: String = cells.map(|(cell, width)| format!("  {cell:width$}")).collect();
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// One row a thread, or, of many threads in the same state, the first few and the number of the
/// rest. `remark` may add a word to a row.
#[must_use]
pub fn of_threads(
    threads: &[ThreadStatus],
    remark: impl Fn(&Credentials) -> &'static str,
) -> Table {
    let mut table = Table::new(["tid", "name"].into_iter().chain(Credentials::HEADINGS));
    let mut push = |tid: String, name: String, credentials: &Credentials| {
        let state = credentials.cells().into_iter().chain([remark(credentials).to_owned()]);
        table.push([tid, name].into_iter().chain(state));
    };
    for alike in by_credentials(threads) {
        let shown = if threads.len() <= EVERY_ROW { alike.len() } else { SHOWN };
        for thread in alike.iter().take(shown) {
            push(thread.tid.to_string(), thread.name.clone(), &thread.credentials);
        }
        if alike.len() > shown {
            push(
                "...".to_owned(),
                format!("and {} more", alike.len() - shown),
                &alike[0].credentials,
            );
        }
    }
    table
}

/// The threads, grouped by their credentials.
fn by_credentials(threads: &[ThreadStatus]) -> Vec<Vec<&ThreadStatus>> {
    let mut groups: Vec<Vec<&ThreadStatus>> = Vec::new();
    for thread in threads {
        match groups.iter_mut().find(|group| group[0].credentials == thread.credentials) {
            Some(group) => group.push(thread),
            None => groups.push(vec![thread]),
        }
    }
    groups
}

/// `a, b, c and 7 more`: a list of names that fits on a line.
#[must_use]
pub fn some_of(names: &[&str]) -> String {
    let shown = names[..names.len().min(SHOWN)].join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// `1 thread`, `2 threads`.
#[must_use]
pub fn counted(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn thread(tid: u32, uid: u32) -> ThreadStatus {
        let credentials = Credentials {
            uids: [uid; 4],
            gids: [0; 4],
            groups: Vec::new(),
            effective: 0,
            no_new_privs: false,
        };
        ThreadStatus { tid, name: format!("t{tid}"), credentials }
    }

    fn lines(threads: &[ThreadStatus]) -> Vec<String> {
        let text = of_threads(threads, |_| "").to_string();
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn a_few_threads_have_a_row_each() {
        let threads: Vec<_> = (1..=9).map(|tid| thread(tid, 0)).collect();
        assert_eq!(lines(&threads).len(), 1 + 9);
    }

    #[test]
    fn of_many_threads_the_different_one_has_a_row() {
        let threads: Vec<_> = (1..=1000).map(|tid| thread(tid, u32::from(tid == 500))).collect();
        let lines = lines(&threads);
        assert_eq!(lines.len(), 1 + 3 + 1 + 1, "{lines:#?}");
        assert!(lines[4].contains("and 996 more"), "{lines:#?}");
        assert!(lines[5].starts_with("  500 "), "{lines:#?}");
    }

    #[test]
    fn long_lists_are_cut() {
        assert_eq!(some_of(&["a", "b"]), "a, b");
        assert_eq!(some_of(&["a", "b", "c", "d"]), "a, b, c and 1 more");
    }
}
