//! The kernel's own count of the process's threads: field 20 of `/proc/self/stat`, and beside it the
//! main thread's state, field 3; see `proc_pid_stat(5)`.
//!
//! The file is opened once, early, and kept, since an open file goes on working after a chroot,
//! after `/proc` is unmounted, after a change of user and under Landlock, where the path does not.
//! It is a file and no directory, because a directory is a way out: `openat(fd, "../../etc/shadow")`
//! and `fchdir(fd)` lead from it to the root directory of the file system that psx was first used
//! in, past every chroot and `pivot_root` since. Nothing can be opened from a file.
//!
//! Why not by path at each count: the lookup of a path may wait for a file server (FUSE), and that may
//! be a thread of this process, which stands still while threads are counted.
//!
//! Why not `/proc/self/status`, which has both too: its text is longer, with the groups of the process up to
//! 700 KB long, and the kernel writes the whole text for each read. It is kept where a policy forbids the
//! other file: AppArmor's abstractions/base allows `status` and not `stat`.

use super::super::ThreadCount;
use super::procfs::{self, Descriptor, Lookup, open_proc, open_within, parse, read_at, read_field};
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
        // Acquire pairs with the Release in `StatFile::record`.
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

pub(super) struct StatFile {
    /// Filled from the front and never changed afterwards, so that a reader sees whole records and a
    /// thread with a descriptor table of its own does not make another thread's record wrong. In
    /// place: nothing is allocated when the file is opened again, or in a forked child.
    records: [Record; RECORDS],
}

impl StatFile {
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
        let status = still(status, identity_of_status);
        let file = still(file, identity)?;
        drop(status?);
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

