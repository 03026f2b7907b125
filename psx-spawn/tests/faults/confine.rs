//! Confinements of the calling thread: no_new_privs, seccomp filters, Landlock rulesets.

use std::ptr;

use libc::sock_filter;

use crate::raw::{self, must};

/// Sets no_new_privs on the calling thread, which seccomp and Landlock ask for.
pub(crate) fn no_new_privs() {
    must("prctl", libc::SYS_prctl, [libc::PR_SET_NO_NEW_PRIVS as usize, 1, 0, 0, 0, 0]);
}

pub(crate) fn has_no_new_privs() -> bool {
    must("prctl", libc::SYS_prctl, [libc::PR_GET_NO_NEW_PRIVS as usize, 0, 0, 0, 0, 0]) == 1
}

/// How many seccomp filters the calling thread is under.
pub(crate) fn filters() -> u32 {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let count = status.lines().find_map(|line| line.strip_prefix("Seccomp_filters:"));
    count.map_or(0, |count| count.trim().parse().expect("a number"))
}

/// One step of a seccomp filter.
pub(crate) const fn step(code: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code: code as u16, jt, jf, k }
}

/// The step that lets a call through.
pub(crate) const ALLOW: sock_filter = step(libc::BPF_RET, libc::SECCOMP_RET_ALLOW, 0, 0);

/// The step that answers a call with EPERM.
pub(crate) const DENY: sock_filter =
    step(libc::BPF_RET, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32, 0, 0);

/// Loads 32 bits of `struct seccomp_data`.
pub(crate) const fn load(offset: u32) -> sock_filter {
    step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset, 0, 0)
}

/// Skips the next step unless the loaded value is `k`.
pub(crate) const fn if_equal(k: u32) -> sock_filter {
    step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, k, 0, 1)
}

/// A filter that fails these operations of futex with EPERM.
pub(crate) fn deny_futex(operations: &[i32]) -> Vec<sock_filter> {
    let is_futex = step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, libc::SYS_futex as u32, 1, 0);
    // The operation, without the flags that say that it is private and which clock it means.
    let operation = step(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, 0x7f, 0, 0);
    let steps = operations.iter().flat_map(|&op| [if_equal(op as u32), DENY]);
    [load(0), is_futex, ALLOW, load(24), operation]
        .into_iter()
        .chain(steps)
        .chain([ALLOW])
        .collect()
}

/// Puts a seccomp filter on the calling thread.
pub(crate) fn filter(steps: &[sock_filter]) {
    install(steps, 0);
}

/// Puts a seccomp filter on every thread of the process.
pub(crate) fn filter_all(steps: &[sock_filter]) {
    install(steps, libc::SECCOMP_FILTER_FLAG_TSYNC as usize);
}

fn install(steps: &[sock_filter], flags: usize) {
    let program = libc::sock_fprog { len: steps.len() as u16, filter: steps.as_ptr().cast_mut() };
    let mode = libc::SECCOMP_SET_MODE_FILTER as usize;
    must("seccomp", libc::SYS_seccomp, [mode, flags, ptr::from_ref(&program).addr(), 0, 0, 0]);
}

/// The kernel's Landlock version, 0 where it has none.
pub(crate) fn landlock_version() -> usize {
    const VERSION: usize = 1;
    // SAFETY: asks for a number.
    let version = unsafe { raw::call(libc::SYS_landlock_create_ruleset, [0, 0, VERSION, 0, 0, 0]) };
    version.unwrap_or(0)
}

/// A Landlock ruleset without a rule: all that it handles (files, network, scopes) is denied.
pub(crate) fn ruleset(handled: [u64; 3]) -> usize {
    let (at, size) = (handled.as_ptr().addr(), size_of_val(&handled));
    must("landlock_create_ruleset", libc::SYS_landlock_create_ruleset, [at, size, 0, 0, 0, 0])
}

/// Puts the calling thread under a Landlock ruleset.
pub(crate) fn restrict(ruleset: usize) {
    must("landlock_restrict_self", libc::SYS_landlock_restrict_self, [ruleset, 0, 0, 0, 0, 0]);
}
