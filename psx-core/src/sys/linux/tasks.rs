//! The kernel's own view of the process's threads: `/proc/self/task`.
//!
//! The directory is opened once, early, and kept: an open descriptor goes on working after a
//! chroot, after `/proc` is unmounted, after a change of user and under Landlock, where the path
//! does not. Its link count is the number of threads plus two (`proc_task_getattr` in the kernel's
//! fs/proc/base.c), so that counting them costs one `fstat`.

use core::ffi::CStr;
use core::fmt::Write;
use core::ptr;

use super::super::Kind;
use super::raw;
use super::sync::{AtomicPtr, Ordering};
use crate::Errno;
use crate::memory::{NoMemory, try_box};
use crate::report::Comm;

/// An open `/proc/self/task`, and what tells it from whatever else may come to have its number:
/// programs that close every descriptor they do not know exist.
struct Directory {
    fd: usize,
    device: u64,
    inode: u64,
}

impl Directory {
    fn of_procfs(fd: usize) -> Result<Box<Self>, Errno> {
        let status = fstat(fd)?;
        if !is_procfs(fd)? {
            return Err(Errno::from_raw(libc::ENOENT));
        }
        try_box(Self { fd, device: status.st_dev, inode: status.st_ino })
            .map_err(|NoMemory| Errno::from_raw(libc::ENOMEM))
    }
}

pub(super) struct Tasks {
    /// Null until first opened, and after a fork. Replaced only by compare-and-swap (AcqRel, with
    /// the Acquire of each reader as its partner); directories are small and never freed, since
    /// another thread may be looking.
    directory: AtomicPtr<Directory>,
}

impl Tasks {
    pub(super) const fn new() -> Self {
        Self { directory: AtomicPtr::new(ptr::null_mut()) }
    }

    /// Opens the directory where that has not been done, or where somebody has closed it. Allocates
    /// then. Where `/proc` is out of reach there will be no proof, which is for the proof to say.
    pub(super) fn open(&self) {
        let current = self.directory.load(Ordering::Acquire);
        if self.status().is_ok() {
            return;
        }
        let Ok(fd) = open_at(libc::AT_FDCWD as usize, c"/proc/self/task", libc::O_DIRECTORY) else {
            return;
        };
        // Whoever made the root directory that this process runs in may have put a folder of his own
        // there; the proof is the kernel's or none.
        let Ok(opened) = Directory::of_procfs(fd) else { return close(fd) };
        let opened = Box::into_raw(opened);
        if self
            .directory
            .compare_exchange(current, opened, Ordering::AcqRel, Ordering::Relaxed)
            .is_err()
        {
            // SAFETY: another thread's directory went in, so this one was never shown to anyone.
            drop(unsafe { Box::from_raw(opened) });
            close(fd);
        }
    }

    /// Forgets the directory of the process that forked: it counts the parent's threads.
    pub(super) fn forget(&self) {
        if self.status().is_ok() {
            if let Ok(directory) = self.directory() {
                close(directory.fd);
            }
        }
        self.directory.store(ptr::null_mut(), Ordering::Release);
    }

    /// How many threads the process has, by the kernel's count.
    pub(super) fn count(&self) -> Result<usize, Errno> {
        let links = self.status()?.st_nlink as usize;
        links.checked_sub(2).ok_or(Errno::from_raw(libc::ENOSYS))
    }

    /// Calls `found` with the id of each thread. Neither allocates nor locks. Only the holder of
    /// the round's lock calls it, since the descriptor has one position.
    pub(super) fn for_each(&self, mut found: impl FnMut(u32)) -> Result<(), Errno> {
        const HEADER: usize = 19;
        self.status()?;
        let fd = self.directory()?.fd;
        let mut entries = [0_u8; 4096];
        // SAFETY: moves the position of our own descriptor.
        unsafe { raw::syscall(libc::SYS_lseek, [fd, 0, libc::SEEK_SET as usize, 0, 0, 0]) }?;
        loop {
            let args = [fd, entries.as_mut_ptr() as usize, entries.len(), 0, 0, 0];
            // SAFETY: the kernel writes at most as many bytes as the buffer has.
            let filled = unsafe { raw::syscall(libc::SYS_getdents64, args) }?;
            let mut rest = &entries[..filled];
            if rest.is_empty() {
                return Ok(());
            }
            while rest.len() > HEADER {
                let length = usize::from(u16::from_ne_bytes([rest[16], rest[17]]));
                if length <= HEADER || length > rest.len() {
                    return Err(Errno::from_raw(libc::EIO));
                }
                if let Some(tid) = parse(rest[HEADER..length].split(|&byte| byte == 0).next()) {
                    found(tid);
                }
                rest = &rest[length..];
            }
        }
    }

