//! Which threads the process has, registered or not: for logs, health checks and
//! `psx::Privileges::verify`.

use std::io;

use crate::memory::{NoMemory, try_vec};
use crate::registry::Entry;
use crate::report::NamedThread;
use crate::runtime::Runtime;
use crate::sys::{ThreadInfo, UnregisteredKind, raw, thread_dir};
use crate::{Errno, Error};

/// How a thread of the process stands to broadcasts.
///
/// # Examples
///
/// ```
/// # mod psx { pub mod privileges { pub use psx_core::*; } }
/// use psx::privileges::ThreadKind;
///
/// fn keeps_its_privileges(kind: ThreadKind) -> bool {
///     kind == ThreadKind::Unregistered
/// }
/// # assert!(keeps_its_privileges(ThreadKind::Unregistered));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ThreadKind {
    /// Broadcasts reach it.
    Registered,
    /// Broadcasts do not reach it: it keeps the privileges that it has until it changes them itself. A
    /// thread that has just been started is one for as long as it takes to register.
    Unregistered,
    /// The kernel has made it in the process for itself, and it does nothing with the privileges that
    /// it was made with: an io_uring worker acts with those of each request. Nothing is to be changed.
    KernelWorker,
}

/// A thread of the process, as [`threads`](crate::threads) found it.
#[derive(Clone, Debug)]
pub struct ProcessThread {
    thread: NamedThread,
    kind: ThreadKind,
    status: Vec<u8>,
}

impl ProcessThread {
    /// Its id and name.
    #[must_use]
    pub fn thread(&self) -> &NamedThread {
        &self.thread
    }

    /// How it stands to broadcasts.
    #[must_use]
    pub fn kind(&self) -> ThreadKind {
        self.kind
    }

    /// The text of its `status` file, see `proc_pid_status(5)`. For psx itself.
    #[doc(hidden)]
    #[must_use]
    pub fn status(&self) -> &[u8] {
        &self.status
    }
}

impl Runtime {
    /// Every thread of the process. The calling thread is registered, and no round is on.
    pub(crate) fn threads(&self) -> io::Result<Vec<ProcessThread>> {
        let before = self.registered_ids()?;
        let directory = self.kernel.threads().map_err(|errno| match errno.raw() {
            libc::ENOENT if self.kernel.has_procfs() => unreadable(format_args!(
                "/proc does not show this process; it may belong to another pid namespace"
            )),
            libc::ENOENT => {
                unreadable(format_args!("there is no /proc, or it is not the kernel's"))
            }
            _ => unreadable(format_args!("/proc/self/task cannot be opened: {errno}")),
        })?;
        let listed = self.list_threads(&directory)?;
        let after = self.registered_ids()?;

        let is_listed = |tid: u32| listed.iter().any(|listed| listed.tid == tid);
        for tid in before.into_iter().chain([raw::gettid().map_err(Error::RegistrationFailed)?]) {
            if !is_listed(tid) && !self.kernel.is_dead(tid) {
                return Err(unreadable(format_args!("/proc/self/task does not list thread {tid}")));
            }
        }
        let mut threads = try_vec(listed.len()).map_err(out_of_memory)?;
        for listed in listed {
            let status = directory.status(listed.proc_id);
            let (info, status) = match (directory.info(listed.proc_id), status) {
                (Some(ThreadInfo { kind: UnregisteredKind::Dead, .. }), _) => continue,
                (Some(info), Ok(Some(status))) => (info, status),
                _ if self.kernel.is_dead(listed.tid) => continue,
                (_, status) => {
                    let why = status.err().unwrap_or(Errno::from_raw(libc::ENOENT));
                    let tid = listed.tid;
                    return Err(unreadable(format_args!(
                        "thread {tid} lives and cannot be read: {why}"
                    )));
                }
            };
            let kind = match info.kind {
                UnregisteredKind::KernelWorker => ThreadKind::KernelWorker,
                _ if after.contains(&listed.tid) => ThreadKind::Registered,
                _ => ThreadKind::Unregistered,
            };
            let thread = NamedThread::seen(listed.tid, info);
            threads.push(ProcessThread { thread, kind, status });
        }
        Ok(threads)
    }

