//! A line on the terminal that shows the progress of long work.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

/// The time before the first line, and between two updates of it.
const INTERVAL: Duration = Duration::from_millis(200);

/// Counts work on standard error; prints nothing where that is not a terminal, or the work ends soon.
pub struct Progress {
    what: &'static str,
    total: usize,
    done: usize,
    next: Instant,
    drawn: bool,
    on_terminal: bool,
}

impl Progress {
    /// Begins at 0 of `total`; `what` describes the work: `starting threads`.
    #[must_use]
    pub fn new(what: &'static str, total: usize) -> Self {
        let on_terminal = io::stderr().is_terminal();
        Self { what, total, done: 0, next: Instant::now() + INTERVAL, drawn: false, on_terminal }
    }

    /// Adds one.
    pub fn step(&mut self) {
        self.done += 1;
        if self.on_terminal && Instant::now() >= self.next {
            self.next = Instant::now() + INTERVAL;
            self.drawn = true;
            // A closed terminal does not stop the work.
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
