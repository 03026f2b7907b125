//! The end of the process.

use core::fmt;

use super::machine;

/// The destination of the last message. The panic message replaces it here.
pub(crate) struct Stderr;

impl Stderr {
    pub(crate) fn new() -> Self {
        Self
    }
}

impl fmt::Write for Stderr {
    fn write_str(&mut self, _: &str) -> fmt::Result {
        Ok(())
    }
}

pub(crate) fn abort() -> ! {
    panic!("the process has ended: its threads have different credentials");
}

/// A thread that dies in its call unwinds: loom offers no other way off its stack.
pub(crate) fn closure_unwound() {}

/// The process ends because the caller `tid` died in its round.
pub(crate) fn caller_died(tid: u32, _: bool) -> ! {
    machine::get().end_process(tid)
}
