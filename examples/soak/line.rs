//! Lines of text between the process that is soaked and its judge.

use std::fmt::Display;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;

/// One end. Nothing is buffered, so that several threads may speak.
pub(crate) struct Line(pub(crate) UnixStream);

impl Line {
    pub(crate) fn say(&self, line: impl Display) -> io::Result<()> {
        // In one piece, so that two who speak at once do not mix.
        (&self.0).write_all(format!("{line}\n").as_bytes())
    }

    pub(crate) fn hear(&self) -> io::Result<String> {
        let mut line = Vec::new();
        loop {
            let mut byte = [0];
            match (&self.0).read(&mut byte) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) if byte == *b"\n" => {
                    return String::from_utf8(line).map_err(io::Error::other);
                }
                Ok(_) => line.extend(byte),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }
}
