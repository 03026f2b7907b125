//! A two-way channel of text lines between a child process and the test that checks it.

use std::fmt::Display;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// One end. Nothing is buffered, so several threads may share it.
#[derive(Debug)]
pub struct Line {
    stream: UnixStream,
    deadline: Option<Instant>,
}

impl Line {
    /// The child's end, which is its standard input. It needs no deadline: past its limit the child is
    /// killed.
    pub fn of_child() -> Self {
        let stdin = io::stdin().as_fd().try_clone_to_owned().expect("a standard input");
        Self { stream: stdin.into(), deadline: None }
    }

    /// The other end, from which [`read`](Self::read) waits until `deadline` at most.
    pub fn new(stream: UnixStream, deadline: Option<Instant>) -> Self {
        Self { stream, deadline }
    }

    /// Sends one line.
    #[track_caller]
    pub fn send(&self, line: impl Display) {
        self.try_send(line).expect("the other end is open");
    }

    /// The same, where the other end may be closed. The line is written at once, so that the lines of
    /// several threads do not mix.
    ///
    /// # Errors
    ///
    /// Those of a write to a socket.
    pub fn try_send(&self, line: impl Display) -> io::Result<()> {
        (&self.stream).write_all(format!("{line}\n").as_bytes())
    }

    /// Waits for one line, which must begin with `word`, and returns what follows the word.
    pub fn expect(&self, word: &str) -> String {
        let line = self.read().unwrap_or_else(|e| panic!("waited for {word:?}: {e}"));
        match line.strip_prefix(word) {
            Some(rest) => rest.trim().to_owned(),
            None => panic!("waited for {word:?}, got {line:?}"),
        }
    }

    /// The child's half of [`Child::inspect`](crate::Child::inspect): sends `word` and waits until the
    /// test has looked.
    #[track_caller]
    pub fn pause(&self, word: &str) {
        self.send(word);
        self.expect("go");
    }

    /// Waits for one line.
    ///
    /// # Errors
    ///
    /// `UnexpectedEof` if the other end is closed, `TimedOut` past the deadline.
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
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(_) if byte == *b"\n" => {
                    return String::from_utf8(line).map_err(io::Error::other);
                }
                Ok(_) => line.extend(byte),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    return Err(ErrorKind::TimedOut.into());
                }
                Err(e) => return Err(e),
            }
        }
    }
}
