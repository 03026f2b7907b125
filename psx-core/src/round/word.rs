//! The round word: what every thread in a handler sleeps on, and the one place where a round says
//! what it is about to do.

use super::wait_policy::SpinWait;
use crate::registry::LivenessPoll;
use crate::sys::const_on_linux;
use crate::sys::futex;
use crate::sys::sync::{AtomicU32, Ordering};

/// Names this file to the models' seeded faults.
#[cfg(psx_loom)]
pub(crate) const FILE: &str = file!();

/// The number of a round's attempt. Whatever a thread does in a round, it does under the epoch
/// that it saw at the start, so that a late thread can do no harm to the next one. It wraps after
/// half a billion attempts: a thread would have to be late by that many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Epoch(u32);

impl Epoch {
    const BITS: u32 = 29;

    pub(crate) fn next(self) -> Self {
        let next = (self.0 + 1) % (1 << Self::BITS);
        // Zero means "never", as in an entry that has not been summoned yet.
        Self(if next == 0 { 1 } else { next })
    }

    /// Whether this is the epoch after `last`, and the count has begun anew.
    pub(crate) fn has_wrapped(self, last: Self) -> bool {
        self.0 < last.0
    }

    /// A number of at most three bits, marked with the epoch.
    pub(crate) fn tag(self, low: u32) -> u32 {
        debug_assert!(low < 8);
        self.0 << 3 | low
    }

    /// Half a word, marked with the epoch in the other half.
    pub(crate) fn tag_wide(self, low: u32) -> u64 {
        u64::from(self.0) << 32 | u64::from(low)
    }

    /// Whether [`Epoch::tag_wide`] made this of the same epoch.
    pub(crate) fn tags(self, wide: u64) -> bool {
        (wide >> 32) as u32 == self.0
    }
}

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

impl Phase {
    /// The bits of the word that hold it.
    pub(crate) const MASK: u32 = 7;
}

impl State {
    fn pack(self) -> u32 {
        self.epoch.tag(self.phase as u32)
    }

    fn unpack(word: u32) -> Self {
        let phase = match word & Phase::MASK {
            0 => Phase::Released,
            1 => Phase::Gathering,
            _ => Phase::Committed,
        };
        Self { epoch: Epoch(word >> 3), phase }
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
        let epoch = Epoch((1 << Epoch::BITS) - 1);
        for phase in [Phase::Released, Phase::Gathering, Phase::Committed] {
            let state = State { epoch, phase };
            assert_eq!(State::unpack(state.pack()), state);
        }
    }

    #[test]
    fn epochs_wrap_past_never() {
        let last = Epoch((1 << Epoch::BITS) - 1);
        assert_eq!(last.next(), Epoch(1));
        assert!(last.next().has_wrapped(last) && !Epoch(2).has_wrapped(Epoch(1)));
        assert_ne!(Epoch::default().next(), Epoch::default());
    }
}