    /// The kernel's count of the process's threads, and whether the main thread has ended.
    pub(super) fn thread_count(&self) -> Result<ThreadCount, Errno> {
        // Before the read, since reading another file may wait for ever, and after it, since what was
        // read is the file's if the number was still the file then.
        let (fd, identity) = self.held()?;
        let count = count_in(fd);
        if Identity::of(fd)? == identity { count } else { Err(Errno::from_raw(libc::EBADF)) }
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

/// The file, if the number is still the file that it was. If not, it is not ours to close.
fn still(file: Descriptor, identity: Result<Identity, Errno>) -> Option<Descriptor> {
    if identity.is_ok() && Identity::of(file.number()) == identity {
        return Some(file);
    }
    file.into_number();
    None
}

/// Whether the two files are of the calling process and not of another one, put in its place. The status
/// has the id that the process knows, the stat has only the one that this `/proc` knows: within one
/// `/proc`, two files with one id are of one process.
fn is_of_this_process(status: &Descriptor, file: &Descriptor) -> bool {
    let device = |file: &Descriptor| procfs::fstat(file.number()).map(|status| status.st_dev);
    let id = id_in(file.number());
    procfs::is_own_status(status.number())
        && device(status).is_ok_and(|number| device(file) == Ok(number))
        && id.is_ok()
        && id == id_in(status.number())
}

/// The id of the process that the stat or status is of, in the pid namespace of its `/proc`.
fn id_in(fd: usize) -> Result<u32, Errno> {
    let mut text = [0; TEXT];
    let filled = read_at(fd, &mut text, 0)?;
    if is_status(&text[..filled]) {
        return read_field(fd, b"\nTgid:\t", parse);
    }
    first_id(&text[..filled]).ok_or(Errno::from_raw(libc::EIO))
}

/// The count in a stat or status.
fn count_in(fd: usize) -> Result<ThreadCount, Errno> {
    let mut text = [0; TEXT];
    let filled = read_at(fd, &mut text, 0)?;
    if is_status(&text[..filled]) {
        return count_in_status(fd);
    }
    parse_count(&text[..filled]).ok_or(Errno::from_raw(libc::EIO))
}

/// In this order: see [`ThreadCount`].
fn count_in_status(fd: usize) -> Result<ThreadCount, Errno> {
    let has_ended = |state: &[u8]| Some(matches!(state.first(), Some(b'Z' | b'X')));
    let main_has_ended = read_field(fd, b"\nState:\t", has_ended)?;
    let threads = read_field(fd, b"\nThreads:\t", parse)? as usize;
    Ok(ThreadCount { threads, main_has_ended })
}

/// A stat begins with a number.
fn is_status(text: &[u8]) -> bool {
    text.starts_with(b"Name:")
}

/// Enough for the fields up to the thread count, with all numbers as long as they can be: 10 digits of
/// the id, a name of 15 bytes (which old kernels escape, at most to 60), 5 ids of 11, 9 numbers of 20
/// digits and a sign, and blanks and parentheses: fewer than 400 bytes.
const TEXT: usize = 512;

fn first_id(stat: &[u8]) -> Option<u32> {
    parse(stat.split(|&byte| byte == b' ').next()?)
}

/// Reads field 3 and field 20 of the text. Both come out of a single read: two reads see two moments.
///
/// The kernel (`do_task_stat` in fs/proc/array.c) reads the state before it takes the lock under which
/// it counts. So where the main thread is said to have ended, it had ended before the count.
fn parse_count(stat: &[u8]) -> Option<ThreadCount> {
    first_id(stat)?;
    // The name may hold anything, parentheses and blanks included: fields count from the last one.
    let end = stat.iter().rposition(|&byte| byte == b')')?;
    let mut fields = stat[end + 1..].split(|&byte| byte == b' ').skip(1);
    let state = fields.next()?;
    let threads = parse(fields.nth(20 - 4)?)?;
    // The blank behind the number: it is whole.
    fields.next()?;
    Some(ThreadCount { threads: threads as usize, main_has_ended: matches!(state, b"Z" | b"X") })
}

#[cfg(test)]
mod tests {
    use super::super::raw;
    use super::*;

    fn dup_over(fd: usize, by: usize) {
        // SAFETY: puts another file in place of a descriptor of this test's own.
        unsafe { raw::syscall(libc::SYS_dup3, [by, fd, 0, 0, 0, 0]) }.unwrap();
    }

    /// Gives the test descriptor numbers of its own: other tests run beside it.
    fn in_own_table() -> StatFile {
        let flags = libc::CLONE_FILES as usize;
        // SAFETY: the thread goes on with a copy of the table that it had.
        unsafe { raw::syscall(libc::SYS_unshare, [flags, 0, 0, 0, 0, 0]) }.unwrap();
        StatFile::new()
    }

    fn open_files() -> usize {
        std::fs::read_dir("/proc/thread-self/fd").unwrap().count()
    }

    #[test]
    fn a_descriptor_that_became_something_else_is_neither_read_nor_closed() {
        let file = in_own_table();
        file.open();
        assert!(file.thread_count().is_ok_and(|count| count.threads >= 1));
        let (fd, _) = file.held().unwrap();
        // Another file with the same text, in place of ours.
        let other = std::env::temp_dir().join(format!("psx-stat-{}", std::process::id()));
        std::fs::copy("/proc/self/stat", &other).unwrap();
        let forged = std::fs::File::open(&other).unwrap();
        std::fs::remove_file(other).unwrap();
        dup_over(fd, std::os::fd::AsRawFd::as_raw_fd(&forged) as usize);
        assert_eq!(file.thread_count().map_err(Errno::raw), Err(libc::EBADF));
        file.open();
        assert!(file.thread_count().is_ok_and(|count| count.threads >= 1), "opened anew");
        assert_ne!(file.held().unwrap().0, fd);
        assert!(Identity::of(fd).is_ok(), "the other file is still open");
        file.reset_after_fork();
        assert!(file.held().is_err());
        assert!(Identity::of(fd).is_ok(), "the other file is still open");
        procfs::close(fd);
    }

    fn parsed(text: &str) -> Option<(usize, bool)> {
        parse_count(text.as_bytes()).map(|count| (count.threads, count.main_has_ended))
    }

    #[test]
    fn fields_count_from_the_end_of_the_name() {
        const BEFORE: &str = "1 2 3 4 -1 4210764 7 8 9 10 11 12 13 14 20 0";
        for (name, state, has_ended) in [
            ("main", 'R', false),
            ("main", 'Z', true),
            ("main", 'X', true),
            ("a) Z 1 1 1 (", 'S', false),
            (") Z 1 2 3) R", 'D', false),
            ("two\nlines", 'Z', true),
            ("", 't', false),
        ] {
            let text = format!("4711 ({name}) {state} {BEFORE} 1234 0 5678 0\n");
            assert_eq!(parsed(&text), Some((1234, has_ended)), "{text}");
        }
        for nonsense in ["", "4711", "4711 (main", "4711 (main)", "4711 (main) ", "4711 (main) R 1"]
        {
            assert_eq!(parsed(nonsense), None, "{nonsense:?}");
        }
        let text = format!("4711 (main) R {BEFORE} 12");
        assert_eq!(parsed(&text), None, "the number may go on");
        assert_eq!(parsed(&format!("{text}x 0")), None);
        assert_eq!(parsed("Name:\tx\nState:\tZ (zombie)\nThreads:\t1\nSigQ:\t1/2\n"), None);
    }

    /// The longest text that the kernel can write before the count, as an old kernel escapes the name.
    #[test]
    fn the_count_is_in_the_first_read() {
        let name = "\\\\\\n)".repeat(15);
        let ids = [i32::MIN; 5].map(|id| id.to_string()).join(" ");
        let numbers = [i64::MIN; 10].map(|number| number.to_string()).join(" ");
        let text = format!("{} ({name}) Z {ids} {} {numbers} {} 0 ", u32::MAX, u32::MAX, i32::MAX);
        assert!(text.len() <= TEXT, "{} bytes", text.len());
        assert_eq!(parsed(&text), Some((i32::MAX as usize, true)));
    }

    /// A status whose groups read like the end of a stat.
    #[test]
    fn a_status_is_never_read_as_a_stat() {
        let groups = (1..40).map(|id| format!("{id} ")).collect::<String>();
        let status = format!("Name:\tx\nState:\tR (running)\nTgid:\t1\nGroups:\t{groups}\n");
        assert!(is_status(status.as_bytes()));
        assert_eq!(parsed(&status), None);
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
    fn the_files_of_another_process_are_not_taken_for_ours() {
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
