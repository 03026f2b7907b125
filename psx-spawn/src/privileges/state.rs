//! What the kernel says about the privileges of each thread.

use std::str::{FromStr, SplitWhitespace};
use std::{fs, io};

use psx_core::NamedThread;
use rustix::thread::CapabilitySet;

use super::CapabilitySets;

/// A thread and its privileges, as the kernel tells them in `/proc/self/task/TID/status`.
///
/// Secure bits and Landlock domains are not told there.
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
    /// Which thread it is.
    pub thread: NamedThread,
    /// Its user ids.
    pub uid: Ids,
    /// Its group ids.
    pub gid: Ids,
    /// Its supplementary groups, in the kernel's order.
    pub groups: Vec<u32>,
    /// Its permitted, effective and inheritable capabilities.
    pub capabilities: CapabilitySets,
    /// What `execve` can give it at the most.
    pub bounding: CapabilitySet,
    /// What `execve` hands on without a file's capabilities.
    pub ambient: CapabilitySet,
    /// Whether it has given up gaining privileges by `execve`.
    pub no_new_privs: bool,
    /// How many seccomp filters it has.
    pub seccomp_filters: u32,
}

/// The four ids of a thread as a user, or as a group. Defined by `credentials(7)`.
///
/// # Examples
///
/// ```
/// use psx::privileges::Ids;
///
/// let nobody = Ids { real: 65534, effective: 65534, saved: 65534, filesystem: 65534 };
/// assert_ne!(nobody, Ids { saved: 0, ..nobody });
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Ids {
    pub real: u32,
    pub effective: u32,
    pub saved: u32,
    pub filesystem: u32,
}

/// The registered threads and their privileges: for logs and health checks.
///
/// A thread that ends meanwhile is left out. One that has just been started may be missing: it is
/// registered by the first thing that it does, and only a round waits for that.
///
/// # Errors
///
/// If `/proc` cannot be read, as after a `chroot` or under a Landlock domain that denies it; if
/// there is no memory left; inside a broadcast's closure.
///
/// # Examples
///
/// ```
/// psx::thread::adopt()?;
/// for state in psx::threads()? {
///     println!("{}: uid {}", state.thread, state.uid.effective);
/// }
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn threads() -> io::Result<Vec<ThreadPrivileges>> {
    psx_core::threads()?
        .into_iter()
        .filter_map(|thread| ThreadPrivileges::read(thread).transpose())
        .collect()
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

    fn read(thread: NamedThread) -> io::Result<Option<Self>> {
        let path = format!("/proc/self/task/{}/status", thread.tid());
        match fs::read_to_string(path) {
            Ok(status) => Status(&status).parse(thread).map(Some),
            // The second is what a file that is open already says.
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) if e.raw_os_error() == Some(libc::ESRCH) => Ok(None),
            Err(e) => Err(e),
        }
    }
}

/// The text of `proc_pid_status(5)`.
struct Status<'t>(&'t str);

impl Status<'_> {
    fn parse(&self, thread: NamedThread) -> io::Result<ThreadPrivileges> {
        Ok(ThreadPrivileges {
            thread,
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
            // Kernels before 5.9, and those without seccomp, do not tell.
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
    let text = format!("/proc/self/task/TID/status is not as expected: {what}");
    io::Error::new(io::ErrorKind::InvalidData, text)
}
