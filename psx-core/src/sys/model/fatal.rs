//! The end of the process.

use core::fmt;

use super::machine;

/// Where the process says why it ends: the panic message does that here.
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
    panic!("the process has ended: its threads no longer agree");
}

/// A thread that dies in its call leaves by unwinding: there is no other way off a stack of loom's.
pub(crate) fn closure_unwound() {}

/// The process ends, because the caller of a round has died in it.
pub(crate) fn caller_died(tid: u32, _: bool) -> ! {
    machine::get().end_process(tid)
}
