//! The round word: the epoch and the phase of the current round. Stopped threads sleep on it.

use crate::sync::{Epoch, LivenessPoll, SpinWait};
use crate::sys::const_on_linux;
use crate::sys::futex::{self, Limit};
use crate::sys::sync::{AtomicU32, Ordering};

/// Names this file to the models' seeded faults.
#[cfg(psx_loom)]
pub(crate) const FILE: &str = file!();

/// What the threads that a round has summoned are to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Phase {
    /// Run.
    Released,
    /// Arrive and wait.
    Gathering,
    /// Make the call, and wait until all threads have made it.
    Committed,
}

/// The state of the round word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) epoch: Epoch,
    pub(crate) phase: Phase,
}

impl State {
    fn pack(self) -> u32 {
        self.epoch.tag(self.phase as u32)
    }

    fn unpack(word: u32) -> Self {
        let phase = match word & Epoch::LOW_MASK {
            0 => Phase::Released,
            1 => Phase::Gathering,
            _ => Phase::Committed,
        };
        Self { epoch: Epoch::of_tagged(word), phase }
    }
}

#[derive(Debug)]
pub(crate) struct Word {
    /// Written only by the owner of the round's lock. A thread that reads a phase sees what the owner wrote for
    /// that phase before: the Release in `publish` pairs with the Acquire in `read`.
    state: AtomicU32,
}

impl Word {
    const_on_linux! {
        pub(crate) fn new() -> Self {
            Self { state: AtomicU32::new(0) }
        }
    }

    /// The current state.
    pub(crate) fn read(&self) -> State {
        // Acquire pairs with the Release in `publish`.
        State::unpack(self.state.load(Ordering::Acquire))
    }

    /// Changes the state. [`Word::wake_all`] wakes the threads that sleep on it.
    pub(crate) fn publish(&self, state: State) {
        // Release pairs with the Acquire in `read`.
        self.state.store(state.pack(), Ordering::Release);
    }

    /// Wakes all threads that sleep on the word.
    pub(crate) fn wake_all(&self) {
        futex::wake(&self.state, i32::MAX);
    }

    /// Sleeps while `seen` is the state, at most until the limit.
    pub(super) fn wait_once(&self, seen: State, limit: Limit) {
        futex::wait(&self.state, seen.pack(), limit);
    }

    /// Waits until the state is not `seen`, and returns the new one.
    ///
    /// When a sleep reaches its limit, polls the caller before it reads the word again: a caller may publish a
    /// phase and then die.
    pub(super) fn wait_past(
        &self,
        seen: State,
        mut spin: SpinWait,
        mut poll: LivenessPoll<'_>,
    ) -> State {
        // Waits can wake spuriously, so recheck the word.
        loop {
            let now = self.read();
            if now != seen {
                return now;
            }
            if !spin.spin() && futex::wait(&self.state, seen.pack(), poll.unbounded()) {
                poll.check();
            }
        }
    }
}

#[cfg(all(test, not(psx_loom)))]
mod tests {
    use super::*;

    #[test]
    fn states_round_trip() {
        let epoch = Epoch::LAST;
        for phase in [Phase::Released, Phase::Gathering, Phase::Committed] {
            let state = State { epoch, phase };
            assert_eq!(State::unpack(state.pack()), state);
        }
    }
}
