//! The monotonic clock.

use core::time::Duration;

use super::raw;
use crate::Errno;

/// A point in time, in nanoseconds of `CLOCK_MONOTONIC`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Instant(u64);

impl Instant {
    /// If the clock cannot be read, the latest time, at which every deadline has passed.
    pub(crate) fn now() -> Self {
        Self::read().unwrap_or(Self(u64::MAX))
    }

    /// `clock_gettime` is async-signal-safe in POSIX. On Linux it reads the vDSO's page; where there is no
    /// vDSO, or its clock is not a fast one, it is a system call, which a seccomp filter may refuse.
    fn read() -> Result<Self, Errno> {
        let mut now = libc::timespec { tv_sec: 0, tv_nsec: -1 };
        // SAFETY: writes one timespec of ours.
        match unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) } {
            0 if now.tv_nsec >= 0 => {
                Ok(Self(now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64))
            }
            0 => Err(raw::FORGED),
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

/// The time at which a wait gives up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Deadline(Instant);

impl Deadline {
    /// The deadline `timeout` from now, or the latest one if that is later than the clock can tell. If the
    /// clock cannot be read, a deadline that has passed.
    pub(crate) fn after(timeout: Duration) -> Self {
        Self::try_after(timeout).unwrap_or(Self(Instant(0)))
    }

    /// As [`Self::after`], or the error if the clock cannot be read.
    pub(crate) fn try_after(timeout: Duration) -> Result<Self, Errno> {
        let timeout = u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX);
        Ok(Self(Instant(Instant::read()?.0.saturating_add(timeout).min(i64::MAX as u64))))
    }

    /// The earlier one of this and `timeout` from now.
    pub(crate) fn at_most(self, timeout: Duration) -> Self {
        self.min(Self::after(timeout))
    }

    /// The later one of this and `timeout` from now.
    pub(crate) fn at_least(self, timeout: Duration) -> Self {
        self.max(Self::after(timeout))
    }

    pub(crate) fn passed(self) -> bool {
        self.passed_at(Instant::now())
    }

    pub(crate) fn passed_at(self, time: Instant) -> bool {
        time >= self.0
    }

    pub(super) fn timespec(self) -> libc::timespec {
        timespec(Duration::from_nanos(self.0.0))
    }
}

/// Sleeps for about `time`, or until a signal arrives.
pub(crate) fn sleep(time: Duration) {
    let time = timespec(time);
    // SAFETY: the kernel reads one timespec of ours.
    let _ = unsafe { raw::syscall(libc::SYS_nanosleep, [&raw const time as usize, 0, 0, 0, 0, 0]) };
}

pub(super) fn timespec(time: Duration) -> libc::timespec {
    libc::timespec { tv_sec: time.as_secs() as _, tv_nsec: libc::c_long::from(time.subsec_nanos()) }
}