    /// What kind of thread `tid` is; `None` where there is none of that id. One that cannot be
    /// looked at counts as missed.
    pub(super) fn kind(&self, tid: u32) -> Option<Kind> {
        let mut buffer = [0_u8; 512];
        match self.read(tid, "stat", &mut buffer) {
            Ok(stat) => Some(classify(stat)),
            Err(errno) if matches!(errno.raw(), libc::ENOENT | libc::ESRCH) => None,
            Err(_) => Some(Kind::Missed),
        }
    }

    /// The name of the thread `tid`, where it can be read.
    pub(super) fn name(&self, tid: u32) -> Option<Comm> {
        let mut buffer = [0_u8; 32];
        let read = self.read(tid, "comm", &mut buffer).ok()?;
        let name = read.strip_suffix(b"\n").unwrap_or(read);
        let mut comm = Comm::default();
        let length = name.len().min(comm.0.len());
        comm.0[..length].copy_from_slice(&name[..length]);
        Some(comm)
    }

    /// Reads the start of the file `/proc/self/task/TID/FILE`.
    fn read<'b>(&self, tid: u32, file: &str, buffer: &'b mut [u8]) -> Result<&'b [u8], Errno> {
        self.status()?;
        let mut path = Path { bytes: [0; 32], length: 0 };
        let written = write!(path, "{tid}/{file}");
        debug_assert!(written.is_ok(), "a number and a short name fit");
        let path =
            CStr::from_bytes_until_nul(&path.bytes).map_err(|_| Errno::from_raw(libc::EINVAL))?;
        let fd = open_at(self.directory()?.fd, path, 0)?;
        let args = [fd, buffer.as_mut_ptr() as usize, buffer.len(), 0, 0, 0];
        // SAFETY: the kernel writes at most as many bytes as the buffer has.
        let read = unsafe { raw::syscall(libc::SYS_read, args) };
        close(fd);
        Ok(&buffer[..read?])
    }

    fn directory(&self) -> Result<&Directory, Errno> {
        // SAFETY: directories are never freed once shown (see `directory`). Acquire pairs with the
        // compare-and-swap in `open`.
        unsafe { self.directory.load(Ordering::Acquire).as_ref() }
            .ok_or(Errno::from_raw(libc::ENOENT))
    }

    /// The directory's status, once it is sure that the descriptor still is our directory.
    fn status(&self) -> Result<libc::stat, Errno> {
        let directory = self.directory()?;
        let status = fstat(directory.fd)?;
        if (status.st_dev, status.st_ino) == (directory.device, directory.inode) {
            Ok(status)
        } else {
            Err(Errno::from_raw(libc::EBADF))
        }
    }
}

/// Reads `/proc/self/task/TID/stat`, see `proc_pid_stat(5)`.
fn classify(stat: &[u8]) -> Kind {
    /// `PF_IO_WORKER` in the kernel's include/linux/sched.h.
    const IO_WORKER: u32 = 0x10;
    // The name may hold anything, parentheses and blanks included: fields count from the last one.
    let (Some(start), Some(end)) =
        (stat.iter().position(|&b| b == b'('), stat.iter().rposition(|&b| b == b')'))
    else {
        return Kind::Missed;
    };
    let mut fields = stat[end + 1..].split(|&b| b == b' ').filter(|field| !field.is_empty());
    let state = fields.next();
    let flags = parse(fields.nth(5)).unwrap_or(0);
    match state {
        Some(b"Z" | b"X") => Kind::Dead,
        // A ring's poller has the flag as well, but keeps the credentials of the ring's creation.
        _ if flags & IO_WORKER != 0 && stat[start + 1..end].starts_with(b"iou-wrk-") => {
            Kind::UringWorker
        }
        _ => Kind::Missed,
    }
}

fn parse(digits: Option<&[u8]>) -> Option<u32> {
    core::str::from_utf8(digits?).ok()?.parse().ok()
}

