//! The kernel's own count of the process's threads: the `Threads:` line of `/proc/self/status`.
//!
//! The file is opened once, early, and kept, since an open file goes on working after a chroot,
//! after `/proc` is unmounted, after a change of user and under Landlock, where the path does not.
//! It is a file and no directory, because a directory is a way out: `openat(fd, "../../etc/shadow")`
//! and `fchdir(fd)` lead from it to the root directory of the file system that psx was first used
//! in, past every chroot and `pivot_root` since. Nothing can be opened from a file.
//!
//! Why not by path at each count: the lookup of a path may wait for a file server (FUSE), and that may
//! be a thread of this process, which stands still while threads are counted.

use super::procfs::{self, Lookup, open_proc, open_within, parse, read_field};
use super::raw;
use super::sync::{AtomicU32, AtomicU64, Ordering};
use crate::Errno;

/// What tells the file from whatever else may come to have its descriptor number: programs that
/// close every descriptor they do not know exist, and so do threads with a descriptor table of their
/// own (`unshare(CLONE_FILES)`), in which the number may be another file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
}

impl Identity {
    fn of(fd: usize) -> Result<Self, Errno> {
        procfs::fstat(fd).map(|status| Self { device: status.st_dev, inode: status.st_ino })
    }
}

/// A descriptor number under which the file has been opened.
struct Record {
    /// [`EMPTY`], [`WRITING`], or the number and two. Taken from `EMPTY` by compare-and-swap; the
    /// number is stored with Release when the identity is there, and read with Acquire.
    state: AtomicU32,
    /// Written once, by the thread that has made the state `WRITING`. Relaxed: see `state`.
    device: AtomicU64,
    inode: AtomicU64,
}

const EMPTY: u32 = 0;
const WRITING: u32 = 1;
const NUMBER: u32 = 2;

impl Record {
    const fn new() -> Self {
        Self { state: AtomicU32::new(EMPTY), device: AtomicU64::new(0), inode: AtomicU64::new(0) }
    }

    fn get(&self) -> Option<(usize, Identity)> {
        // Acquire pairs with the Release in `StatusFile::record`.
        let number = self.state.load(Ordering::Acquire).checked_sub(NUMBER)?;
        let device = self.device.load(Ordering::Relaxed);
        let inode = self.inode.load(Ordering::Relaxed);
        Some((number as usize, Identity { device, inode }))
    }
}

/// How many numbers are remembered. One is enough for a program that leaves the descriptor alone; a
/// program that closes it, and a descriptor table without it, take one more, unless the file gets
/// a number that it has had before.
const RECORDS: usize = 32;

pub(super) struct StatusFile {
    /// Filled from the front and never changed afterwards, so that a reader sees whole records and a
    /// thread with a descriptor table of its own does not make another thread's record wrong. In
    /// place: nothing is allocated when the file is opened again, or in a forked child.
    records: [Record; RECORDS],
}

impl StatusFile {
    pub(super) const fn new() -> Self {
        Self { records: [const { Record::new() }; RECORDS] }
    }

    /// Opens the file where the calling thread's descriptor table does not have it; returns whether it
    /// has it then. Where `/proc` is out of reach there will be no proof, which is for the proof to say.
    /// Async-signal-safe.
    pub(super) fn open(&self) -> bool {
        const TRIES: usize = 8;
        (0..TRIES).find_map(|_| self.try_open()).unwrap_or(false)
    }

    /// `None` where the program has closed the new descriptor before it was looked at.
    fn try_open(&self) -> Option<bool> {
        if self.held().is_ok() {
            return Some(true);
        }
        let proc = open_proc(Lookup::MayWait);
        let file = match proc.and_then(|proc| open_within(&proc, c"self/status", 0)) {
            Ok(file) => file,
            Err(errno) if errno.raw() == libc::EBADF => return None,
            Err(_) => return Some(false),
        };
        let identity = Identity::of(file.number());
        let is_ours = procfs::is_procfs(file.number()) == Ok(true) && is_own_status(file.number());
        if identity.is_err() || Identity::of(file.number()) != identity {
            // The number may be another file by now, which is not ours to close.
            file.into_number();
            return None;
        }
        let (is_kept, is_had) = match (self.held(), identity) {
            _ if !is_ours => (false, false),
            // The number is one that it had before, or another thread was faster.
            (Ok((fd, _)), _) => (fd == file.number(), true),
            (Err(_), Ok(identity)) if self.record(file.number(), identity) => (true, true),
            (Err(_), _) => (false, false),
        };
        if is_kept {
            file.into_number();
        }
        Some(is_had)
    }

    /// Remembers a descriptor; returns whether there was room for it.
    fn record(&self, fd: usize, identity: Identity) -> bool {
        let Some(state) = u32::try_from(fd).ok().and_then(|fd| fd.checked_add(NUMBER)) else {
            return false;
        };
        for record in &self.records {
            let taken =
                record.state.compare_exchange(EMPTY, WRITING, Ordering::Relaxed, Ordering::Relaxed);
            if taken.is_ok() {
                record.device.store(identity.device, Ordering::Relaxed);
                record.inode.store(identity.inode, Ordering::Relaxed);
                // Release pairs with the Acquire in `get`.
                record.state.store(state, Ordering::Release);
                return true;
            }
        }
        false
    }

