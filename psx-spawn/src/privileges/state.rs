//! `threads`: the privileges of each thread, read from `/proc`.

use std::io;
use std::str::{FromStr, SplitWhitespace};

use psx_core::{NamedThread, ProcessThread, ThreadKind};
use rustix::thread::CapabilitySet;

use super::CapabilitySets;

/// A thread and its privileges, read from `/proc/self/task/TID/status`.
///
/// The file does not show secure bits and Landlock domains.
///
/// # Examples
///
/// ```
/// use psx::privileges::ThreadPrivileges;
///
/// fn is_unprivileged(thread: &ThreadPrivileges) -> bool {
///     thread.uid.effective != 0 && thread.capabilities.permitted.is_empty()
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ThreadPrivileges {
    /// The thread.
    pub thread: NamedThread,
    /// Whether broadcasts reach it.
    pub kind: ThreadKind,
    /// Its user ids.
    pub uid: Ids,
    /// Its group ids.
    pub gid: Ids,
    /// Its supplementary groups, in the kernel's order.
    pub groups: Vec<u32>,
    /// Its permitted, effective and inheritable capabilities.
    pub capabilities: CapabilitySets,
    /// The capabilities that `execve` may give it at most.
    pub bounding: CapabilitySet,
    /// The capabilities that `execve` preserves without file capabilities.
    pub ambient: CapabilitySet,
    /// Whether it cannot gain privileges by `execve`.
    pub no_new_privs: bool,
    /// The number of its seccomp filters.
    pub seccomp_filters: u32,
}

/// The four user or group ids of a thread, see `credentials(7)`.
///
/// # Examples
///
/// ```
/// use psx::privileges::Ids;
///
/// let user = Ids { real: 1000, effective: 1000, saved: 1000, filesystem: 1000 };
/// assert_ne!(user, Ids { saved: 0, ..user });
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the field names are those of credentials(7)")]
pub struct Ids {
    pub real: u32,
    pub effective: u32,
    pub saved: u32,
    pub filesystem: u32,
}

/// Lists every thread of the process, registered or not, and its privileges: for logs and health checks.
/// Registers the calling thread.
///
/// [`kind`](ThreadPrivileges::kind) tells whether broadcasts reach a thread. A thread that has just been
/// started is [`Unregistered`](ThreadKind::Unregistered) until it registers.
/// Threads that have ended are not listed.
///
/// # Errors
///
/// If the list would be incomplete: `/proc` cannot be read, as after a `chroot` or under a Landlock domain
/// that denies it; it belongs to a pid namespace that does not contain this process; the state of a living
/// thread cannot be read. Also without free memory, and inside a broadcast's closure.
///
/// # Examples
///
/// ```
/// use psx::privileges::ThreadKind;
///
/// for state in psx::threads()? {
///     let reached = state.kind == ThreadKind::Registered;
///     println!("{}: uid {}, reached by broadcasts: {reached}", state.thread, state.uid.effective);
/// }
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn threads() -> io::Result<Vec<ThreadPrivileges>> {
    psx_core::threads()?.iter().map(ThreadPrivileges::read).collect()
}

impl ThreadPrivileges {
    /// The thread's kernel id.
    #[must_use]
    pub fn tid(&self) -> u32 {
        self.thread.tid()
    }

    /// The thread's name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.thread.name()
    }

    fn read(thread: &ProcessThread) -> io::Result<Self> {
        // Lossy: the thread's name may contain any bytes.
        Status(&String::from_utf8_lossy(thread.status())).parse(thread)
    }
}

/// The text of `proc_pid_status(5)`.
struct Status<'t>(&'t str);

impl Status<'_> {
    fn parse(&self, thread: &ProcessThread) -> io::Result<ThreadPrivileges> {
        Ok(ThreadPrivileges {
            thread: thread.thread().clone(),
            kind: thread.kind(),
            uid: self.ids("Uid")?,
            gid: self.ids("Gid")?,
            groups: self.words("Groups")?.map(number).collect::<Result<_, _>>()?,
            capabilities: CapabilitySets {
                effective: self.set("CapEff")?,
                permitted: self.set("CapPrm")?,
                inheritable: self.set("CapInh")?,
            },
            bounding: self.set("CapBnd")?,
            ambient: self.set("CapAmb")?,
            no_new_privs: self.number::<u32>("NoNewPrivs")? != 0,
            // Kernels before 5.9, and those without seccomp, do not show it.
            seccomp_filters: self.number("Seccomp_filters").unwrap_or(0),
        })
    }

    fn words(&self, field: &str) -> io::Result<SplitWhitespace<'_>> {
        let value = |line: &'_ str| line.strip_prefix(field)?.strip_prefix(':').map(str::len);
        self.0
            .lines()
            .find_map(|line| value(line).map(|length| &line[line.len() - length..]))
            .map(str::split_whitespace)
            .ok_or_else(|| malformed(field))
    }

    fn number<N: FromStr>(&self, field: &str) -> io::Result<N> {
        number(self.words(field)?.next().unwrap_or_default())
    }

    fn set(&self, field: &str) -> io::Result<CapabilitySet> {
        let digits = self.words(field)?.next().unwrap_or_default();
        u64::from_str_radix(digits, 16)
            .map(CapabilitySet::from_bits_retain)
            .map_err(|_| malformed(field))
    }

    fn ids(&self, field: &str) -> io::Result<Ids> {
        let ids: Vec<u32> = self.words(field)?.map(number).collect::<Result<_, _>>()?;
        let [real, effective, saved, filesystem] = ids[..] else {
            return Err(malformed(field));
        };
        Ok(Ids { real, effective, saved, filesystem })
    }
}

fn number<N: FromStr>(word: &str) -> io::Result<N> {
    word.parse().map_err(|_| malformed(word))
}

fn malformed(what: &str) -> io::Error {
    let text = format!("/proc/self/task/TID/status is malformed: {what}");
    io::Error::new(io::ErrorKind::InvalidData, text)
}