fn open_at(directory: usize, path: &CStr, flags: i32) -> Result<usize, Errno> {
    let flags = libc::O_RDONLY | libc::O_CLOEXEC | flags;
    let args = [directory, path.as_ptr() as usize, flags as usize, 0, 0, 0];
    // SAFETY: the kernel reads the path up to its NUL.
    unsafe { raw::syscall(libc::SYS_openat, args) }
}

fn fstat(fd: usize) -> Result<libc::stat, Errno> {
    // SAFETY: all-zero bytes are a valid `stat`.
    let mut status: libc::stat = unsafe { core::mem::zeroed() };
    // SAFETY: on x86_64 and aarch64 libc's `stat` is the kernel's, and it is ours to write.
    unsafe { raw::syscall(libc::SYS_fstat, [fd, &raw mut status as usize, 0, 0, 0, 0]) }?;
    Ok(status)
}

fn is_procfs(fd: usize) -> Result<bool, Errno> {
    // SAFETY: all-zero bytes are a valid `statfs`.
    let mut status: libc::statfs = unsafe { core::mem::zeroed() };
    // SAFETY: on x86_64 and aarch64 libc's `statfs` is the kernel's, and it is ours to write.
    unsafe { raw::syscall(libc::SYS_fstatfs, [fd, &raw mut status as usize, 0, 0, 0, 0]) }?;
    Ok(status.f_type == libc::PROC_SUPER_MAGIC)
}

fn close(fd: usize) {
    // SAFETY: only called with descriptors that this file opened and nobody else knows.
    let _ = unsafe { raw::syscall(libc::SYS_close, [fd, 0, 0, 0, 0, 0]) };
}

/// A path that is written where nothing may be allocated. The last byte stays zero.
struct Path {
    bytes: [u8; 32],
    length: usize,
}

impl Write for Path {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        let end = self.length + text.len();
        let room = self.bytes.get_mut(self.length..end).filter(|_| end < 32);
        room.ok_or(core::fmt::Error)?.copy_from_slice(text.as_bytes());
        self.length = end;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORKER: &str = "(iou-wrk-4711) S 1 1 1 0 -1 4210768 0 0";

    fn kind_of(rest: &str) -> Kind {
        classify(format!("4712 {rest}").as_bytes())
    }

    #[test]
    fn threads_are_told_apart_by_state_flags_and_name() {
        assert_eq!(kind_of("(main) Z 1 1 1 0 -1 4210764 0"), Kind::Dead);
        assert_eq!(kind_of("(main) S 1 1 1 0 -1 4194304 0"), Kind::Missed);
        assert_eq!(kind_of(WORKER), Kind::UringWorker);
        assert_eq!(kind_of(&WORKER.replace("wrk", "sqp")), Kind::Missed);
        assert_eq!(kind_of(&WORKER.replace("4210768", "4210752")), Kind::Missed);
    }

    #[test]
    fn a_name_cannot_pose_as_another_field() {
        assert_eq!(kind_of("(a) Z 1 1 1 0) S 1 1 1 0 -1 0 0"), Kind::Missed);
        assert_eq!(kind_of("(iou-wrk-1) Z) R 1 1 1 0 -1 0 0"), Kind::Missed);
        assert_eq!(classify(b"nonsense"), Kind::Missed);
        assert_eq!(classify(b""), Kind::Missed);
    }

    #[test]
    fn a_path_that_does_not_fit_is_refused() {
        let mut path = Path { bytes: [0; 32], length: 0 };
        assert!(write!(path, "{}/stat", u32::MAX).is_ok());
        assert!(write!(path, "{}", "x".repeat(32)).is_err());
    }

    #[test]
    fn a_descriptor_that_became_something_else_is_noticed() {
        let tasks = Tasks::new();
        tasks.open();
        assert!(tasks.count().is_ok_and(|count| count >= 1));
        let fd = tasks.directory().map(|directory| directory.fd).unwrap_or_default();
        let other = open_at(libc::AT_FDCWD as usize, c"/", libc::O_DIRECTORY).unwrap_or_default();
        assert!(Directory::of_procfs(other).is_err(), "another file system's folder is no proof");
        // SAFETY: puts the root directory in place of our own descriptor.
        unsafe { raw::syscall(libc::SYS_dup3, [other, fd, 0, 0, 0, 0]) }.unwrap();
        assert_eq!(tasks.count().map_err(Errno::raw), Err(libc::EBADF));
        tasks.open();
        assert!(tasks.count().is_ok(), "opened anew");
        close(fd);
        close(other);
    }
}
