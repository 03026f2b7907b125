//! How a user asks for a round: what must be proven, how long it may take, what is done with
//! threads that disagree.

use std::ffi::c_long;
use std::time::Duration;

use crate::{Errno, Error, Report};

/// What a broadcast must prove before it changes anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Coverage {
    /// Go ahead only when the kernel's own count of the process's threads proves that every one of
    /// them is stopped or is the caller. The default.
    #[default]
    Require,
    /// Go ahead with the registered threads. Any other thread keeps what it has.
    Registered,
}

/// What is done when a thread's outcome is not the caller's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Divergence {
    /// End the process with SIGABRT while all threads still stand, after a message to standard
    /// error that names the call and the threads. The default, as in the Go package.
    #[default]
    Abort,
    /// List the threads in the [`Report`](crate::Report).
    Report,
}

/// How a round is to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a broadcast does nothing until `syscall` or `run` is called"]
pub struct Broadcast {
    timeout: Duration,
    coverage: Coverage,
    divergence: Divergence,
}

impl Broadcast {
    /// A broadcast with a timeout of 5 seconds that requires full coverage and ends the process
    /// when threads disagree.
    pub const fn new() -> Self {
        Self {
            timeout: Duration::from_secs(5),
            coverage: Coverage::Require,
            divergence: Divergence::Abort,
        }
    }

    /// Sets how long the round may take until its commit point.
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets what must be proven.
    pub const fn coverage(mut self, coverage: Coverage) -> Self {
        self.coverage = coverage;
        self
    }

    /// Sets what is done when threads disagree.
    pub const fn divergence(mut self, divergence: Divergence) -> Self {
        self.divergence = divergence;
        self
    }

    /// Makes the system call `nr` with `args` on every thread.
    ///
    /// # Errors
    ///
    /// # Safety
    pub unsafe fn syscall(&self, nr: c_long, args: [usize; 6]) -> Result<Report, Error> {
        let _ = (nr, args, self.timeout, self.coverage, self.divergence);
        todo!()
    }

    /// Runs `op` on every thread.
    ///
    /// # Errors
    ///
    /// # Safety
    pub unsafe fn run<F>(&self, op: F) -> Result<Report, Error>
    where
        F: Fn() -> Result<usize, Errno> + Sync,
    {
        let _ = op;
        todo!()
    }
}

impl Default for Broadcast {
    fn default() -> Self {
        Self::new()
    }
}
