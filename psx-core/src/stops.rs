//! How often and how long a broadcast has stopped the threads.

use std::fmt;
use std::time::Duration;

/// How often and how long a broadcast has stopped the threads, from the first signal of a round to its
/// release.
///
/// # Examples
///
/// ```
/// # extern crate psx_core as psx;
/// use psx::Broadcast;
///
/// // SAFETY: getppid(2) reads one number and changes nothing.
/// let report = unsafe { Broadcast::new().syscall(libc::SYS_getppid, [0; 6])? };
/// let stops = report.stops();
/// assert!(stops.longest() <= stops.total());
/// println!("{stops}"); // 1 attempt, which stopped the threads for 12.3µs
/// # Ok::<(), psx::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stops {
    attempts: u32,
    longest: Duration,
    total: Duration,
}

impl Stops {
    /// Counts an attempt. Its stop is zero if it has failed before it stopped a thread.
    pub(crate) fn add(&mut self, stop: Duration) {
        self.attempts += 1;
        self.longest = self.longest.max(stop);
        self.total += stop;
    }

    /// The number of rounds.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// The longest time for which the threads were stopped.
    #[must_use]
    pub fn longest(&self) -> Duration {
        self.longest
    }

    /// The sum of the times for which they were stopped.
    #[must_use]
    pub fn total(&self) -> Duration {
        self.total
    }
}

impl fmt::Display for Stops {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { attempts, longest, total } = self;
        match attempts {
            1 => write!(f, "1 attempt, which stopped the threads for {total:.1?}"),
            _ => write!(
                f,
                "{attempts} attempts, which stopped the threads for {total:.1?}, at most \
                 {longest:.1?} at a time"
            ),
        }
    }
}
