//! System calls on `/proc`. They allocate nothing, take no lock and keep no descriptor open. Contains
//! `unsafe`: it enters the kernel.
//!
//! A root directory that another process has set up may contain any directory named `/proc`, or have mounts
//! over parts of the real one. So each file is opened from a descriptor of `/proc` that is checked to be
//! procfs, without crossing a mount (`openat2(2)`, Linux 5.6).

use core::ffi::CStr;

use super::raw;
use crate::Errno;

/// An open descriptor, closed when dropped.
#[derive(Debug)]
pub(super) struct Descriptor(usize);

impl Descriptor {
    pub(super) fn number(&self) -> usize {
        self.0
    }

    /// Takes the number; the descriptor stays open.
    pub(super) fn into_number(self) -> usize {
        core::mem::ManuallyDrop::new(self).0
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        close(self.0);
    }
}

/// Whether a path lookup may wait for a file server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lookup {
    /// It may: the other threads run.
    MayWait,
    /// It may not: a stopped thread may be the server of the root directory (FUSE). The kernel guarantees
    /// this since Linux 5.12; before, the lookup may wait.
    Cached,
}

/// `struct open_how` of `openat2(2)`.
#[repr(C)]
struct OpenHow {
    flags: u64,
    mode: u64,
    resolve: u64,
}

const RESOLVE_NO_XDEV: u64 = 0x01;
const RESOLVE_NO_MAGICLINKS: u64 = 0x02;
const RESOLVE_CACHED: u64 = 0x20;

/// Opens `/proc`, as the directory for [`open_within`].
pub(super) fn open_proc(lookup: Lookup) -> Result<Descriptor, Errno> {
    let resolve = if lookup == Lookup::Cached { RESOLVE_CACHED } else { 0 };
    let flags = libc::O_PATH | libc::O_DIRECTORY;
    let mut opened = open(libc::AT_FDCWD as usize, c"/proc", flags, resolve);
    // A mount or rename in another thread makes a cached lookup fail once.
    for _ in 0..TRIES {
        if opened.as_ref().err().map(|errno| errno.raw()) != Some(libc::EAGAIN) {
            break;
        }
        opened = open(libc::AT_FDCWD as usize, c"/proc", flags, resolve);
    }
    require_procfs(opened?)
}

const TRIES: usize = 8;

/// The file, or `ENOENT` if it is not in procfs.
fn require_procfs(file: Descriptor) -> Result<Descriptor, Errno> {
    match is_procfs(file.number()) {
        Ok(true) => Ok(file),
        Ok(false) => Err(Errno::from_raw(libc::ENOENT)),
        Err(errno) => {
            // Another thread has closed it; its number may be another file's now.
            file.into_number();
            Err(errno)
        }
    }
}

/// Opens `path` from `directory`, in the same procfs.
pub(super) fn open_within(
    directory: &Descriptor,
    path: &CStr,
    flags: i32,
) -> Result<Descriptor, Errno> {
    let resolve = RESOLVE_NO_XDEV | RESOLVE_NO_MAGICLINKS;
    // Without `openat2` (see `open`) the path may lead to another file system, whose open must not block.
    let flags = libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOCTTY | flags;
    require_procfs(open(directory.number(), path, flags, resolve)?)
}

fn open(directory: usize, path: &CStr, flags: i32, resolve: u64) -> Result<Descriptor, Errno> {
    let flags = flags | libc::O_CLOEXEC;
    let path = path.as_ptr() as usize;
    if resolve != 0 {
        let how = OpenHow { flags: flags as u64, mode: 0, resolve };
        let args = [directory, path, &raw const how as usize, size_of::<OpenHow>(), 0, 0];
        // SAFETY: the kernel reads the path up to its NUL, and the `open_how`.
        match unsafe { raw::syscall(libc::SYS_openat2, args) } {
            Ok(fd) => return Ok(Descriptor(fd)),
            // The kernel does not have the call or the flag, or a seccomp filter forbids it.
            Err(errno) if matches!(errno.raw(), libc::ENOSYS | libc::EINVAL | libc::EPERM) => {}
            Err(errno) => return Err(errno),
        }
    }
    // SAFETY: the kernel reads the path up to its NUL.
    unsafe { raw::syscall(libc::SYS_openat, [directory, path, flags as usize, 0, 0, 0]) }
        .map(Descriptor)
}

