//! What a round that went through tells its caller, and how threads are named in it.

use std::fmt;
use std::ops::Deref;
use std::time::Duration;

use crate::Errno;

/// What a successful broadcast did.
///
/// # Examples
///
/// ```no_run
/// # extern crate psx_core as psx;
/// use psx::Broadcast;
///
/// # fn main() -> Result<(), psx::Error> {
/// // SAFETY: getppid(2) reads one number and changes nothing.
/// let report = unsafe { Broadcast::new().syscall(libc::SYS_getppid, [0; 6])? };
/// println!("{} threads, stopped for {:?}", report.threads(), report.stopped());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Report {
    pub(crate) value: usize,
    pub(crate) threads: usize,
    pub(crate) divergent: Vec<Divergent>,
    pub(crate) attempts: u32,
    pub(crate) stopped: Duration,
}

impl Report {
    /// What the call returned on the caller.
    #[must_use]
    pub fn value(&self) -> usize {
        self.value
    }

    /// How many threads made the call, the caller included.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// The threads whose outcome was not the caller's. Empty unless the broadcast ran under
    /// [`Divergence::Report`](crate::Divergence::Report), since otherwise the process has ended.
    #[must_use]
    pub fn divergent(&self) -> &[Divergent] {
        &self.divergent
    }

    /// Whether every thread got the caller's result.
    #[must_use]
    pub fn is_unanimous(&self) -> bool {
        self.divergent.is_empty()
    }

    /// How often the threads were stopped until the coverage proof held; 1 where nothing was in
    /// the way.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// How long the last attempt kept the program still: from the first summons to the release.
    #[must_use]
    pub fn stopped(&self) -> Duration {
        self.stopped
    }
}

/// A thread whose outcome was not the caller's. `{:?}` prints what `{}` prints.
#[derive(Clone, PartialEq, Eq)]
pub struct Divergent {
    pub(crate) thread: NamedThread,
    pub(crate) outcome: Outcome,
}

impl Divergent {
    /// Which thread it was.
    #[must_use]
    pub fn thread(&self) -> &NamedThread {
        &self.thread
    }

    /// What became of its call.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        self.outcome
    }
}

impl fmt::Display for Divergent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "thread {} {}", self.thread, self.outcome)
    }
}

impl fmt::Debug for Divergent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What became of one thread's call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Outcome {
    /// It returned this value.
    Returned(usize),
    /// It failed.
    Failed(Errno),
    /// The thread ended inside its call and never came back from it.
    Died,
}

impl From<Result<usize, Errno>> for Outcome {
    fn from(result: Result<usize, Errno>) -> Self {
        match result {
            Ok(value) => Self::Returned(value),
            Err(errno) => Self::Failed(errno),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Returned(value) => write!(f, "returned {value}"),
            Self::Failed(errno) => write!(f, "failed with errno {}", errno.raw()),
            Self::Died => f.write_str("died in the call"),
        }
    }
}

/// A thread as an operator knows it: its kernel id and its name. `{}` and `{:?}` print
/// `4711 (worker-1)`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct NamedThread {
    pub(crate) tid: u32,
    pub(crate) name: Comm,
}

impl NamedThread {
    /// The thread of this process with the id `tid`, by the name that it has now. For psx itself.
    #[cfg(not(psx_loom))]
    #[doc(hidden)]
    #[must_use]
    pub fn of(tid: u32) -> Self {
        crate::process::name(tid)
    }

    /// The kernel's id of the thread, as in [`gettid(2)`] and the names in `/proc/self/task`.
    ///
    /// [`gettid(2)`]: https://man7.org/linux/man-pages/man2/gettid.2.html
    #[must_use]
    pub fn tid(&self) -> u32 {
        self.tid
    }

    /// The thread's name as the kernel has it, at most 15 bytes; `?` where it could not be read.
    /// Bytes that are no UTF-8 end it early.
    #[must_use]
    pub fn name(&self) -> &str {
        self.name.as_str()
    }

    /// Whether this is the kernel's submission poller of an io_uring ring, which goes on with the
    /// credentials that the ring was made with.
    #[must_use]
    pub fn is_uring_poller(&self) -> bool {
        self.name().starts_with("iou-sqp-")
    }
}

impl fmt::Display for NamedThread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.tid, self.name())
    }
}

impl fmt::Debug for NamedThread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A list of threads. `{}` and `{:?}` print `4711 (worker-1), 4712 (worker-2)`.
#[derive(Clone, PartialEq, Eq)]
pub struct Threads(pub(crate) Box<[NamedThread]>);

impl Deref for Threads {
    type Target = [NamedThread];

    fn deref(&self) -> &[NamedThread] {
        &self.0
    }
}

impl FromIterator<NamedThread> for Threads {
    fn from_iter<I: IntoIterator<Item = NamedThread>>(threads: I) -> Self {
        Self(threads.into_iter().collect())
    }
}

impl fmt::Display for Threads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, thread) in self.iter().enumerate() {
            if i > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{thread}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Threads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A thread's name in the kernel's own form (`TASK_COMM_LEN`): 16 bytes, the rest zero. Fixed
/// size, so that it can be read and stored where nothing may be allocated.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Comm(pub(crate) [u8; 16]);

impl fmt::Debug for Comm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Comm {
    pub(crate) fn as_str(&self) -> &str {
        let end = self.0.iter().position(|&byte| byte == 0).unwrap_or(self.0.len());
        let text = match std::str::from_utf8(&self.0[..end]) {
            Ok(text) => text,
            Err(e) => std::str::from_utf8(&self.0[..e.valid_up_to()]).unwrap_or_default(),
        };
        if text.is_empty() { "?" } else { text }
    }
}
