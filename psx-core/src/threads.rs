//! Lists the threads of the process, registered or not, for `psx::threads` and
//! `psx::Privileges::verify`.

use std::io;

use crate::memory::{NoMemory, try_vec};
use crate::registry::Entry;
use crate::report::NamedThread;
use crate::runtime::Runtime;
use crate::sys::{ThreadInfo, UnregisteredKind, raw, thread_dir};
use crate::{Errno, Error};

/// Whether broadcasts reach a thread.
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
    /// Broadcasts do not reach it: it keeps its privileges until it changes them itself. A thread that has
    /// just been started is unregistered until it registers.
    Unregistered,
    /// The kernel created it in the process, and it does not use the privileges of its creation: an
    /// io_uring worker acts with those of each request. It needs no change.
    KernelWorker,
}

/// A thread of the process, from [`threads`](crate::threads).
#[derive(Clone, Debug)]
pub struct ProcessThread {
    thread: NamedThread,
    kind: ThreadKind,
    status: Vec<u8>,
}

impl ProcessThread {
    /// The thread's id and name.
    #[must_use]
    pub fn thread(&self) -> &NamedThread {
        &self.thread
    }

    /// Whether broadcasts reach the thread.
    #[must_use]
    pub fn kind(&self) -> ThreadKind {
        self.kind
    }

    /// The text of the thread's `status` file (`proc_pid_status(5)`). For psx itself.
    #[doc(hidden)]
    #[must_use]
    pub fn status(&self) -> &[u8] {
        &self.status
    }
}

impl Runtime {
    /// All threads of the process. Called by a registered thread, outside a round.
    pub(crate) fn threads(&self) -> io::Result<Vec<ProcessThread>> {
        let before = self.registered_ids()?;
        let directory = self.kernel.threads().map_err(|errno| match errno.raw() {
            libc::ENOENT if self.kernel.has_procfs() => unreadable(format_args!(
                "/proc does not contain this process; it may belong to another pid namespace"
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
                        "the status of thread {tid} cannot be read: {why}"
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
            let capacity = self.list.len() + 16;
            let mut tids = try_vec(capacity).map_err(out_of_memory)?;
            let mut is_complete = true;
            // Allocate nothing under the list's lock: an entry that does not fit starts another pass.
            self.list.for_each(|entry| {
                // The kernel may have given a dead thread's id to an unregistered thread.
                if entry.tid() != Entry::NO_TID && !entry.has_died() {
                    is_complete &= tids.len() < capacity;
                    if is_complete {
                        tids.push(entry.tid());
                    }
                }
            });
            if is_complete {
                return Ok(tids);
            }
        }
    }

    /// The threads of the process, possibly with some that have just ended.
    fn list_threads(
        &self,
        directory: &thread_dir::ThreadDir,
    ) -> io::Result<Vec<thread_dir::ThreadIds>> {
        let list = || {
            let mut listed = Vec::new();
            let read = directory.for_each(|thread| listed.push(thread));
            read.map_err(|errno| unreadable(format_args!("/proc/self/task: {errno}")))?;
            Ok(listed)
        };
        read_until_complete(list, || self.kernel.thread_count().ok().map(|count| count.threads))
    }
}

/// Reads a list until two readings are equal and as long as `count`, at most 100 times, and returns the
/// union of all readings.
///
/// The kernel cuts a list of threads short without an error when the thread at its position ends
/// (`proc_task_readdir` in fs/proc/base.c). Where threads start and end all the time, no two readings need
/// be equal, but a living thread is in at least one of so many.
fn read_until_complete<T: Ord + Copy>(
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
    io::Error::other(format!("the list of this process's threads is incomplete: {what}"))
}

fn out_of_memory(_: NoMemory) -> io::Error {
    Error::OutOfMemory.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lists: &[&[u32]], count: usize) -> (Vec<u32>, usize) {
        let mut reads = 0;
        let list = || {
            reads += 1;
            Ok(lists.get(reads - 1).unwrap_or(&lists[lists.len() - 1]).to_vec())
        };
        let all = read_until_complete(list, || Some(count)).unwrap();
        (all, reads)
    }

    #[test]
    fn a_list_cut_short_is_read_again() {
        assert_eq!(read(&[&[1, 2, 3]], 3), (vec![1, 2, 3], 2));
        // Cut short at thread 2, which ended; thread 3 lives.
        assert_eq!(read(&[&[1], &[1, 3]], 2), (vec![1, 3], 3));
        // Cut short twice at the same place: the count shows that a thread is missing.
        assert_eq!(read(&[&[1], &[1], &[3, 1]], 2), (vec![1, 3], 4));
        // A thread in one reading is kept, although two later readings agree without it.
        assert_eq!(read(&[&[1, 3], &[1], &[1]], 1), (vec![1, 3], 3));
    }

    #[test]
    fn lists_that_never_agree_are_merged() {
        let mut started = 0;
        let list = || {
            started += 1;
            Ok(vec![1, started + 1])
        };
        assert_eq!(read_until_complete(list, || Some(2)).unwrap().len(), 101);
    }
}