    /// The ids of the registered threads.
    fn registered_ids(&self) -> io::Result<Vec<u32>> {
        loop {
            let room = self.list.len() + 16;
            let mut tids = try_vec(room).map_err(out_of_memory)?;
            let mut is_whole = true;
            // Nothing is allocated under the list's lock: only what fits goes in.
            self.list.for_each(|entry| {
                // A dead thread's id may be an unregistered thread's by now.
                if entry.tid() != Entry::NO_TID && !entry.has_died() {
                    is_whole &= tids.len() < room;
                    if is_whole {
                        tids.push(entry.tid());
                    }
                }
            });
            if is_whole {
                return Ok(tids);
            }
        }
    }

    /// The process's threads, and maybe some that have just ended.
    fn list_threads(
        &self,
        directory: &thread_dir::ThreadDir,
    ) -> io::Result<Vec<thread_dir::Listed>> {
        let list = || {
            let mut listed = Vec::new();
            let read = directory.for_each(|thread| listed.push(thread));
            read.map_err(|errno| unreadable(format_args!("/proc/self/task: {errno}")))?;
            Ok(listed)
        };
        read_until_whole(list, || self.kernel.thread_count().ok().map(|count| count.threads))
    }
}

/// Reads a list until it is the same twice and as long as `count`. The kernel ends a list of threads
/// early, and says nothing, when the thread that it has come to ends (`proc_task_readdir` in
/// fs/proc/base.c). Where threads come and go without a pause, the list is read so often that no thread
/// was left out each time. Returns all that were in any of the lists.
fn read_until_whole<T: Ord + Copy>(
    mut list: impl FnMut() -> io::Result<Vec<T>>,
    count: impl Fn() -> Option<usize>,
) -> io::Result<Vec<T>> {
    const READS: usize = 100;
    let (mut all, mut last) = (Vec::new(), Vec::new());
    for _ in 0..READS {
        let mut now = list()?;
        now.sort_unstable();
        all.extend_from_slice(&now);
        all.sort_unstable();
        all.dedup();
        if now == last && count() == Some(now.len()) {
            break;
        }
        last = now;
    }
    Ok(all)
}

fn unreadable(what: std::fmt::Arguments<'_>) -> io::Error {
    io::Error::other(format!("the list of this process's threads is not whole: {what}"))
}

fn out_of_memory(_: NoMemory) -> io::Error {
    Error::OutOfMemory.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(lists: &[&[u32]], count: usize) -> (Vec<u32>, usize) {
        let mut reads = 0;
        let list = || {
            reads += 1;
            Ok(lists.get(reads - 1).unwrap_or(&lists[lists.len() - 1]).to_vec())
        };
        let all = read_until_whole(list, || Some(count)).unwrap();
        (all, reads)
    }

    #[test]
    fn a_list_that_ended_early_is_read_again() {
        assert_eq!(whole(&[&[1, 2, 3]], 3), (vec![1, 2, 3], 2));
        // Thread 2 ended as the list came to it; 3 is there all the same.
        assert_eq!(whole(&[&[1], &[1, 3]], 2), (vec![1, 3], 3));
        // The same early end twice: the count says that there is more.
        assert_eq!(whole(&[&[1], &[1], &[3, 1]], 2), (vec![1, 3], 4));
        // What one list has is not lost because two later ones agree.
        assert_eq!(whole(&[&[1, 3], &[1], &[1]], 1), (vec![1, 3], 3));
    }

    #[test]
    fn lists_that_never_agree_are_merged() {
        let mut born = 0;
        let list = || {
            born += 1;
            Ok(vec![1, born + 1])
        };
        assert_eq!(read_until_whole(list, || Some(2)).unwrap().len(), 101);
    }
}
