//! A line on the terminal that says how far long work has come.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

/// How long work may take before it is worth a line, and between two states of the line.
const PATIENCE: Duration = Duration::from_millis(200);

/// Counts work on standard error; silent where that is no terminal, or the work is soon done.
pub struct Progress {
    what: &'static str,
    total: usize,
    done: usize,
    next: Instant,
    drawn: bool,
    on_terminal: bool,
}

impl Progress {
    /// Nothing of `total` done yet; `what` says what is being done: `starting threads`.
    #[must_use]
    pub fn new(what: &'static str, total: usize) -> Self {
        let on_terminal = io::stderr().is_terminal();
        Self { what, total, done: 0, next: Instant::now() + PATIENCE, drawn: false, on_terminal }
    }

    /// One more done.
    pub fn step(&mut self) {
        self.done += 1;
        if self.on_terminal && Instant::now() >= self.next {
            self.next = Instant::now() + PATIENCE;
            self.drawn = true;
            // A terminal that takes no more text is no reason to stop the work.
            let _ = write!(io::stderr(), "\r{}: {} of {}", self.what, self.done, self.total);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.drawn {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}
