//! Processes: forks, ends and users.

use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus};
use std::{fs, io};

use crate::raw::must;

/// For `Case::needs`: the test runner is root, and so are its children.
///
/// # Errors
///
/// Why not.
pub fn root() -> Result<(), String> {
    match users()[1] {
        0 => Ok(()),
        _ => Err("needs root".into()),
    }
}

/// Real, effective and saved user of the calling thread.
pub fn users() -> [u32; 3] {
    let mut ids = [0_u32; 3];
    let [real, effective, saved] = ids.each_mut().map(|id| std::ptr::from_mut(id).addr());
    must(libc::SYS_getresuid, [real, effective, saved, 0, 0, 0]);
    ids
}

/// The number of the kernel's last capability.
pub fn last_capability() -> u32 {
    let text = fs::read_to_string("/proc/sys/kernel/cap_last_cap").expect("/proc");
    text.trim().parse().expect("a number")
}

/// Starts the child with these supplementary groups.
pub fn with_groups(command: &mut Command, groups: &'static [u32]) {
    // SAFETY: one system call, which reads the groups.
    unsafe {
        command.pre_exec(|| match libc::setgroups(groups.len(), groups.as_ptr()) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        });
    }
}

/// Ends the process without exit handlers: another thread may hold a lock that they take.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit(2) ends the process and has no other precondition.
    unsafe { libc::_exit(code) }
}

/// Ends the calling thread by the system call: no destructor runs, and the libc does not hear of it.
pub fn exit_thread() -> ! {
    must(libc::SYS_exit, [0; 6]);
    unreachable!("the thread has ended")
}

/// Forks by the libc. The child runs `body` and ends with its result, without exit handlers.
///
/// The child is a copy of the calling thread alone, so `body` must not need a lock that another thread
/// may hold.
pub fn fork(body: impl FnOnce() -> i32) -> libc::pid_t {
    // SAFETY: as the documentation asks.
    match unsafe { libc::fork() } {
        -1 => panic!("fork: {}", io::Error::last_os_error()),
        0 => exit_now(body()),
        child => child,
    }
}

/// Waits for the end of a child.
pub fn wait(child: libc::pid_t) -> ExitStatus {
    let mut status = 0;
    // SAFETY: a place for the status.
    while unsafe { libc::waitpid(child, &mut status, 0) } != child {
        let error = io::Error::last_os_error();
        assert_eq!(error.kind(), io::ErrorKind::Interrupted, "waitpid: {error}");
    }
    ExitStatus::from_raw(status)
}

/// Forks, and returns how the child has ended.
pub fn fork_and_wait(body: impl FnOnce() -> i32) -> ExitStatus {
    wait(fork(body))
}
