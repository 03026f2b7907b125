//! System calls without the libc: most faults are things that its wrappers do not let a program do.

use std::ffi::c_long;
use std::fs::File;
use std::os::fd::{FromRawFd, OwnedFd};

use psx::Errno;

/// Makes a system call without touching errno or any thread-local, so that a thread that has none can
/// use it too.
///
/// # Errors
///
/// The number by which the kernel refuses the call.
///
/// # Safety
///
/// The call must be sound with these arguments.
pub unsafe fn syscall(nr: c_long, args: [usize; 6]) -> Result<usize, Errno> {
    let value: isize;
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the kernel's convention; that the call is sound is the caller's promise.
    unsafe {
        std::arch::asm!(
            "syscall",
            inlateout("rax") nr as isize => value,
            in("rdi") args[0], in("rsi") args[1], in("rdx") args[2],
            in("r10") args[3], in("r8") args[4], in("r9") args[5],
            lateout("rcx") _, lateout("r11") _,
            options(nostack),
        );
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above.
    unsafe {
        std::arch::asm!(
            "svc 0",
            in("x8") nr,
            inlateout("x0") args[0] => value,
            in("x1") args[1], in("x2") args[2], in("x3") args[3],
            in("x4") args[4], in("x5") args[5],
            options(nostack),
        );
    }
    if value < 0 { Err(Errno::from_raw(-value as i32)) } else { Ok(value as usize) }
}

/// A system call that must succeed, or else the test does not test what it claims to.
///
/// Not marked unsafe, for short tests: the caller passes what the call's manual page asks for.
#[track_caller]
pub fn must(nr: c_long, args: [usize; 6]) -> usize {
    // SAFETY: as the documentation asks.
    unsafe { syscall(nr, args) }.unwrap_or_else(|error| panic!("system call {nr}: {error}"))
}

/// `prctl` with two arguments on the calling thread, which must succeed.
#[track_caller]
pub fn prctl(option: i32, argument: usize) -> usize {
    must(libc::SYS_prctl, [option as usize, argument, 0, 0, 0, 0])
}

/// The calling thread's timer slack: a number that the kernel keeps for each thread, passes on at
/// `clone`, and that any thread may set for itself.
pub fn slack() -> usize {
    prctl(libc::PR_GET_TIMERSLACK, 0)
}

/// The libc's errno of the calling thread.
pub fn errno() -> i32 {
    // SAFETY: the location is the calling thread's.
    unsafe { *libc::__errno_location() }
}

/// Sets the libc's errno of the calling thread.
pub fn set_errno(value: i32) {
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = value }
}

/// A pipe: the end to read from and the end to write to. (`std::io::pipe` is newer than psx's oldest
/// compiler.)
pub fn pipe() -> (File, File) {
    let mut ends = [0; 2];
    must(libc::SYS_pipe2, [ends.as_mut_ptr().addr(), libc::O_CLOEXEC as usize, 0, 0, 0, 0]);
    let [read, write] = ends.map(|end: i32| owned(end as usize).into());
    (read, write)
}

/// A descriptor that a system call has just returned.
pub fn owned(fd: usize) -> OwnedFd {
    // SAFETY: new, so that nothing else owns it.
    unsafe { OwnedFd::from_raw_fd(fd as i32) }
}

/// A soft and a hard limit of this process.
pub fn limit(resource: u32) -> [u64; 2] {
    let mut old = [0_u64; 2];
    must(libc::SYS_prlimit64, [0, resource as usize, 0, old.as_mut_ptr().addr(), 0, 0]);
    old
}

/// Sets a soft and a hard limit of this process.
pub fn set_limit(resource: u32, limit: [u64; 2]) {
    must(libc::SYS_prlimit64, [0, resource as usize, limit.as_ptr().addr(), 0, 0, 0]);
}
