//! The end of the process, with a message on standard error. Callable while all other threads are stopped:
//! allocates nothing and takes no lock.

use core::fmt::{self, Write};
use core::ptr;
use core::time::Duration;

use super::futex::{self, Limit};
use super::raw;
use super::sync::AtomicU32;

/// Standard error, buffered by line.
pub(crate) struct Stderr {
    line: [u8; 256],
    filled: usize,
}

impl Stderr {
    pub(crate) const fn new() -> Self {
        Self { line: [0; 256], filled: 0 }
    }

    /// Writes the line if the write does not block: the reader may be a stopped thread of this process, and
    /// the end of the process does not wait for it.
    fn flush(&mut self) {
        let mut stderr = libc::pollfd { fd: 2, events: libc::POLLOUT, revents: 0 };
        let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        let poll = [&raw mut stderr as usize, 1, &raw const now as usize, 0, size_of::<u64>(), 0];
        // SAFETY: the kernel reads and writes one pollfd and reads one timespec of ours.
        let polled = unsafe { raw::syscall(libc::SYS_ppoll, poll) };
        if polled == Ok(0) {
            self.filled = 0;
            return;
        }
        let args = [2, self.line.as_ptr() as usize, self.filled, 0, 0, 0];
        // SAFETY: the kernel reads the filled part of our own line.
        let _ = unsafe { raw::syscall(libc::SYS_write, args) };
        self.filled = 0;
    }
}

impl Write for Stderr {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for &byte in text.as_bytes() {
            self.line[self.filled] = byte;
            self.filled += 1;
            if byte == b'\n' || self.filled == self.line.len() {
                self.flush();
            }
        }
        Ok(())
    }
}

/// Ends the process by SIGABRT. No handler of the program runs: it might wait for a lock that a stopped
/// thread holds.
pub(crate) fn abort() -> ! {
    let default_action = [0_usize; 4];
    let abort_only: u64 = 1 << (libc::SIGABRT - 1);
    let action =
        [libc::SIGABRT as usize, default_action.as_ptr() as usize, 0, size_of::<u64>(), 0, 0];
    let unblock = [
        libc::SIG_UNBLOCK as usize,
        ptr::from_ref(&abort_only) as usize,
        0,
        size_of::<u64>(),
        0,
        0,
    ];
    // If an id cannot be read, the kernel refuses the signal, and the exit below follows.
    let [pid, tid] = [raw::getpid(), raw::gettid()].map(|id| id.map_or(0, |id| id as usize));
    // SAFETY: the kernel reads an action and a set of ours. The process ends here: by the signal, or by the
    // exit if a seccomp filter forbids the signal.
    unsafe {
        let _ = raw::syscall(libc::SYS_rt_sigaction, action);
        let _ = raw::syscall(libc::SYS_rt_sigprocmask, unblock);
        let _ = raw::syscall(libc::SYS_tgkill, [pid, tid, libc::SIGABRT as usize, 0, 0, 0]);
        let _ = raw::syscall(libc::SYS_exit_group, [134, 0, 0, 0, 0, 0]);
    }
    loop {
        core::hint::spin_loop();
    }
}

/// Ends the process because the caller of a round, the thread `tid`, has died in it. Every thread that
/// waits for that caller calls this, at about the same time. One of them is the first: it prints the
/// message.
#[cold]
#[inline(never)]
pub(crate) fn caller_died(tid: u32, is_first: bool) -> ! {
    if is_first {
        // `Stderr::write_str` does not fail.
        let _ = writeln!(
            Stderr::new(),
            "psx: fatal: the calling thread (tid {tid}) died in its call on all threads; privileges may \
             be mixed, so the process ends here"
        );
    } else {
        // The first thread may have died too, for the same reason as the caller.
        futex::wait(&AtomicU32::new(0), 0, Limit::For(Duration::from_secs(1)));
    }
    abort()
}

/// Ends the process because a broadcast closure has panicked.
pub(crate) fn closure_unwound() {
    abort();
}
