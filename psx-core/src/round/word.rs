//! The round word: what every thread in a handler sleeps on, and the one place where a round says
//! what it is about to do.

use crate::sync::{Epoch, LivenessPoll, SpinWait};
use crate::sys::const_on_linux;
use crate::sys::futex;
use crate::sys::sync::{AtomicU32, Ordering};

/// Names this file to the models' seeded faults.
#[cfg(psx_loom)]
pub(crate) const FILE: &str = file!();

/// What a round asks of the threads that it has summoned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Phase {
    /// Nothing: run.
    Released,
    /// Arrive and wait.
    Gathering,
    /// Make the call, and wait until everyone has.
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

/// The word itself.
#[derive(Debug)]
pub(crate) struct Word {
    /// Written by the holder of the round's lock alone, always with Release: whatever it has laid
    /// out for a phase is seen by the threads that read the phase with Acquire.
    state: AtomicU32,
}

impl Word {
    const_on_linux! {
        pub(crate) fn new() -> Self {
            Self { state: AtomicU32::new(0) }
        }
    }

    /// What is asked now.
    pub(crate) fn read(&self) -> State {
        // Acquire pairs with the Release in `publish`.
        State::unpack(self.state.load(Ordering::Acquire))
    }

    /// Asks for something else. Those asleep do not hear of it until [`Word::wake_all`].
    pub(crate) fn publish(&self, state: State) {
        // Release pairs with the Acquire in `read`.
        self.state.store(state.pack(), Ordering::Release);
    }

    /// Wakes whoever sleeps on the word.
    pub(crate) fn wake_all(&self) {
        futex::wake(&self.state, i32::MAX);
    }

    /// Waits until something else than `seen` is asked, and returns that.
    ///
    /// Each time that a sleep reaches its limit the patrol looks first, and only then is the word read: a
    /// caller that has died may have published a phase before.
    pub(super) fn wait_past(
        &self,
        seen: State,
        mut spin: SpinWait,
        mut poll: LivenessPoll<'_>,
    ) -> State {
        // Every wait ends for many reasons: only the word says whether to go on.
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
    fn a_state_survives_the_word() {
        let epoch = Epoch::LAST;
        for phase in [Phase::Released, Phase::Gathering, Phase::Committed] {
            let state = State { epoch, phase };
            assert_eq!(State::unpack(state.pack()), state);
        }
    }
}
