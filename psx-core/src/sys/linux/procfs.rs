//! Plain system calls on `/proc`. Nothing here allocates, locks or keeps a descriptor open.
//! Contains `unsafe`: it enters the kernel.
//!
//! A root directory that this process did not choose may hold a folder called `/proc`, or have
//! something mounted over a part of the real one. So each file is opened from a descriptor of
//! `/proc` that is checked to be procfs, without crossing a mount (`openat2(2)`, Linux 5.6).

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

    /// Leaves it open.
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
    /// It may: no thread is stopped.
    MayWait,
    /// It may not: the root directory may be served by one of the stopped threads (FUSE). Where the
    /// kernel cannot promise that (before Linux 5.12), the lookup may wait all the same.
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

/// Opens `/proc` as a place to open files from.
pub(super) fn open_proc(lookup: Lookup) -> Result<Descriptor, Errno> {
    let resolve = if lookup == Lookup::Cached { RESOLVE_CACHED } else { 0 };
    let flags = libc::O_PATH | libc::O_DIRECTORY;
    let mut opened = open(libc::AT_FDCWD as usize, c"/proc", flags, resolve);
    // Another thread's mount or rename makes a cached lookup give up, and the next one go through.
    for _ in 0..TRIES {
        if opened.as_ref().err().map(|errno| errno.raw()) != Some(libc::EAGAIN) {
            break;
        }
        opened = open(libc::AT_FDCWD as usize, c"/proc", flags, resolve);
    }
    of_procfs(opened?)
}

const TRIES: usize = 8;

/// The file, if it is one of procfs.
fn of_procfs(file: Descriptor) -> Result<Descriptor, Errno> {
    match is_procfs(file.number()) {
        Ok(true) => Ok(file),
        Ok(false) => Err(Errno::from_raw(libc::ENOENT)),
        Err(errno) => {
            // Another thread has closed it, and may have another file by that number.
            file.into_number();
            Err(errno)
        }
    }
}

/// Opens what `path` leads to in the procfs that `directory` is part of.
pub(super) fn open_within(
    directory: &Descriptor,
    path: &CStr,
    flags: i32,
) -> Result<Descriptor, Errno> {
    let resolve = RESOLVE_NO_XDEV | RESOLVE_NO_MAGICLINKS;
    // Where mounts are crossed all the same (see `open`), something else may be mounted here, and
    // opening that must not wait for anything.
    let flags = libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOCTTY | flags;
    of_procfs(open(directory.number(), path, flags, resolve)?)
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
            // Not this kernel, not this flag, or not under this seccomp filter.
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
    // The two have different types in musl.
    Ok(status.f_type as u64 == libc::PROC_SUPER_MAGIC as u64)
}

/// Reads from `offset` on. Leaves the descriptor's position alone, which other threads share.
pub(super) fn read_at(fd: usize, buffer: &mut [u8], offset: usize) -> Result<usize, Errno> {
    let args = [fd, buffer.as_mut_ptr() as usize, buffer.len(), offset, 0, 0];
    // SAFETY: the kernel writes at most as many bytes as the buffer has.
    unsafe { raw::syscall(libc::SYS_pread64, args) }
}

pub(super) fn close(fd: usize) {
    // SAFETY: only called with descriptors that psx opened and that nothing else uses.
    let _ = unsafe { raw::syscall(libc::SYS_close, [fd, 0, 0, 0, 0, 0]) };
}

/// How many times a file is read again that changes while it is read.
const READS: usize = 8;

/// Finds the line of `/proc/PID/status` that starts with `key` (`"\nThreads:\t"`: the line break
/// before it is part of it), and returns what `parse` makes of the rest of the line.
///
/// A line before it may be 700 KB long (`Groups:`), so the file is read in chunks. The value always
/// comes out of a single read: two reads of one line may see two moments (the text is made anew
/// when another reader starts over), and what one leaves and the next begins with could be a number
/// that never was.
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
            // It goes on behind the end of the file, or is longer than any that is asked for.
            Line::Begins(0) => return Ok(None),
            // Read again from where it begins, so that it is in one chunk.
            Line::Begins(start) => offset += start,
            Line::Absent => offset += filled,
        }
    }
}

/// A line in a chunk of a text.
#[derive(Debug, PartialEq, Eq)]
enum Line<'t> {
    /// The rest of the line, behind the key.
    Whole(&'t [u8]),
    /// The line may begin here, and does not end in this chunk.
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

/// A number in decimal digits, and nothing else.
pub(super) fn parse(digits: &[u8]) -> Option<u32> {
    core::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &[u8] = b"\nThreads:\t";

    /// Reads `text` as the kernel would hand it out, in pieces of at most `piece` bytes.
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
    fn a_line_is_found_wherever_the_chunks_end() {
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

    /// The text in front of the line gets shorter between the two reads: what is left of the first
    /// and the second begins with must not make a number.
    #[test]
    fn two_moments_never_make_one_number() {
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
    fn our_own_status_has_the_fields() {
        let proc = open_proc(Lookup::MayWait).unwrap();
        let status = open_within(&proc, c"self/status", 0).unwrap();
        let threads = read_field(status.number(), KEY, parse).unwrap();
        assert!(threads >= 1);
        assert!(read_field(status.number(), b"\nNoSuchField:\t", parse).is_err());
    }
}
