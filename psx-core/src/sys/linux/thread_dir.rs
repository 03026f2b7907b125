//! The process's threads: `/proc/self/task`, opened by path for each use.
//!
//! It is not kept open, because a directory leads out of every chroot (see `stat_file`). So it cannot be
//! opened after a chroot, after `/proc` is unmounted and under Landlock; then only the kernel's count is
//! known.
//!
//! `/proc` may belong to an outer pid namespace (`unshare --pid` without a new mount of `/proc`). A thread
//! has another id there; its own id is the last one in the `NSpid:` line of its status.

use core::ffi::{CStr, c_int};
use core::fmt::Write;

use super::super::{Activity, ThreadInfo, UnregisteredKind};
use super::procfs::{
    Descriptor, Lookup, is_own_status, last_id, open_proc, open_within, parse, read_at, read_field,
};
use super::raw;
use super::stat::{self, Stat};
use super::thread_status::{self, WCHAN_SIZE};
use crate::report::Comm;
use crate::{Errno, Obstacle};

/// An open `/proc/self/task`.
pub(crate) struct ThreadDir {
    directory: Descriptor,
    /// Its ids are those of another pid namespace.
    is_translated: bool,
}

/// The two ids of a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ThreadIds {
    /// The result of `gettid` in it.
    pub(crate) tid: u32,
    /// Its id in `/proc`.
    pub(crate) proc_id: u32,
}

impl ThreadDir {
    /// Opens it while the other threads run.
    pub(super) fn open() -> Result<Self, Errno> {
        Self::open_by(Lookup::MayWait)
    }

    /// Opens it while they are stopped: does not wait for a file server, which may be one of them.
    pub(super) fn open_in_stop() -> Result<Self, Errno> {
        Self::open_by(Lookup::Cached)
    }

    fn open_by(lookup: Lookup) -> Result<Self, Errno> {
        let proc = open_proc(lookup)?;
        let directory = open_within(&proc, c"self/task", libc::O_DIRECTORY)?;
        let status = open_within(&proc, c"self/status", 0)?;
        // It is not where another process opens files for this one (a seccomp broker).
        if !is_own_status(status.number()) {
            return Err(Errno::from_raw(libc::ENOENT));
        }
        // One id for each pid namespace from that of `/proc` to the thread's own.
        let is_translated = |ids: &[u8]| Some(ids.contains(&b'\t'));
        let is_translated =
            read_field(status.number(), b"\nNStgid:\t", is_translated).unwrap_or(false);
        Ok(Self { directory, is_translated })
    }