    /// In a forked child: closes the file of the parent, which counts the parent's threads, and
    /// forgets it. The child has one thread.
    pub(super) fn reset_after_fork(&self) {
        for record in &self.records {
            if let Some((fd, _)) = record.get().filter(|(fd, file)| Identity::of(*fd) == Ok(*file))
            {
                procfs::close(fd);
            }
            record.state.store(EMPTY, Ordering::Relaxed);
        }
    }

    /// Whether the calling thread's descriptor table has the file.
    pub(super) fn is_open(&self) -> bool {
        self.held().is_ok()
    }

    /// How many threads the process has, by the kernel's count.
    pub(super) fn thread_count(&self) -> Result<usize, Errno> {
        self.field(b"\nThreads:\t", parse).map(|count| count as usize)
    }

    /// Whether the main thread has ended and cannot run again, although the kernel goes on counting
    /// it: it left by `pthread_exit`, say. Once true, it stays true.
    pub(super) fn main_has_ended(&self) -> bool {
        self.field(b"\nState:\t", |state| Some(matches!(state.first(), Some(b'Z' | b'X'))))
            .unwrap_or(false)
    }

    fn field<T>(&self, key: &[u8], parse: impl Fn(&[u8]) -> Option<T>) -> Result<T, Errno> {
        let (fd, identity) = self.held()?;
        let value = read_field(fd, key, parse);
        // What was read is the file's if the number was still the file afterwards.
        if Identity::of(fd)? == identity { value } else { Err(Errno::from_raw(libc::EBADF)) }
    }

    /// The file's descriptor in the calling thread's table.
    fn held(&self) -> Result<(usize, Identity), Errno> {
        let mut error = libc::ENOENT;
        for record in self.records.iter().filter_map(Record::get) {
            if Identity::of(record.0) == Ok(record.1) {
                return Ok(record);
            }
            error = libc::EBADF;
        }
        Err(Errno::from_raw(error))
    }
}

/// Whether this is the status of the calling process and not of another one, put in its place: the
/// last of the ids in `NStgid:` is the one that the process has in its own pid namespace. Kernels
/// without pid namespaces have no such line.
pub(super) fn is_own_status(fd: usize) -> bool {
    let id = read_field(fd, b"\nNStgid:\t", |ids| parse(last_id(ids)))
        .or_else(|_| read_field(fd, b"\nTgid:\t", parse));
    id.is_ok_and(|id| raw::getpid() == Ok(id))
}

/// The last of the ids in an `NS...:` line: the one in the innermost pid namespace.
pub(super) fn last_id(ids: &[u8]) -> &[u8] {
    ids.rsplit(|&byte| byte == b'\t').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dup_over(fd: usize, by: usize) {
        // SAFETY: puts another file in place of a descriptor of this test's own.
        unsafe { raw::syscall(libc::SYS_dup3, [by, fd, 0, 0, 0, 0]) }.unwrap();
    }

    /// Gives the test descriptor numbers of its own: other tests run beside it.
    fn in_own_table() -> StatusFile {
        let flags = libc::CLONE_FILES as usize;
        // SAFETY: the thread goes on with a copy of the table that it had.
        unsafe { raw::syscall(libc::SYS_unshare, [flags, 0, 0, 0, 0, 0]) }.unwrap();
        StatusFile::new()
    }

    fn open_files() -> usize {
        std::fs::read_dir("/proc/thread-self/fd").unwrap().count()
    }

    #[test]
    fn a_descriptor_that_became_something_else_is_neither_read_nor_closed() {
        let file = in_own_table();
        file.open();
        assert!(file.thread_count().is_ok_and(|count| count >= 1));
        let (fd, _) = file.held().unwrap();
        // Another file with the same field, in place of ours.
        let other = std::env::temp_dir().join(format!("psx-status-{}", std::process::id()));
        std::fs::write(&other, "Name:\tx\nThreads:\t1\nSigQ:\t1\n").unwrap();
        let forged = std::fs::File::open(&other).unwrap();
        std::fs::remove_file(other).unwrap();
        dup_over(fd, std::os::fd::AsRawFd::as_raw_fd(&forged) as usize);
        assert_eq!(file.thread_count().map_err(Errno::raw), Err(libc::EBADF));
        file.open();
        assert!(file.thread_count().is_ok_and(|count| count >= 1), "opened anew");
        assert_ne!(file.held().unwrap().0, fd);
        assert!(Identity::of(fd).is_ok(), "the other file is still open");
        file.reset_after_fork();
        assert!(file.held().is_err());
        assert!(Identity::of(fd).is_ok(), "the other file is still open");
        procfs::close(fd);
    }

    #[test]
    fn a_number_that_it_had_before_takes_no_new_record() {
        let file = in_own_table();
        for _ in 0..3 * RECORDS {
            file.open();
            let (fd, _) = file.held().expect("opened again");
            procfs::close(fd);
        }
    }

    #[test]
    fn a_file_that_cannot_be_remembered_is_closed() {
        let file = in_own_table();
        file.open();
        let (fd, identity) = file.held().unwrap();
        procfs::close(fd);
        for i in 0..RECORDS {
            let elsewhere = Identity { inode: identity.inode + 1, ..identity };
            let _ = file.record(1_000_000 + i, elsewhere);
        }
        // The number is free again, so it may be the one that is remembered.
        let occupied = std::fs::File::open("/dev/null").unwrap();
        let before = open_files();
        for _ in 0..3 {
            file.open();
        }
        assert!(open_files() <= before + 1);
        file.reset_after_fork();
        drop(occupied);
    }
}
