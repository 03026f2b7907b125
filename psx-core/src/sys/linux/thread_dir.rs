//! Who the process's threads are: `/proc/self/task`, opened by path for as long as it is looked at.
//!
//! It is not kept open: a directory leads out of every chroot (see `stat_file`). So it is out of
//! reach after a chroot, after `/proc` is unmounted and under Landlock, and then the kernel's count
//! is all that is known.
//!
//! `/proc` may belong to a pid namespace around this process's own (`unshare --pid` without a new
//! mount of `/proc`). A thread has another id there, and its own one is the last in the `NSpid:`
//! line of its status.

use core::ffi::CStr;
use core::fmt::Write;

use super::super::{Activity, ThreadInfo, UnregisteredKind};
use super::procfs::{
    Descriptor, Lookup, is_own_status, last_id, open_proc, open_within, parse, read_at, read_field,
};
use super::{activity, raw};
use crate::Errno;
use crate::report::Comm;

/// An open `/proc/self/task`.
pub(crate) struct ThreadDir {
    directory: Descriptor,
    /// The ids in it are those of another pid namespace.
    is_translated: bool,
}

/// A thread by its two ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ThreadIds {
    /// What `gettid` returns in it.
    pub(crate) tid: u32,
    /// What `/proc` calls it.
    pub(crate) proc_id: u32,
}

impl ThreadDir {
    /// Opens it while the process's threads run.
    pub(super) fn open() -> Result<Self, Errno> {
        Self::open_by(Lookup::MayWait)
    }

    /// Opens it while they are stopped: without waiting for a file server that may be one of them.
    pub(super) fn open_in_stop() -> Result<Self, Errno> {
        Self::open_by(Lookup::Cached)
    }

    fn open_by(lookup: Lookup) -> Result<Self, Errno> {
        let proc = open_proc(lookup)?;
        let directory = open_within(&proc, c"self/task", libc::O_DIRECTORY)?;
        let status = open_within(&proc, c"self/status", 0)?;
        // Not so where another process opens files for this one (a seccomp broker).
        if !is_own_status(status.number()) {
            return Err(Errno::from_raw(libc::ENOENT));
        }
        // One id for each pid namespace from that of /proc to the thread's own.
        let is_translated = |ids: &[u8]| Some(ids.contains(&b'\t'));
        let is_translated =
            read_field(status.number(), b"\nNStgid:\t", is_translated).unwrap_or(false);
        Ok(Self { directory, is_translated })
    }

    /// Calls `found` with each thread. The kernel ends the list early, and says nothing, when the
    /// thread that it has come to ends: only the kernel's count says whether the list is whole.
    pub(crate) fn for_each(&self, mut found: impl FnMut(ThreadIds)) -> Result<(), Errno> {
        const HEADER: usize = 19;
        let fd = self.directory.number();
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
                let name = rest[HEADER..length].split(|&byte| byte == 0).next();
                if let Some(proc_id) = name.and_then(parse) {
                    if let Some(tid) = self.own_id(proc_id)? {
                        found(ThreadIds { tid, proc_id });
                    }
                }
                rest = &rest[length..];
            }
        }
    }

    /// The id that the thread has in its own pid namespace; `None` where it has ended meanwhile.
    fn own_id(&self, proc_id: u32) -> Result<Option<u32>, Errno> {
        if !self.is_translated {
            return Ok(Some(proc_id));
        }
        let id = self.open_file(proc_id, "status").and_then(|status| {
            read_field(status.number(), b"\nNSpid:\t", |ids| parse(last_id(ids)))
        });
        unless_ended(id)
    }

    /// The thread with this id of its own.
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

    /// What kind of thread it is, and its name; `None` where it has ended. One that cannot be looked
    /// at counts as missed.
    pub(crate) fn info(&self, proc_id: u32) -> Option<ThreadInfo> {
        let mut buffer = [0_u8; 512];
        match unless_ended(self.read(proc_id, "stat", &mut buffer)) {
            Ok(stat) => stat.map(classify),
            Err(_) => Some(UNKNOWN),
        }
    }

    /// Whether the thread with this id of its own has run; `None` where that cannot be read.
    pub(super) fn activity(&self, tid: u32) -> Option<Activity> {
        let mut buffer = [0_u8; 512];
        activity::parse(self.read(self.find(tid)?.proc_id, "stat", &mut buffer).ok()?)
    }

    /// The whole of the thread's status; `None` where it has ended. Allocates.
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

    /// Reads the start of the thread's file `file`.
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

/// `ENOENT` is what a path through an ended thread's directory says, `ESRCH` what a file of it does.
fn unless_ended<T>(result: Result<T, Errno>) -> Result<Option<T>, Errno> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(errno) if matches!(errno.raw(), libc::ENOENT | libc::ESRCH) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Reads `/proc/self/task/TID/stat`, see `proc_pid_stat(5)`.
fn classify(stat: &[u8]) -> ThreadInfo {
    // The name may hold anything, parentheses and blanks included: fields count from the last one.
    let (Some(start), Some(end)) =
        (stat.iter().position(|&b| b == b'('), stat.iter().rposition(|&b| b == b')'))
    else {
        return UNKNOWN;
    };
    let Some(text) = stat.get(start + 1..end) else { return UNKNOWN };
    let mut name = Comm::default();
    let length = text.len().min(name.0.len());
    name.0[..length].copy_from_slice(&text[..length]);
    let mut fields = stat[end + 1..].split(|&b| b == b' ').filter(|field| !field.is_empty());
    let state = fields.next();
    let flags = fields.nth(5).and_then(parse).unwrap_or(0);
    let kind = match state {
        Some(b"Z" | b"X") => UnregisteredKind::Dead,
        _ if is_harmless_worker(flags, text) => UnregisteredKind::KernelWorker,
        _ => UnregisteredKind::Missed,
    };
    ThreadInfo { kind, name, made_by_kernel: flags & (IO_WORKER | USER_WORKER) != 0 }
}

