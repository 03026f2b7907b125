//! What a round that went through tells its caller, and how threads are named in it.

use std::fmt;
use std::ops::Deref;
use std::time::Duration;

use crate::Errno;
use crate::sys::ThreadInfo;

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
    pub(crate) left_out: Result<Threads, Errno>,
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

    /// The threads of the process that did not make the call, because they are not registered. Each
    /// goes on with the privileges that it had.
    ///
    /// Empty under [`Coverage::Require`](crate::Coverage::Require), which proves that there are none.
    /// Under [`Coverage::Registered`](crate::Coverage::Registered) it lists those that were there
    /// when the calling thread was about to make the call, with the registered threads stopped;
    /// threads that they start later are not registered either. Those that the kernel has made for
    /// itself, and that do nothing with privileges of their own, are not among them. Looking at them is
    /// part of the stop, and takes about 10 µs for each thread that is not registered.
    ///
    /// # Errors
    ///
    /// The kernel's error number where the process's threads could not be counted, so that nothing
    /// is known of other threads: `/proc` was out of reach when psx was first used.
    ///
    /// # Examples
    ///
    /// ```
    /// # extern crate psx_core as psx;
    /// use psx::{Broadcast, Coverage};
    ///
    /// // SAFETY: getppid(2) reads one number and changes nothing.
    /// let report = unsafe {
    ///     Broadcast::new().coverage(Coverage::Registered).syscall(libc::SYS_getppid, [0; 6])?
    /// };
    /// match report.left_out() {
    ///     Ok(threads) if threads.is_empty() => println!("no thread was left out"),
    ///     Ok(threads) => println!("unchanged: {threads}"),
    ///     Err(errno) => println!("other threads may be unchanged: no thread count ({errno})"),
    /// }
    /// # Ok::<(), psx::Error>(())
    /// ```
    pub fn left_out(&self) -> Result<&Threads, Errno> {
        self.left_out.as_ref().map_err(|&errno| errno)
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
    made_by_kernel: bool,
}

impl NamedThread {
    /// A thread of the program's.
    pub(crate) const fn registered(tid: u32, name: Comm) -> Self {
        Self { tid, name, made_by_kernel: false }
    }

    /// A thread as the kernel shows it.
    pub(crate) const fn seen(tid: u32, info: ThreadInfo) -> Self {
        Self { tid, name: info.name, made_by_kernel: info.made_by_kernel }
    }

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
        self.made_by_kernel && self.name().starts_with("iou-sqp-")
    }

    /// Whether the kernel has made this thread in the process for a device or a ring that the
    /// program has opened. psx cannot stop such a thread, and it cannot register itself.
    #[must_use]
    pub fn is_made_by_kernel(&self) -> bool {
        self.made_by_kernel
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
///
/// Dereferences to the threads that have a name and an id here. There may be more, which the kernel
/// counts and psx cannot name ([`unnamed`](Self::unnamed)): where `/proc` is out of reach, as after a
/// `chroot`. [`len`](Self::len) and [`is_empty`](Self::is_empty) count them too.
#[derive(Clone, PartialEq, Eq)]
pub struct Threads {
    pub(crate) named: Box<[NamedThread]>,
    pub(crate) unnamed: usize,
    /// Why there are unnamed ones.
    pub(crate) reason: Option<Errno>,
}

impl Threads {
    pub(crate) fn named(threads: Vec<NamedThread>) -> Self {
        Self { named: threads.into_boxed_slice(), unnamed: 0, reason: None }
    }

    /// How many threads there are, those that cannot be named included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.named.len() + self.unnamed
    }

    /// Whether there are no threads, not even any that cannot be named.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many threads there are besides those that are listed: the kernel counts them, and their
    /// ids and names cannot be read.
    #[must_use]
    pub fn unnamed(&self) -> usize {
        self.unnamed
    }
}

impl Deref for Threads {
    type Target = [NamedThread];

    fn deref(&self) -> &[NamedThread] {
        &self.named
    }
}

impl FromIterator<NamedThread> for Threads {
    fn from_iter<I: IntoIterator<Item = NamedThread>>(threads: I) -> Self {
        Self::named(threads.into_iter().collect())
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
        if self.unnamed == 0 {
            return Ok(());
        }
        if !self.named.is_empty() {
            f.write_str(", and ")?;
        }
        write!(f, "{} that cannot be named: ", Counted(self.unnamed))?;
        match self.reason {
            Some(errno) => write!(f, "/proc is out of reach ({errno})"),
            None => f.write_str("they started or ended meanwhile"),
        }
    }
}

impl fmt::Debug for Threads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// `1 thread`, `2 threads`.
pub(crate) struct Counted(pub(crate) usize);

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} thread{}", self.0, if self.0 == 1 { "" } else { "s" })
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
    pub(crate) const EMPTY: Self = Self([0; 16]);

    pub(crate) fn as_str(&self) -> &str {
        let end = self.0.iter().position(|&byte| byte == 0).unwrap_or(self.0.len());
        let text = match std::str::from_utf8(&self.0[..end]) {
            Ok(text) => text,
            Err(e) => std::str::from_utf8(&self.0[..e.valid_up_to()]).unwrap_or_default(),
        };
        if text.is_empty() { "?" } else { text }
    }
}
