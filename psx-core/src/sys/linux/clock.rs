//! The monotonic clock.

use core::time::Duration;

use super::raw;
use crate::Errno;

/// A point in time, in nanoseconds of `CLOCK_MONOTONIC`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Instant(u64);

impl Instant {
    /// The end of time, where the clock cannot be read: every deadline has passed then.
    pub(crate) fn now() -> Self {
        Self::read().unwrap_or(Self(u64::MAX))
    }

    /// POSIX lists `clock_gettime` as async-signal-safe; on Linux it reads the vDSO's page, and no
    /// filter on system calls is in its way. Where there is no vDSO, or its clock is not a fast one, it
    /// is a system call, which a filter may refuse.
    fn read() -> Result<Self, Errno> {
        let mut now = libc::timespec { tv_sec: 0, tv_nsec: -1 };
        // SAFETY: writes one timespec, which is ours.
        match unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) } {
            0 if now.tv_nsec >= 0 => {
                Ok(Self(now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64))
            }
            // A filter has answered in the kernel's place.
            0 => Err(Errno::from_raw(libc::ENOSYS)),
            _ => Err(Errno::last()),
        }
    }

    pub(crate) fn elapsed(self) -> Duration {
        Self::now().since(self)
    }

    /// The time from `earlier` to this one.
    pub(crate) fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// The point in time at which a wait gives up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Deadline(Instant);

impl Deadline {
    /// A timeout too long for the clock is as good as none. One that cannot be measured has passed.
    pub(crate) fn after(timeout: Duration) -> Self {
        Self::try_after(timeout).unwrap_or(Self(Instant(0)))
    }

    /// The same, or why the clock cannot be read.
    pub(crate) fn try_after(timeout: Duration) -> Result<Self, Errno> {
        let timeout = u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX);
        Ok(Self(Instant(Instant::read()?.0.saturating_add(timeout).min(i64::MAX as u64))))
    }

    /// This one, or the one after `timeout` from now if that comes first.
    pub(crate) fn at_most(self, timeout: Duration) -> Self {
        self.min(Self::after(timeout))
    }

    /// This one, or the one after `timeout` from now if that comes later.
    pub(crate) fn at_least(self, timeout: Duration) -> Self {
        self.max(Self::after(timeout))
    }

    /// Whether it has passed.
    pub(crate) fn passed(self) -> bool {
        self.passed_at(Instant::now())
    }

    /// Whether it had passed at that time.
    pub(crate) fn passed_at(self, time: Instant) -> bool {
        time >= self.0
    }

    pub(super) fn timespec(self) -> libc::timespec {
        timespec(Duration::from_nanos(self.0.0))
    }
}

/// Sleeps for about that long; less, if a signal comes.
pub(crate) fn sleep(time: Duration) {
    let time = timespec(time);
    // SAFETY: the kernel reads one timespec, which is ours.
    let _ = unsafe { raw::syscall(libc::SYS_nanosleep, [&raw const time as usize, 0, 0, 0, 0, 0]) };
}

pub(super) fn timespec(time: Duration) -> libc::timespec {
    libc::timespec {
        tv_sec: time.as_secs() as libc::time_t,
        tv_nsec: libc::c_long::from(time.subsec_nanos()),
    }
}
