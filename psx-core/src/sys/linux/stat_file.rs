//! The kernel's thread count of the process: field 20 of `/proc/self/stat`, with the main thread's state,
//! field 3, beside it.
//!
//! Need: a round reads the count after a chroot, after `/proc` is unmounted, after a change of user and
//! under Landlock, where the path does not work any more. Nor may it look a path up: the lookup may wait
//! for a file server (FUSE), which may be a stopped thread of this process. Design: the file is opened
//! once, early, and kept open. It is a file and no directory, because a directory is a way out: `openat(fd,
//! "../../etc/shadow")` and `fchdir(fd)` lead from it to the root directory that the process had when psx
//! was first used, past every chroot and `pivot_root` since. Nothing can be opened from a file.
//!
//! `/proc/self/status` has both fields too, but the kernel writes its whole text at each read, up to 700 KB
//! with the groups of the process. It is the fallback where a policy forbids the other file: AppArmor's
//! abstractions/base allows `status` and not `stat`.

use super::super::ThreadCount;
use super::procfs::{self, Descriptor, Lookup, open_proc, open_within, parse, read_at, read_field};
use super::stat::{self, Stat};
use super::sync::{AtomicU32, AtomicU64, Ordering};
use crate::Errno;

/// Tells the file from another one with its descriptor number: a program may close every descriptor that
/// it does not know, and a thread may have a descriptor table of its own (`unshare(CLONE_FILES)`).
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
    /// [`EMPTY`], [`WRITING`], or the number plus [`FIRST_FD`]. A compare-and-swap takes it from `EMPTY`;
    /// the number is stored with Release after the identity, and read with Acquire.
    state: AtomicU32,
    /// Written once, by the thread that set the state to `WRITING`. Relaxed: `state` orders it.
    device: AtomicU64,
    inode: AtomicU64,
}

const EMPTY: u32 = 0;
const WRITING: u32 = 1;
const FIRST_FD: u32 = 2;

impl Record {
    const fn new() -> Self {
        Self { state: AtomicU32::new(EMPTY), device: AtomicU64::new(0), inode: AtomicU64::new(0) }
    }

    fn get(&self) -> Option<(usize, Identity)> {
        // Acquire pairs with the Release in `StatFile::record`.
        let number = self.state.load(Ordering::Acquire).checked_sub(FIRST_FD)?;
        let device = self.device.load(Ordering::Relaxed);
        let inode = self.inode.load(Ordering::Relaxed);
        Some((number as usize, Identity { device, inode }))
    }
}

/// How many numbers are recorded. One is enough unless the program closes the descriptor, or has a
/// descriptor table without it: then the file takes one more, unless it gets a number that it had before.
const RECORDS: usize = 32;

pub(super) struct StatFile {
    /// Filled from the front and not changed afterwards, so that a reader sees whole records, and a thread
    /// with its own descriptor table does not break another thread's record. In place: nothing is
    /// allocated when the file is opened again, or in a forked child.
    records: [Record; RECORDS],
}

impl StatFile {
    pub(super) const fn new() -> Self {
        Self { records: [const { Record::new() }; RECORDS] }
    }

    /// Opens the file unless the calling thread's descriptor table has it; returns whether it has it then.
    /// Where it cannot be opened, the proof of coverage fails later. Async-signal-safe.
    pub(super) fn open(&self) -> bool {
        const TRIES: usize = 8;
        (0..TRIES).find_map(|_| self.try_open()).unwrap_or(false)
    }