/// `PF_IO_WORKER` and `PF_USER_WORKER` in the kernel's include/linux/sched.h.
const IO_WORKER: u32 = 0x10;
const USER_WORKER: u32 = 0x4000;

/// A thread that cannot be looked at.
const UNKNOWN: ThreadInfo =
    ThreadInfo { kind: UnregisteredKind::Missed, name: Comm::EMPTY, made_by_kernel: false };

/// Whether this is a thread that the kernel has made in the process for itself, and that does nothing
/// with the credentials that it was made with (docs/threat-model.md says why of each).
///
/// The flags are the kernel's word: no program can give them to its own threads. The name is the
/// kernel's too, but a program can change it (`/proc/self/task/TID/comm`), so it only ever tells
/// one kind of kernel thread from another.
fn is_harmless_worker(flags: u32, name: &[u8]) -> bool {
    if flags & IO_WORKER != 0 {
        // A ring's poller has the flag as well, but keeps the credentials of the ring's creation.
        name.starts_with(b"iou-wrk-")
    } else if flags & USER_WORKER != 0 {
        // Made by kernel/vhost_task.c. KVM's is "kvm-nx-lpage-recovery" in 15 bytes.
        name.starts_with(b"vhost-") || name.starts_with(b"kvm-nx-lpage-re")
    } else {
        false
    }
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

    fn kind_of(rest: &str) -> UnregisteredKind {
        classify(format!("4712 {rest}").as_bytes()).kind
    }

    fn with_flags(name: &str, flags: u32) -> UnregisteredKind {
        kind_of(&format!("({name}) S 1 1 1 0 -1 {flags} 0 0"))
    }

    /// `PF_RANDOMIZE | PF_FORKNOEXEC`, which every thread may have.
    const PLAIN: u32 = 0x40_0040;

    #[test]
    fn threads_are_told_apart_by_state_flags_and_name() {
        assert_eq!(kind_of("(main) Z 1 1 1 0 -1 4210764 0"), UnregisteredKind::Dead);
        assert_eq!(kind_of("(main) X 1 1 1 0 -1 4210764 0"), UnregisteredKind::Dead);
        assert_eq!(with_flags("main", PLAIN), UnregisteredKind::Missed);
        // Flags as Linux 6.18 shows them: PF_IO_WORKER and PF_USER_WORKER for io_uring's threads,
        // PF_USER_WORKER alone for those of kernel/vhost_task.c.
        assert_eq!(with_flags("iou-wrk-4711", PLAIN | 0x4010), UnregisteredKind::KernelWorker);
        assert_eq!(with_flags("iou-wrk-4711", PLAIN | 0x10), UnregisteredKind::KernelWorker);
        assert_eq!(with_flags("iou-sqp-4711", PLAIN | 0x4010), UnregisteredKind::Missed);
        assert_eq!(
            kind_of("(kvm-nx-lpage-re) S 21712 21712 9350 0 -1 4210752 0 6556 0 0"),
            UnregisteredKind::KernelWorker
        );
        assert_eq!(with_flags("vhost-21712", PLAIN | 0x4000), UnregisteredKind::KernelWorker);
    }

    /// A name makes no thread harmless that the kernel has not made, and none of one kind that of
    /// another.
    #[test]
    fn a_name_alone_makes_nothing_harmless() {
        for name in ["iou-wrk-4711", "vhost-21712", "kvm-nx-lpage-re"] {
            assert_eq!(with_flags(name, PLAIN), UnregisteredKind::Missed, "{name}");
        }
        assert_eq!(with_flags("iou-wrk-4711", PLAIN | 0x4000), UnregisteredKind::Missed);
        assert_eq!(with_flags("vhost-4711", PLAIN | 0x4010), UnregisteredKind::Missed);
        assert_eq!(with_flags("kvm-nx-lpage-re", PLAIN | 0x4010), UnregisteredKind::Missed);
        assert_eq!(with_flags("some-new-worker", PLAIN | 0x4000), UnregisteredKind::Missed);
    }

    #[test]
    fn a_name_cannot_pose_as_another_field() {
        assert_eq!(kind_of("(a) Z 1 1 1 0) S 1 1 1 0 -1 0 0"), UnregisteredKind::Missed);
        assert_eq!(kind_of("(iou-wrk-1) Z) R 1 1 1 0 -1 0 0"), UnregisteredKind::Missed);
        for nonsense in ["nonsense", "", ")(", "4711 (x", "4711 )x("] {
            assert_eq!(
                classify(nonsense.as_bytes()).kind,
                UnregisteredKind::Missed,
                "{nonsense:?}"
            );
        }
        let info = classify(b"1 (a name of more than 16 bytes) S 1 1 1 0 -1 0 0");
        assert_eq!(info.name.as_str(), "a name of more t");
    }

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