pub(super) fn fstat(fd: usize) -> Result<libc::stat, Errno> {
    // SAFETY: all-zero bytes are a valid `stat`.
    let mut status: libc::stat = unsafe { core::mem::zeroed() };
    // SAFETY: on x86_64 and aarch64 libc's `stat` is the kernel's, and it is ours to write.
    unsafe { raw::syscall(libc::SYS_fstat, [fd, &raw mut status as usize, 0, 0, 0, 0]) }?;
    Ok(status)
}

pub(super) fn is_procfs(fd: usize) -> Result<bool, Errno> {
    // SAFETY: all-zero bytes are a valid `statfs`.
    let mut status: libc::statfs = unsafe { core::mem::zeroed() };
    // SAFETY: on x86_64 and aarch64 libc's `statfs` is the kernel's, and it is ours to write.
    unsafe { raw::syscall(libc::SYS_fstatfs, [fd, &raw mut status as usize, 0, 0, 0, 0]) }?;
    // Their types differ in musl.
    Ok(status.f_type as u64 == libc::PROC_SUPER_MAGIC as u64)
}

/// [`pread(2)`](https://man7.org/linux/man-pages/man2/pread.2.html): leaves the file offset, which other
/// threads share, unchanged.
pub(super) fn read_at(fd: usize, buffer: &mut [u8], offset: usize) -> Result<usize, Errno> {
    let args = [fd, buffer.as_mut_ptr() as usize, buffer.len(), offset, 0, 0];
    // SAFETY: the kernel writes at most `buffer.len()` bytes.
    unsafe { raw::syscall(libc::SYS_pread64, args) }
}

pub(super) fn close(fd: usize) {
    // SAFETY: psx opened the descriptor, and nothing else uses it.
    let _ = unsafe { raw::syscall(libc::SYS_close, [fd, 0, 0, 0, 0, 0]) };
}

/// How many passes over a file that changes while it is read.
const READS: usize = 8;

/// Finds the line of `/proc/PID/status` that starts with `key`, which begins with the line break before the
/// line (`"\nThreads:\t"`), and returns what `parse` makes of the rest of the line.
///
/// A line before it may be 700 KB long (`Groups:`), so the file is read in chunks. The value always comes
/// from one read: between two reads the kernel may write the text again, and the end of one with the
/// beginning of the next could be a number that never was.
pub(super) fn read_field<T>(
    fd: usize,
    key: &[u8],
    parse: impl Fn(&[u8]) -> Option<T>,
) -> Result<T, Errno> {
    for _ in 0..READS {
        if let Some(value) = read_field_once(key, &parse, |chunk, at| read_at(fd, chunk, at))? {
            return Ok(value);
        }
    }
    Err(Errno::from_raw(libc::EIO))
}

const CHUNK: usize = 2048;

/// One pass over the file; `None` where it has no such line, or the line moved between two reads.
fn read_field_once<T>(
    key: &[u8],
    parse: impl Fn(&[u8]) -> Option<T>,
    mut read: impl FnMut(&mut [u8], usize) -> Result<usize, Errno>,
) -> Result<Option<T>, Errno> {
    let mut chunk = [0; CHUNK];
    let mut offset = 0;
    loop {
        let filled = read(&mut chunk, offset)?;
        let text = &chunk[..filled];
        if text.is_empty() {
            return Ok(None);
        }
        match find_line(text, key) {
            Line::Whole(value) => return Ok(parse(value)),
            // The file ends in the line, or the line is longer than any that is read.
            Line::Begins(0) => return Ok(None),
            // Read again from the beginning of the line, so that it is in one chunk.
            Line::Begins(start) => offset += start,
            Line::Absent => offset += filled,
        }
    }
}

/// A line in a chunk of a text.
#[derive(Debug, PartialEq, Eq)]
enum Line<'t> {
    /// The rest of the line, after the key.
    Whole(&'t [u8]),
    /// The offset at which the line may begin; it does not end in this chunk.
    Begins(usize),
    Absent,
}

fn find_line<'t>(text: &'t [u8], key: &[u8]) -> Line<'t> {
    for start in 0..text.len() {
        let rest = &text[start..];
        if let Some(value) = rest.strip_prefix(key) {
            return match value.iter().position(|&byte| byte == b'\n') {
                Some(end) => Line::Whole(&value[..end]),
                None => Line::Begins(start),
            };
        }
        if rest.len() < key.len() && key.starts_with(rest) {
            return Line::Begins(start);
        }
    }
    Line::Absent
}

