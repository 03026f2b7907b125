//! The system call instruction. libc's `syscall` writes errno, and other wrappers are cancellation points;
//! the signal handler must do neither. Contains `unsafe`: only this file enters the kernel.

use core::arch::asm;
use core::ffi::{c_int, c_long};

use crate::Errno;
use crate::report::Comm;

/// Makes the system call `nr` with `args`. The kernel's `-4095..=-1` are errors.
///
/// # Safety
///
/// As for the call: the memory that it reads or writes must be the caller's to give, and running code must
/// expect the changes that it makes to the thread or the process.
#[inline]
pub(crate) unsafe fn syscall(nr: c_long, args: [usize; 6]) -> Result<usize, Errno> {
    // SAFETY: passed on from our caller.
    let value = unsafe { enter(nr as usize, args) };
    match value as isize {
        errno @ -4095..=-1 => Err(Errno::from_raw(-errno as i32)),
        _ => Ok(value),
    }
}

#[cfg(target_arch = "x86_64")]
#[inline]
unsafe fn enter(nr: usize, [a, b, c, d, e, f]: [usize; 6]) -> usize {
    let value;
    // SAFETY: the x86_64 convention: the kernel changes no register but rax, rcx and r11. Our caller
    // answers for the memory.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") nr => value,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e, in("r9") f,
            lateout("rcx") _, lateout("r11") _,
            options(nostack)
        );
    }
    value
}

#[cfg(target_arch = "aarch64")]
#[inline]
unsafe fn enter(nr: usize, [a, b, c, d, e, f]: [usize; 6]) -> usize {
    let value;
    // SAFETY: the aarch64 convention: the kernel changes no register but x0. Our caller answers for the
    // memory.
    unsafe {
        asm!(
            "svc 0",
            in("x8") nr,
            inlateout("x0") a => value,
            in("x1") b, in("x2") c, in("x3") d, in("x4") e, in("x5") f,
            options(nostack)
        );
    }
    value
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("psx knows the system call convention of x86_64 and aarch64 only");

/// The error for a result that the kernel does not return: a seccomp filter has answered in its place.
pub(super) const FORGED: Errno = Errno::from_raw(libc::ENOSYS);

/// The calling thread's id. Fails if a seccomp filter forbids the call.
pub(crate) fn gettid() -> Result<u32, Errno> {
    // SAFETY: gettid takes no arguments and touches no memory.
    nonzero(unsafe { syscall(libc::SYS_gettid, [0; 6]) })
}

/// Whether the kernel has a robust list for the calling thread. glibc registers one for each of its threads
/// and in the child of a fork; a `vfork` child has none, since the kernel drops it at `clone`. True if that
/// cannot be read, and with other libcs, which register it later.
pub(crate) fn has_robust_list() -> bool {
    let (mut head, mut length) = (0_usize, 0_usize);
    let args = [0, &raw mut head as usize, &raw mut length as usize, 0, 0, 0];
    // SAFETY: the kernel writes two numbers, both ours.
    let result = unsafe { syscall(libc::SYS_get_robust_list, args) };
    !cfg!(target_env = "gnu") || result.is_err() || head != 0
}

/// The process's id. Fails as [`gettid`].
pub(crate) fn getpid() -> Result<u32, Errno> {
    // SAFETY: getpid takes no arguments and touches no memory.
    nonzero(unsafe { syscall(libc::SYS_getpid, [0; 6]) })
}

fn nonzero(id: Result<usize, Errno>) -> Result<u32, Errno> {
    match id? {
        0 => Err(FORGED),
        id => Ok(id as u32),
    }
}

/// The calling thread's name; empty if it cannot be read.
pub(crate) fn thread_name() -> Comm {
    let mut name = Comm::default();
    let args = [libc::PR_GET_NAME as usize, name.0.as_mut_ptr() as usize, 0, 0, 0, 0];
    // SAFETY: the kernel writes the 16 bytes of a name.
    let _ = unsafe { syscall(libc::SYS_prctl, args) };
    name
}

/// Maps `size` bytes of zeroed, private memory with `flags` besides; see `mmap(2)`.
pub(super) fn mmap_anonymous(size: usize, flags: c_int) -> Result<usize, Errno> {
    let access = (libc::PROT_READ | libc::PROT_WRITE) as usize;
    let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | flags) as usize;
    // SAFETY: a new mapping, at an address that the kernel picks.
    unsafe { syscall(libc::SYS_mmap, [0, size, access, flags, usize::MAX, 0]) }
}

/// Unmaps what [`mmap_anonymous`] mapped.
///
/// # Safety
///
/// Nothing uses the mapping.
pub(super) unsafe fn munmap(address: usize, size: usize) {
    // SAFETY: our caller's promise.
    let _ = unsafe { syscall(libc::SYS_munmap, [address, size, 0, 0, 0, 0]) };
}
