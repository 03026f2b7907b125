//! The system call instruction itself. libc's `syscall` would write the thread's errno, and a
//! cancellable wrapper may do more; a handler may do neither. Contains `unsafe`: this is the one
//! place where the kernel is entered.

use core::arch::asm;
use core::ffi::c_long;

use crate::Errno;
use crate::report::Comm;

/// Makes the system call `nr` with `args`; the kernel's `-1 ..= -4095` become the error.
///
/// # Safety
///
/// As the call itself: whatever memory it reads or writes must be the caller's to give, and the
/// change it makes to the thread or the process must be one that running code can live with.
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
    // SAFETY: the x86_64 convention: rcx and r11 are the only registers that the kernel changes
    // besides the result. What the call does with memory is our caller's promise.
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
    // SAFETY: the aarch64 convention: the kernel keeps every register but x0. What the call does
    // with memory is our caller's promise.
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

/// The calling thread's kernel id. Fails where a filter on system calls keeps it from us.
pub(crate) fn gettid() -> Result<u32, Errno> {
    // SAFETY: gettid takes no arguments and touches no memory.
    nonzero(unsafe { syscall(libc::SYS_gettid, [0; 6]) })
}

/// Whether the kernel has a list of robust mutexes for the calling thread. glibc registers one for each
/// of its threads and in the child of a fork; a child as of `vfork` has none, since the kernel forgets it
/// at `clone`. True where that cannot be read, and with other libcs, which register it later.
pub(crate) fn has_robust_list() -> bool {
    let (mut head, mut length) = (0_usize, 0_usize);
    let args = [0, &raw mut head as usize, &raw mut length as usize, 0, 0, 0];
    // SAFETY: the kernel writes two numbers, both ours.
    let asked = unsafe { syscall(libc::SYS_get_robust_list, args) };
    !cfg!(target_env = "gnu") || asked.is_err() || head != 0
}

/// The process's id. Fails as [`gettid`] does.
pub(crate) fn getpid() -> Result<u32, Errno> {
    // SAFETY: getpid takes no arguments and touches no memory.
    nonzero(unsafe { syscall(libc::SYS_getpid, [0; 6]) })
}

/// No thread has the id 0: a filter has answered in the kernel's place.
fn nonzero(id: Result<usize, Errno>) -> Result<u32, Errno> {
    match id? {
        0 => Err(Errno::from_raw(libc::ENOSYS)),
        id => Ok(id as u32),
    }
}

/// The calling thread's name.
pub(crate) fn thread_name() -> Comm {
    let mut name = Comm::default();
    let args = [libc::PR_GET_NAME as usize, name.0.as_mut_ptr() as usize, 0, 0, 0, 0];
    // SAFETY: writes the 16 bytes that a name has.
    let _ = unsafe { syscall(libc::SYS_prctl, args) };
    name
}
