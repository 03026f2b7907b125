//! The few system calls that the cases are built from.

use std::ffi::c_long;
use std::ptr;

use psx_test_support::{raw, seccomp};

/// A filter that answers the call `nr` with the error `errno`, and allows all others.
pub(crate) fn refusing(nr: c_long, errno: i32) -> Vec<libc::sock_filter> {
    seccomp::filter([nr], seccomp::answer(errno), seccomp::ALLOW)
}

/// From now on `prctl` with these first arguments fails with `EPERM` on the calling thread and on those it
/// starts.
pub(crate) fn refuse_prctl_here(args: &[u32]) {
    seccomp::install(&seccomp::filter_arguments(libc::SYS_prctl, args, seccomp::DENY));
}

/// What an option of `prctl` that only reads returns.
pub(crate) fn prctl(option: i32) -> i32 {
    raw::prctl(option, 0) as i32
}

pub(crate) fn parent_death_signal() -> i32 {
    let mut signal = 0_i32;
    raw::prctl(libc::PR_GET_PDEATHSIG, ptr::from_mut(&mut signal).addr());
    signal
}

pub(crate) fn set_parent_death_signal(signal: i32) {
    raw::prctl(libc::PR_SET_PDEATHSIG, signal as usize);
}