    /// Calls `found` with each thread. If the thread at which the kernel is ends meanwhile, the kernel ends
    /// the list early, without an error: only the thread count tells whether the list is whole.
    pub(crate) fn for_each(&self, mut found: impl FnMut(ThreadIds)) -> Result<(), Errno> {
        const HEADER: usize = 19;
        let fd = self.directory.number();
        let mut entries = [0_u8; 4096];
        // SAFETY: sets the offset of our own descriptor.
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
                let name = rest[HEADER..length].split(|&byte| byte == 0).next();
                if let Some(proc_id) = name.and_then(parse) {
                    if let Some(tid) = self.tid_of(proc_id)? {
                        found(ThreadIds { tid, proc_id });
                    }
                }
                rest = &rest[length..];
            }
        }
    }

    /// The thread's id in its own pid namespace; `None` if it has ended.
    fn tid_of(&self, proc_id: u32) -> Result<Option<u32>, Errno> {
        if !self.is_translated {
            return Ok(Some(proc_id));
        }
        let id = self.open_file(proc_id, "status").and_then(|status| {
            read_field(status.number(), b"\nNSpid:\t", |ids| parse(last_id(ids)))
        });
        unless_ended(id)
    }

    /// The ids of the thread `tid`.
    pub(super) fn find(&self, tid: u32) -> Option<ThreadIds> {
        if !self.is_translated {
            return Some(ThreadIds { tid, proc_id: tid });
        }
        let mut thread = None;
        let _ = self.for_each(|listed| {
            if listed.tid == tid {
                thread = Some(listed);
            }
        });
        thread
    }

    /// What `/proc` says of the thread; `None` if it has ended. A thread whose stat cannot be read counts
    /// as missed.
    pub(crate) fn info(&self, proc_id: u32) -> Option<ThreadInfo> {
        let mut buffer = [0_u8; stat::SIZE];
        match unless_ended(self.read(proc_id, "stat", &mut buffer)) {
            Ok(text) => text.map(|text| Stat::parse(text).map_or(UNKNOWN, |stat| stat.info())),
            Err(_) => Some(UNKNOWN),
        }
    }

    /// The activity of the thread `tid`; `None` if it cannot be read.
    pub(super) fn activity(&self, tid: u32) -> Option<Activity> {
        let mut buffer = [0_u8; stat::SIZE];
        let text = self.read(self.find(tid)?.proc_id, "stat", &mut buffer).ok()?;
        Stat::parse(text)?.activity()
    }

    /// Whether the signal is queued for the thread `tid`; `None` if that cannot be read.
    pub(super) fn has_pending(&self, tid: u32, signal: c_int) -> Option<bool> {
        let status = self.open_file(self.find(tid)?.proc_id, "status").ok()?;
        let set = |digits: &[u8]| u64::from_str_radix(core::str::from_utf8(digits).ok()?, 16).ok();
        let pending = read_field(status.number(), b"\nSigPnd:\t", set).ok()?;
        Some(pending >> (signal - 1) & 1 != 0)
    }

    /// What keeps the thread `tid` from taking its signal; `None` if nothing is seen. Allocates.
    pub(super) fn obstacle(&self, tid: u32) -> Option<Obstacle> {
        let proc_id = self.find(tid)?.proc_id;
        let status = self.status(proc_id).ok()??;
        let mut buffer = [0; WCHAN_SIZE];
        thread_status::obstacle(&status, || self.read(proc_id, "wchan", &mut buffer).ok())
    }

    /// The text of the thread's status; `None` if it has ended. Allocates.
    pub(crate) fn status(&self, proc_id: u32) -> Result<Option<Vec<u8>>, Errno> {
        unless_ended(self.open_file(proc_id, "status").and_then(|status| {
            let mut text = Vec::new();
            loop {
                let read = text.len();
                text.try_reserve(4096).map_err(|_| Errno::from_raw(libc::ENOMEM))?;
                text.resize(text.capacity(), 0);
                let filled = read_at(status.number(), &mut text[read..], read)?;
                text.truncate(read + filled);
                if filled == 0 {
                    return Ok(text);
                }
            }
        }))
    }

    /// Reads the beginning of the thread's file `file`.
    fn read<'b>(&self, id: u32, file: &str, buffer: &'b mut [u8]) -> Result<&'b [u8], Errno> {
        let file = self.open_file(id, file)?;
        let filled = read_at(file.number(), buffer, 0)?;
        Ok(&buffer[..filled])
    }

    fn open_file(&self, id: u32, file: &str) -> Result<Descriptor, Errno> {
        let mut path = Path { bytes: [0; 32], length: 0 };
        let written = write!(path, "{id}/{file}");
        debug_assert!(written.is_ok(), "a number and a short name fit");
        let path =
            CStr::from_bytes_until_nul(&path.bytes).map_err(|_| Errno::from_raw(libc::EINVAL))?;
        open_within(&self.directory, path, 0)
    }
}

/// Maps the errors of an ended thread to `None`: `ENOENT` to open one of its files, `ESRCH` to read it.
fn unless_ended<T>(result: Result<T, Errno>) -> Result<Option<T>, Errno> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(errno) if matches!(errno.raw(), libc::ENOENT | libc::ESRCH) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// A thread whose stat cannot be read.
const UNKNOWN: ThreadInfo =
    ThreadInfo { kind: UnregisteredKind::Missed, name: Comm::EMPTY, made_by_kernel: false };

/// A path, formatted without allocation. The last byte stays zero.
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

    #[test]
    fn a_path_that_does_not_fit_is_refused() {
        let mut path = Path { bytes: [0; 32], length: 0 };
        assert!(write!(path, "{}/status", u32::MAX).is_ok());
        assert!(write!(path, "{}", "x".repeat(32)).is_err());
    }

    #[test]
    fn the_calling_thread_is_in_the_list() {
        for directory in [ThreadDir::open(), ThreadDir::open_in_stop()] {
            let directory = directory.unwrap();
            let mut found = 0;
            directory
                .for_each(|listed| found += u32::from(listed.tid == raw::gettid().unwrap()))
                .unwrap();
            assert_eq!(found, 1);
            assert_eq!(
                directory.info(raw::gettid().unwrap()).unwrap().kind,
                UnregisteredKind::Missed
            );
            assert_eq!(directory.info(u32::MAX), None);
            let activity = directory.activity(raw::gettid().unwrap()).unwrap();
            assert!(activity.is_active && activity.start_time > 0, "{activity:?}");
            assert_eq!(directory.activity(u32::MAX), None);
            let status = directory.status(raw::gettid().unwrap()).unwrap().unwrap();
            assert!(status.windows(8).any(|text| text == b"\nGroups:"));
        }
    }
}
