//! The broadcasts that the cases are built from.

use std::ffi::CStr;
use std::time::Duration;

use psx::{Broadcast, Error, Report};
use psx_test_support::seccomp;

/// As `psx::syscall3`, with a timeout for a busy machine.
pub(crate) const STRICT: Broadcast = Broadcast::new().timeout(Duration::from_secs(60));

/// Broadcasts a timer slack: a number that each thread may set for itself without a privilege.
/// Returns, as the next two do, how many threads there were.
pub(crate) fn broadcast_slack(broadcast: Broadcast, ns: usize) -> Result<usize, Error> {
    prctl_on_all(broadcast, libc::PR_SET_TIMERSLACK, ns).map(|report| report.threads())
}

/// Broadcasts `no_new_privs`, which cannot be unset, and is shown in /proc.
pub(crate) fn broadcast_no_new_privs(broadcast: Broadcast) -> Result<usize, Error> {
    prctl_on_all(broadcast, libc::PR_SET_NO_NEW_PRIVS, 1).map(|report| report.threads())
}

/// Broadcasts a thread name, which is shown in /proc too, and which a new thread inherits.
pub(crate) fn broadcast_name(broadcast: Broadcast, name: &CStr) -> Result<usize, Error> {
    prctl_on_all(broadcast, libc::PR_SET_NAME, name.as_ptr() as usize)
        .map(|report| report.threads())
}

/// A `prctl` of two arguments.
pub(crate) fn prctl_on_all(
    broadcast: Broadcast,
    option: i32,
    value: usize,
) -> Result<Report, Error> {
    // SAFETY: none of the options above can break a thread, and the name outlives the broadcast.
    unsafe { broadcast.syscall(libc::SYS_prctl, [option as usize, value, 0, 0, 0, 0]) }
}

/// From now on the call `nr` fails with `EPERM` on the calling thread, and on no other.
pub(crate) fn refuse_here(nr: libc::c_long) {
    seccomp::no_new_privs();
    seccomp::refuse_here(nr);
}
