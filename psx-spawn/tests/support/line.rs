//! A two-way channel of text lines between a child and its judge: the handshakes of a case.

use std::fmt::Display;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// One end. Nothing is buffered, so the child's threads may share it.
pub struct Line {
    stream: UnixStream,
    deadline: Option<Instant>,
}

impl Line {
    /// The child's end, which is its standard input. The child needs no deadline: past its limit it
    /// is killed.
    pub fn of_child() -> Self {
        let stdin = io::stdin().as_fd().try_clone_to_owned().expect("a standard input");
        Self { stream: stdin.into(), deadline: None }
    }

    pub(super) fn of_judge(stream: UnixStream, deadline: Instant) -> Self {
        Self { stream, deadline: Some(deadline) }
    }

    /// Sends one line.
    #[track_caller]
    pub fn say(&self, line: impl Display) {
        let line = format!("{line}\n");
        (&self.stream).write_all(line.as_bytes()).expect("somebody at the other end of the line");
    }

    /// Waits for one line, which must begin with `word`, and returns what follows the word.
    pub fn hear(&self, word: &str) -> String {
        let line = self.read().unwrap_or_else(|e| panic!("waited for {word:?}: {e}"));
        match line.strip_prefix(word) {
            Some(rest) => rest.trim().to_owned(),
            None => panic!("waited for {word:?}, heard {line:?}"),
        }
    }

    /// The child's half of [`Supervised::inspect`](super::Supervised::inspect): says `word` and
    /// stands still until the judge has looked.
    #[track_caller]
    pub fn show(&self, word: &str) {
        self.say(word);
        self.hear("go");
    }

    /// Waits for one line, whatever it says.
    pub fn read(&self) -> io::Result<String> {
        let mut line = Vec::new();
        loop {
            if let Some(deadline) = self.deadline {
                let left = deadline.saturating_duration_since(Instant::now());
                // Zero would mean no timeout.
                self.stream.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
            }
            let mut byte = [0];
            match (&self.stream).read(&mut byte) {
                Ok(0) => return Err(io::Error::other("the other end of the line is gone")),
                Ok(_) if byte == *b"\n" => {
                    return String::from_utf8(line).map_err(io::Error::other);
                }
                Ok(_) => line.extend(byte),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    return Err(io::Error::other("the limit has passed"));
                }
                Err(e) => return Err(e),
            }
        }
    }
}
