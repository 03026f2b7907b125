//! Seccomp filters, written as BPF programs.
//!
//! By hand, since a crate for it (seccompiler) has neither a filter by instruction pointer nor
//! `SECCOMP_RET_USER_NOTIF`, and sets `no_new_privs` on its own.

use std::ffi::c_long;
use std::os::fd::{AsRawFd, OwnedFd};

use libc::sock_filter;
use psx::Errno;

use crate::procfs;
use crate::raw::{must, owned, prctl, syscall};

/// The statement that lets a call through.
pub const ALLOW: sock_filter = give(libc::SECCOMP_RET_ALLOW);

/// The statement that answers a call with `EPERM`.
pub const DENY: sock_filter = answer(libc::EPERM);

/// The statement that kills the process.
pub const KILL: sock_filter = give(libc::SECCOMP_RET_KILL_PROCESS);

/// The statement that ends a program with this action.
pub const fn give(action: u32) -> sock_filter {
    statement(libc::BPF_RET | libc::BPF_K, action, 0, 0)
}

/// The statement that answers a call with this errno, or with a result of 0.
pub const fn answer(errno: i32) -> sock_filter {
    give(libc::SECCOMP_RET_ERRNO | errno as u32)
}

/// One statement: its code, its value, and how many to skip if it is true and if not.
pub const fn statement(code: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code: code as u16, jt, jf, k }
}

/// Loads 32 bits of `struct seccomp_data`: the call's number is at 0, the low half of its first argument
/// at 16, of its second at 24.
pub const fn load(offset: u32) -> sock_filter {
    statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset, 0, 0)
}

/// Skips `skipped` statements unless the loaded value is `k`.
pub const fn skip_unless(k: u32, skipped: u8) -> sock_filter {
    statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, k, 0, skipped)
}

/// Skips the next statement unless the loaded value is `k`.
pub const fn if_equal(k: u32) -> sock_filter {
    skip_unless(k, 1)
}

/// A filter that ends these calls with `then`, and all others with `otherwise`.
pub fn filter(
    calls: impl IntoIterator<Item = c_long>,
    then: sock_filter,
    otherwise: sock_filter,
) -> Vec<sock_filter> {
    let cases = calls.into_iter().flat_map(|nr| [if_equal(nr as u32), then]);
    [load(0)].into_iter().chain(cases).chain([otherwise]).collect()
}

/// A filter that fails these calls with `EPERM`.
pub fn deny(calls: &[c_long]) -> Vec<sock_filter> {
    filter(calls.iter().copied(), DENY, ALLOW)
}

/// A filter that ends the call `nr` with `then` where its first arguments are `args`.
pub fn filter_arguments(nr: c_long, args: &[u32], then: sock_filter) -> Vec<sock_filter> {
    // Each comparison skips to the last statement.
    let rest = |compared: usize| 2 * (args.len() - compared) as u8 + 1;
    let mut filter = vec![load(0), skip_unless(nr as u32, rest(0))];
    for (i, &arg) in args.iter().enumerate() {
        filter.extend([load(16 + 8 * i as u32), skip_unless(arg, rest(i + 1))]);
    }
    filter.extend([then, ALLOW]);
    filter
}

/// A filter that fails these operations of futex with `EPERM`.
pub fn deny_futex(operations: &[i32]) -> Vec<sock_filter> {
    // The operation, without the flags for a private futex and the clock.
    let operation = statement(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, 0x7f, 0, 0);
    let cases = operations.iter().flat_map(|&operation| [if_equal(operation as u32), DENY]);
    let skipped = 2 * operations.len() as u8 + 2;
    [load(0), skip_unless(libc::SYS_futex as u32, skipped), load(24), operation]
        .into_iter()
        .chain(cases)
        .chain([ALLOW])
        .collect()
}

/// Puts a filter on the calling thread.
pub fn install(filter: &[sock_filter]) {
    install_with(filter, 0);
}

/// Puts a filter on every thread of the process.
pub fn install_on_all(filter: &[sock_filter]) {
    assert_eq!(install_with(filter, libc::SECCOMP_FILTER_FLAG_TSYNC), 0, "a thread that differs");
}

/// The same with these flags. Returns what the call does.
pub fn install_with(filter: &[sock_filter], flags: libc::c_ulong) -> usize {
    try_install(filter, flags).unwrap_or_else(|error| panic!("seccomp: {error}"))
}

/// The same where the kernel may refuse it.
///
/// # Errors
///
/// The kernel's.
pub fn try_install(filter: &[sock_filter], flags: libc::c_ulong) -> Result<usize, Errno> {
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
    let mode = libc::SECCOMP_SET_MODE_FILTER as usize;
    let args = [mode, flags as usize, (&raw const program).addr(), 0, 0, 0];
    // SAFETY: a program that outlives the call.
    unsafe { syscall(libc::SYS_seccomp, args) }
}

/// Sets `no_new_privs` on the calling thread, which seccomp and Landlock ask for where it is not root.
pub fn no_new_privs() {
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1);
}

/// How many filters the calling thread is under; 0 where `/proc` is out of reach.
pub fn filters() -> u32 {
    let task = procfs::try_this_task();
    task.map_or(0, |task| task.field("Seccomp_filters").parse().expect("a number"))
}

/// From now on the call `nr` fails with `EPERM` on the calling thread and on those it starts. Does not set
/// `no_new_privs`, so that it takes root.
pub fn refuse_here(nr: c_long) {
    install(&deny(&[nr]));
}

/// From now on the call `nr` waits, on the calling thread and on those it starts, until a process that
/// reads the descriptor returned resumes it.
pub fn hold_here(nr: c_long) -> i32 {
    let filter = filter([nr], give(libc::SECCOMP_RET_USER_NOTIF), ALLOW);
    install_with(&filter, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER) as i32
}

/// The other side of [`hold_here`]: the listener of a process that this one may trace.
#[derive(Debug)]
pub struct Listener(OwnedFd);

impl Listener {
    /// Takes the descriptor `listener` of the process `pid`.
    pub fn of(pid: u32, listener: i32) -> Self {
        let process = owned(must(libc::SYS_pidfd_open, [pid as usize, 0, 0, 0, 0, 0]));
        let args = [process.as_raw_fd() as usize, listener as usize, 0, 0, 0, 0];
        Self(owned(must(libc::SYS_pidfd_getfd, args)))
    }

    /// Waits until the call is made, looks, and resumes it.
    pub fn look_then_resume(&self, look: impl FnOnce()) {
        // SAFETY: all bits zero is a value of both.
        let (mut call, mut answer): (libc::seccomp_notif, libc::seccomp_notif_resp) =
            unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
        let fd = self.0.as_raw_fd() as usize;
        let request = libc::SECCOMP_IOCTL_NOTIF_RECV as usize;
        must(libc::SYS_ioctl, [fd, request, (&raw mut call).addr(), 0, 0, 0]);
        look();
        answer.id = call.id;
        answer.flags = libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32;
        let request = libc::SECCOMP_IOCTL_NOTIF_SEND as usize;
        must(libc::SYS_ioctl, [fd, request, (&raw mut answer).addr(), 0, 0, 0]);
    }
}
