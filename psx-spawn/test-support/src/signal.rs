//! Signals, also those that the libc keeps for itself: 33 is psx's and glibc's own.

use std::ffi::{c_int, c_void};
use std::ptr;

use psx::Errno;

use crate::raw::{must, syscall};

/// The signal that psx stops threads with.
pub const STOP: i32 = 33;

/// Signal 33 in a mask, as /proc shows it.
pub const STOP_BIT: u64 = 1 << (STOP - 1);

/// What a handler with `SA_SIGINFO` takes.
pub type Handler = extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void);

/// Sets the calling thread's signal mask, without the libc, which leaves out its own signals. Returns the
/// mask before.
pub fn set_mask(mask: u64) -> u64 {
    let mut old = 0_u64;
    let (new, at) = (ptr::from_ref(&mask).addr(), ptr::from_mut(&mut old).addr());
    must(libc::SYS_rt_sigprocmask, [libc::SIG_SETMASK as usize, new, at, 8, 0, 0]);
    old
}

/// The signals that are pending for the calling thread.
pub fn pending() -> u64 {
    let mut pending = 0_u64;
    must(libc::SYS_rt_sigpending, [ptr::from_mut(&mut pending).addr(), 8, 0, 0, 0, 0]);
    pending
}

/// Whether signal 33 is pending for the calling thread, which blocks it.
pub fn is_stop_pending() -> bool {
    pending() & STOP_BIT != 0
}

/// `tgkill`, or `kill` where `tid` is none.
///
/// # Errors
///
/// The kernel's.
pub fn send(pid: u32, tid: Option<u32>, signal: i32) -> Result<usize, Errno> {
    let (pid, signal) = (pid as usize, signal as usize);
    let (nr, args) = match tid {
        Some(tid) => (libc::SYS_tgkill, [pid, tid as usize, signal, 0, 0, 0]),
        None => (libc::SYS_kill, [pid, signal, 0, 0, 0, 0]),
    };
    // SAFETY: numbers; the tests send what their processes can take.
    unsafe { syscall(nr, args) }
}

/// Queues `signal` with `code` to one thread.
///
/// # Errors
///
/// The kernel's; `EAGAIN` where the queue is full.
pub fn queue(pid: u32, tid: u32, signal: i32, code: i32) -> Result<usize, Errno> {
    // A siginfo_t with signal and code alone.
    let mut info = [0; 32];
    (info[0], info[2]) = (signal, code);
    let args = [pid as usize, tid as usize, signal as usize, info.as_ptr().addr(), 0, 0];
    // SAFETY: `info` outlives the call; the rest as above.
    unsafe { syscall(libc::SYS_rt_tgsigqueueinfo, args) }
}

/// Installs a handler by the libc's `sigaction`, with `SA_SIGINFO` and these flags.
pub fn handle(signal: c_int, flags: c_int, handler: Handler) {
    // SAFETY: all-zero bytes are a valid action, of which the handler and the flags are filled in.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | flags;
        assert_eq!(libc::sigaction(signal, &action, ptr::null_mut()), 0);
    }
}
