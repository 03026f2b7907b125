//! What has happened so far, counted by the process under test and printed by the oracle.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

macro_rules! events {
    ($($event:ident $what:literal,)*) => {
        /// Something that is counted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Event { $(#[doc = $what] $event,)* }

        impl Event {
            pub(crate) const ALL: [Self; [$($what),*].len()] = [$(Self::$event),*];

            pub(crate) fn what(self) -> &'static str {
                match self { $(Self::$event => $what,)* }
            }
        }
    };
}

events! {
    Round "rounds that counted on every thread",
    Refused "rounds that a fault prevented",
    FailedCall "rounds whose call failed on the caller",
    Diverged "rounds with another result on each thread",
    Worker "workers of six kinds",
    Registered "threads started by psx",
    Scoped "threads started in a psx scope",
    Adopted "threads started by std that adopt",
    PthreadExit "C threads that end by pthread_exit",
    RawExit "threads that end by the exit system call",
    Panicked "threads that end by a panic",
    Unstarted "threads that could not be started",
    Ended "threads that ended",
    Forked "forks with two rounds in the child",
    Command "commands run",
    Unregistered "unregistered threads",
    Blocked "threads that block signal 33",
    Vforked "threads in vfork",
    Named "of these three, named by a round's error",
    NoQueue "times without a signal queue",
    Ring "io_uring workers",
    Library "libraries loaded and unloaded",
    Lock "bursts of malloc, stdout, env and Mutex",
}

impl Event {
    /// Threads that have started.
    pub(crate) const STARTS: [Self; 7] = [
        Self::Worker,
        Self::Registered,
        Self::Scoped,
        Self::Adopted,
        Self::PthreadExit,
        Self::RawExit,
        Self::Panicked,
    ];
    /// What prevents rounds.
    pub(crate) const FAULTS: [Self; 5] =
        [Self::Unregistered, Self::Blocked, Self::Vforked, Self::NoQueue, Self::Unstarted];
}

static COUNTERS: [AtomicU64; Event::ALL.len()] = [const { AtomicU64::new(0) }; Event::ALL.len()];
static SLOWEST_STOP: AtomicU64 = AtomicU64::new(0);

pub(crate) fn count(event: Event) {
    COUNTERS[event as usize].fetch_add(1, Ordering::Relaxed);
}

pub(crate) fn stopped_for(time: Duration) {
    let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    SLOWEST_STOP.fetch_max(micros, Ordering::Relaxed);
}

/// All counters at one time; as text, a line of numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    counts: [u64; Event::ALL.len()],
    slowest_stop: u64,
}

impl Tally {
    pub(crate) fn now() -> Self {
        let counts = COUNTERS.each_ref().map(|counter| counter.load(Ordering::Relaxed));
        Self { counts, slowest_stop: SLOWEST_STOP.load(Ordering::Relaxed) }
    }

    pub(crate) fn of(&self, event: Event) -> u64 {
        self.counts[event as usize]
    }

    pub(crate) fn sum(&self, events: &[Event]) -> u64 {
        events.iter().map(|&event| self.of(event)).sum()
    }

    /// The longest stop of a round.
    pub(crate) fn slowest_stop(&self) -> Duration {
        Duration::from_micros(self.slowest_stop)
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.slowest_stop)?;
        self.counts.iter().try_for_each(|count| write!(f, " {count}"))
    }
}

impl FromStr for Tally {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let mut numbers = line.split(' ').map(str::parse);
        let mut next = || numbers.next()?.ok();
        let mut read = || {
            let slowest_stop = next()?;
            let mut counts = [0; Event::ALL.len()];
            for count in &mut counts {
                *count = next()?;
            }
            Some(Self { counts, slowest_stop })
        };
        read().ok_or_else(|| format!("no tally: {line:?}"))
    }
}
