//! What a successful broadcast returns, and the names of threads in reports and errors.

use std::fmt;
use std::ops::Deref;
use std::time::Duration;

use crate::sys::ThreadInfo;
use crate::{Errno, Obstacle, Stops};

/// The result of a successful broadcast.
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
    pub(crate) stops: Stops,
}

impl Report {
    /// The value that the call returned on the calling thread.
    #[must_use]
    pub fn value(&self) -> usize {
        self.value
    }

    /// The number of threads that made the call, the caller included.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// The threads of the process that did not make the call, because they are not registered. They keep
    /// their privileges.
    ///
    /// Empty under [`Coverage::Require`](crate::Coverage::Require), which proves that there are none.
    /// Under [`Coverage::Registered`](crate::Coverage::Registered) it lists the unregistered threads at the
    /// moment before the call, when the registered threads are stopped; threads that these start later are
    /// not registered either. Threads that the kernel created and that use no privileges of their own are
    /// not listed. The listing is part of the stop, and takes about 10 µs for each unregistered thread.
    ///
    /// # Errors
    ///
    /// The kernel's error number if the process's threads could not be counted: `/proc` was out of reach
    /// when psx was first used. There may be unregistered threads then.
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

    /// The threads whose outcome differs from the caller's. Always empty under
    /// [`Divergence::Abort`](crate::Divergence::Abort), which ends the process instead.
    #[must_use]
    pub fn divergent(&self) -> &[Divergent] {
        &self.divergent
    }

    /// Whether the outcome is the same on every thread.
    #[must_use]
    pub fn is_unanimous(&self) -> bool {
        self.divergent.is_empty()
    }

    /// The time for which the threads were stopped, all attempts together.
    #[must_use]
    pub fn stopped(&self) -> Duration {
        self.stops.total()
    }

    /// How often and how long the broadcast has stopped the threads.
    #[must_use]
    pub fn stops(&self) -> Stops {
        self.stops
    }

    /// The number of rounds that the broadcast took; 1 if the first succeeded.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.stops.attempts()
    }
}

/// A thread whose outcome differs from the caller's. `{:?}` prints what `{}` prints.
#[derive(Clone, PartialEq, Eq)]
pub struct Divergent {
    pub(crate) thread: NamedThread,
    pub(crate) outcome: Outcome,
}

impl Divergent {
    /// The thread.
    #[must_use]
    pub fn thread(&self) -> &NamedThread {
        &self.thread
    }

    /// The outcome of its call.
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

/// The outcome of one thread's call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Outcome {
    /// The call returned this value.
    Returned(usize),
    /// The call failed.
    Failed(Errno),
    /// The thread ended inside the call.
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

/// A thread's kernel id and its name. `{}` and `{:?}` print `4711 (worker-1)`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct NamedThread {
    pub(crate) tid: u32,
    pub(crate) name: Comm,
    made_by_kernel: bool,
    pub(crate) obstacle: Option<Obstacle>,
}

impl NamedThread {
    /// A registered thread.
    pub(crate) const fn registered(tid: u32, name: Comm) -> Self {
        Self { tid, name, made_by_kernel: false, obstacle: None }
    }

    /// A thread as `/proc` shows it.
    pub(crate) const fn seen(tid: u32, info: ThreadInfo) -> Self {
        let ThreadInfo { name, made_by_kernel, .. } = info;
        Self { tid, name, made_by_kernel, obstacle: None }
    }

    /// The thread of this process with the id `tid` and its current name. For psx itself.
    #[cfg(not(psx_loom))]
    #[doc(hidden)]
    #[must_use]
    pub fn of(tid: u32) -> Self {
        crate::process::name(tid)
    }

    /// The thread's kernel id, as in [`gettid(2)`] and `/proc/self/task`.
    ///
    /// [`gettid(2)`]: https://man7.org/linux/man-pages/man2/gettid.2.html
    #[must_use]
    pub fn tid(&self) -> u32 {
        self.tid
    }

    /// The thread's name in the kernel, at most 15 bytes; `?` if it could not be read. It ends at the first
    /// byte that is not UTF-8.
    #[must_use]
    pub fn name(&self) -> &str {
        self.name.as_str()
    }

    /// Whether this is the kernel's submission poller of an io_uring ring. It keeps the credentials of the
    /// ring's creation.
    #[must_use]
    pub fn is_uring_poller(&self) -> bool {
        self.made_by_kernel && self.name().starts_with("iou-sqp-")
    }

    /// Whether the kernel created this thread in the process, for a device or a ring that the program
    /// opened. psx cannot stop such a thread, and it cannot register itself.
    #[must_use]
    pub fn is_made_by_kernel(&self) -> bool {
        self.made_by_kernel
    }

    /// What kept the thread from taking psx's signal, in the list of
    /// [`Error::Unreachable`](crate::Error::Unreachable). `None` in other lists, and where `/proc` cannot be
    /// read or shows no obstacle: a thread may have become free after the timeout.
    #[must_use]
    pub fn obstacle(&self) -> Option<&Obstacle> {
        self.obstacle.as_ref()
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
/// Dereferences to the named threads. Where `/proc` is out of reach, as after a `chroot`, the kernel may
/// count more threads than psx can name ([`unnamed`](Self::unnamed)). [`len`](Self::len) and
/// [`is_empty`](Self::is_empty) include these.
#[derive(Clone)]
pub struct Threads {
    pub(crate) named: Box<[NamedThread]>,
    pub(crate) unnamed: usize,
    /// Why some threads are unnamed.
    pub(crate) reason: Option<Errno>,
    pub(crate) stops: Stops,
}

/// The same threads. The stops, which are measured, do not count.
impl PartialEq for Threads {
    fn eq(&self, other: &Self) -> bool {
        let Self { named, unnamed, reason, stops: _ } = self;
        (named, unnamed, reason) == (&other.named, &other.unnamed, &other.reason)
    }
}

impl Eq for Threads {}

impl Threads {
    pub(crate) fn named(threads: Vec<NamedThread>) -> Self {
        let named = threads.into_boxed_slice();
        Self { named, unnamed: 0, reason: None, stops: Stops::default() }
    }

    /// The same threads, in the error of a broadcast that has stopped the others for that long.
    pub(crate) fn stopped(self, stops: Stops) -> Self {
        Self { stops, ..self }
    }

    /// How often and how long the broadcast that failed has stopped the other threads. No attempts in a list
    /// that is not part of an error.
    #[must_use]
    pub fn stops(&self) -> Stops {
        self.stops
    }

    /// The number of threads, named and unnamed.
    #[must_use]
    pub fn len(&self) -> usize {
        self.named.len() + self.unnamed
    }

    /// Whether there are no threads, named or unnamed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number of threads that the kernel counts and psx cannot name.
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

/// A thread's name in the kernel's form (`TASK_COMM_LEN`): 16 bytes, padded with zeros. Of fixed size, so
/// that it can be stored without allocation.
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