    /// `None` if another thread closed the new descriptor before it was checked.
    fn try_open(&self) -> Option<bool> {
        if self.is_open() {
            return Some(true);
        }
        let open = || {
            let proc = open_proc(Lookup::MayWait)?;
            let status = || open_within(&proc, c"self/status", 0);
            let file = open_within(&proc, c"self/stat", 0).or_else(|_| status())?;
            Ok((status()?, file))
        };
        let (status, file) = match open() {
            Ok(files) => files,
            Err(errno) if Errno::raw(errno) == libc::EBADF => return None,
            Err(_) => return Some(false),
        };
        let identity = Identity::of(file.number());
        let identity_of_status = Identity::of(status.number());
        let is_ours = [&status, &file].map(|file| procfs::is_procfs(file.number()))
            == [Ok(true); 2]
            && is_of_this_process(&status, &file);
        let status = if_unchanged(status, identity_of_status);
        let file = if_unchanged(file, identity)?;
        drop(status?);
        let (is_kept, is_had) = match (self.find(), identity) {
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

    /// Records a descriptor; returns whether there was room for it.
    fn record(&self, fd: usize, identity: Identity) -> bool {
        let Some(state) = u32::try_from(fd).ok().and_then(|fd| fd.checked_add(FIRST_FD)) else {
            return false;
        };
        for record in &self.records {
            let taken =
                record.state.compare_exchange(EMPTY, WRITING, Ordering::Relaxed, Ordering::Relaxed);
            if taken.is_ok() {
                record.device.store(identity.device, Ordering::Relaxed);
                record.inode.store(identity.inode, Ordering::Relaxed);
                // Release pairs with the Acquire in `Record::get`.
                record.state.store(state, Ordering::Release);
                return true;
            }
        }
        false
    }

    /// In a forked child, which has one thread: closes the parent's file, which counts the parent's
    /// threads, and forgets it.
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
        self.find().is_ok()
    }

    /// The kernel's thread count of the process, and whether the main thread has ended.
    pub(super) fn thread_count(&self) -> Result<ThreadCount, Errno> {
        // The identity is checked before the read, since a read of another file may not return, and after
        // it: if the number is still the file's then, the text was the file's too.
        let (fd, identity) = self.find()?;
        let count = count_in(fd);
        if Identity::of(fd)? == identity { count } else { Err(Errno::from_raw(libc::EBADF)) }
    }

    /// The file's descriptor in the calling thread's table: `ENOENT` if it was never opened, `EBADF` if it
    /// is not open any more.
    fn find(&self) -> Result<(usize, Identity), Errno> {
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

/// The file, if its number is still this file's. If not, it is not psx's to close.
fn if_unchanged(file: Descriptor, identity: Result<Identity, Errno>) -> Option<Descriptor> {
    if identity.is_ok() && Identity::of(file.number()) == identity {
        return Some(file);
    }
    file.into_number();
    None
}

/// Whether both files are the calling process's, and not another one's put in their place. Only the status
/// has the id that the process itself knows; the stat has the id in the pid namespace of this `/proc`. In
/// one `/proc`, two files with the same id are of the same process.
fn is_of_this_process(status: &Descriptor, file: &Descriptor) -> bool {
    let device = |file: &Descriptor| procfs::fstat(file.number()).map(|status| status.st_dev);
    let id = id_in(file.number());
    procfs::is_own_status(status.number())
        && device(status).is_ok_and(|number| device(file) == Ok(number))
        && id.is_ok()
        && id == id_in(status.number())
}

/// The process's id in a stat or status, in the pid namespace of its `/proc`.
fn id_in(fd: usize) -> Result<u32, Errno> {
    let mut text = [0; stat::SIZE];
    let filled = read_at(fd, &mut text, 0)?;
    match Stat::parse(&text[..filled]) {
        Some(stat) => Ok(stat.id),
        None => read_field(fd, b"\nTgid:\t", parse),
    }
}

/// The count in a stat or status.
fn count_in(fd: usize) -> Result<ThreadCount, Errno> {
    let mut text = [0; stat::SIZE];
    let filled = read_at(fd, &mut text, 0)?;
    match Stat::parse(&text[..filled]) {
        Some(stat) => stat.thread_count().ok_or(Errno::from_raw(libc::EIO)),
        None => count_in_status(fd),
    }
}

/// Reads the state first: see [`ThreadCount`].
fn count_in_status(fd: usize) -> Result<ThreadCount, Errno> {
    let has_ended = |state: &[u8]| Some(state.get(..1).is_some_and(stat::has_ended));
    let main_has_ended = read_field(fd, b"\nState:\t", has_ended)?;
    let threads = read_field(fd, b"\nThreads:\t", parse)? as usize;
    Ok(ThreadCount { threads, main_has_ended })
}

#[cfg(test)]
mod tests {
    use super::super::raw;
    use super::*;

    fn dup_over(fd: usize, by: usize) {
        // SAFETY: replaces a descriptor of this test.
        unsafe { raw::syscall(libc::SYS_dup3, [by, fd, 0, 0, 0, 0]) }.unwrap();
    }

    /// Gives the test's thread its own descriptor table: other tests run at the same time.
    fn in_own_table() -> StatFile {
        let flags = libc::CLONE_FILES as usize;
        // SAFETY: the thread continues with a copy of its table.
        unsafe { raw::syscall(libc::SYS_unshare, [flags, 0, 0, 0, 0, 0]) }.unwrap();
        StatFile::new()
    }

    fn open_files() -> usize {
        std::fs::read_dir("/proc/thread-self/fd").unwrap().count()
    }

    #[test]
    fn a_replaced_descriptor_is_neither_read_nor_closed() {
        let file = in_own_table();
        file.open();
        assert!(file.thread_count().is_ok_and(|count| count.threads >= 1));
        let (fd, _) = file.find().unwrap();
        // Another file with the same text, in place of ours.
        let other = std::env::temp_dir().join(format!("psx-stat-{}", std::process::id()));
        std::fs::copy("/proc/self/stat", &other).unwrap();
        let forged = std::fs::File::open(&other).unwrap();
        std::fs::remove_file(other).unwrap();
        dup_over(fd, std::os::fd::AsRawFd::as_raw_fd(&forged) as usize);
        assert_eq!(file.thread_count().map_err(Errno::raw), Err(libc::EBADF));
        file.open();
        assert!(file.thread_count().is_ok_and(|count| count.threads >= 1), "opened again");
        assert_ne!(file.find().unwrap().0, fd);
        assert!(Identity::of(fd).is_ok(), "the other file is still open");
        file.reset_after_fork();
        assert!(file.find().is_err());
        assert!(Identity::of(fd).is_ok(), "the other file is still open");
        procfs::close(fd);
    }

    #[test]
    fn both_files_have_the_count() {
        let proc = open_proc(Lookup::MayWait).unwrap();
        for path in [c"self/stat", c"self/status"] {
            let file = open_within(&proc, path, 0).unwrap();
            let count = count_in(file.number()).unwrap();
            assert!(count.threads >= 1 && !count.main_has_ended, "{path:?}: {count:?}");
            assert_eq!(id_in(file.number()), Ok(std::process::id()), "{path:?}");
        }
        let other = open_within(&proc, c"self/maps", 0).unwrap();
        assert!(count_in(other.number()).is_err());
    }

    #[test]
    fn the_files_of_another_process_are_refused() {
        let mut other =
            std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let open = |path: String| {
            let path = std::ffi::CString::new(path).unwrap();
            open_within(&open_proc(Lookup::MayWait).unwrap(), &path, 0).unwrap()
        };
        let theirs = |file| open(format!("{}/{file}", other.id()));
        let ours = |file| open(format!("self/{file}"));
        assert!(is_of_this_process(&ours("status"), &ours("stat")));
        assert!(!is_of_this_process(&theirs("status"), &theirs("stat")));
        assert!(!is_of_this_process(&ours("status"), &theirs("stat")));
        assert!(!is_of_this_process(&theirs("status"), &ours("stat")));
        drop(other.stdin.take());
        other.wait().unwrap();
    }

    #[test]
    fn a_number_that_is_recorded_takes_no_new_record() {
        let file = in_own_table();
        for _ in 0..3 * RECORDS {
            file.open();
            let (fd, _) = file.find().expect("opened again");
            procfs::close(fd);
        }
    }

    #[test]
    fn a_file_that_cannot_be_recorded_is_closed() {
        let file = in_own_table();
        file.open();
        let (fd, identity) = file.find().unwrap();
        procfs::close(fd);
        for i in 0..RECORDS {
            let elsewhere = Identity { inode: identity.inode + 1, ..identity };
            let _ = file.record(1_000_000 + i, elsewhere);
        }
        // Takes the number that is free again and still recorded.
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