/// Whether this is the calling process's status, and not another one's put in its place: the last id in
/// `NStgid:` is the process's id in its own pid namespace. Kernels without pid namespaces have no such
/// line.
pub(super) fn is_own_status(fd: usize) -> bool {
    let id = read_field(fd, b"\nNStgid:\t", |ids| parse(last_id(ids)))
        .or_else(|_| read_field(fd, b"\nTgid:\t", parse));
    id.is_ok_and(|id| raw::getpid() == Ok(id))
}

/// The last id in an `NS...:` line: the one in the innermost pid namespace.
pub(super) fn last_id(ids: &[u8]) -> &[u8] {
    ids.rsplit(|&byte| byte == b'\t').next().unwrap_or_default()
}

/// A decimal number, without anything around it.
pub(super) fn parse(digits: &[u8]) -> Option<u32> {
    core::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &[u8] = b"\nThreads:\t";

    /// Reads `text` as from the kernel, at most `piece` bytes at a time.
    fn threads(text: &[u8], piece: usize) -> Option<u32> {
        let read = |chunk: &mut [u8], at: usize| {
            let rest = text.get(at..).unwrap_or_default();
            let length = rest.len().min(chunk.len()).min(piece);
            chunk[..length].copy_from_slice(&rest[..length]);
            Ok(length)
        };
        read_field_once(KEY, parse, read).unwrap()
    }

    #[test]
    fn a_line_is_found_across_chunks() {
        for groups in [0, 1, 100, 700_000] {
            let line =
                format!("Name:\tx\nGroups:\t{}\nThreads:\t1234\nSigQ:\t1/2\n", "9".repeat(groups));
            assert_eq!(threads(line.as_bytes(), CHUNK), Some(1234), "{groups} digits of groups");
        }
        for before in CHUNK - 40..CHUNK + 5 {
            let line = format!("{}\nThreads:\t56\nSigQ:\t1/2\n", "x".repeat(before));
            assert_eq!(threads(line.as_bytes(), CHUNK), Some(56), "{before} bytes before it");
        }
    }

    #[test]
    fn only_the_start_of_a_line_counts() {
        assert_eq!(threads(b"Name:\tThreads:\t7\nThreads:\t8\n", CHUNK), Some(8));
        assert_eq!(threads(b"Name:\t\\nThreads:\t7\nx", CHUNK), None);
        assert_eq!(threads(b"Name:\tx\nThreads:\t\n", CHUNK), None);
        assert_eq!(threads(b"Name:\tx\nThreads:\t1 2\n", CHUNK), None);
        assert_eq!(threads(b"Name:\tx\nThreads:\t12", CHUNK), None);
        assert_eq!(threads(b"Name:\tx\nThr", CHUNK), None);
        assert_eq!(threads(b"Name:\tx\n", CHUNK), None);
        assert_eq!(threads(b"", CHUNK), None);
    }

    /// The text before the line gets shorter between the two reads. The end of the first and the beginning
    /// of the second must not make a number.
    #[test]
    fn two_reads_never_make_one_number() {
        for shift in 1..12 {
            let first = format!("{}\nThreads:\t1", "x".repeat(CHUNK - 11));
            assert_eq!(first.len(), CHUNK);
            let later = format!("{}\nThreads:\t12\nSigQ:\t1/2\n", "x".repeat(CHUNK - 11 - shift));
            let mut reads = 0;
            let read = |chunk: &mut [u8], at: usize| {
                reads += 1;
                let text = if reads == 1 { first.as_bytes() } else { later.as_bytes() };
                let rest = text.get(at..).unwrap_or_default();
                chunk[..rest.len()].copy_from_slice(rest);
                Ok(rest.len())
            };
            let found = read_field_once(KEY, parse, read).unwrap();
            assert!(matches!(found, None | Some(12)), "{found:?} after a shift of {shift}");
        }
    }

    #[test]
    fn own_status_has_the_fields() {
        let proc = open_proc(Lookup::MayWait).unwrap();
        let status = open_within(&proc, c"self/status", 0).unwrap();
        let threads = read_field(status.number(), KEY, parse).unwrap();
        assert!(threads >= 1);
        assert!(read_field(status.number(), b"\nNoSuchField:\t", parse).is_err());
    }
}
