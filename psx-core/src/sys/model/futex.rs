//! Sleep on a word, wake its sleepers.
//!
//! The kernel compares and enqueues under a lock. Here no switch point lies between the two, which is
//! equivalent: a change of the word comes before the comparison, which then sees the new value, or after
//! it, and the wake-up then finds the sleeper.

use core::panic::Location;
use core::time::Duration;

use super::choice::Choice;
use super::clock::Deadline;
use super::fault::{self, Fault};
use super::machine;
use super::mutation::{self, Op};
use super::sync::{AtomicU32, AtomicU64, Ordering};
use super::task::Sleep;

/// A word that threads can sleep on.
pub(crate) trait Word {
    fn address(&self) -> usize;
    fn low_half(&self) -> u32;
}

impl Word for AtomicU32 {
    fn address(&self) -> usize {
        self.address()
    }

    fn low_half(&self) -> u32 {
        self.peek()
    }
}

impl Word for AtomicU64 {
    fn address(&self) -> usize {
        self.address()
    }

    fn low_half(&self) -> u32 {
        self.peek() as u32
    }
}

/// How long a sleep may last.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Limit {
    Never,
    At(Deadline),
    For(#[allow(dead_code, reason = "the model's time has no length")] Duration),
    /// Until the thread checks whether another is alive.
    Poll(#[allow(dead_code, reason = "as above")] Duration),
}

/// Sleeps while the word is `expected`. Returns whether the limit has been reached.
///
/// Spurious wake-ups and limits are decided before the sleep. That explores all cases: a thread that
/// returns at once and is then not scheduled for a while is equivalent to one that has slept meanwhile.
pub(crate) fn wait<W: Word>(word: &W, expected: u32, limit: Limit) -> bool {
    let machine = machine::get();
    let Some(me) = machine.me() else {
        panic!("the setup thread sleeps on no word");
    };
    let kind = match limit {
        Limit::Never => Sleep::Indefinite,
        Limit::At(_) | Limit::For(_) => Sleep::Timed,
        Limit::Poll(_) if fault::is(Fault::CallerNotPolled) => Sleep::Indefinite,
        Limit::Poll(_) => Sleep::Poll,
    };
    let at_once = match kind {
        Sleep::Timed => machine.choose(Choice::Timer),
        Sleep::Poll => machine.choose(Choice::Poll),
        _ => false,
    };
    if at_once {
        return true;
    }
    if machine.choose(Choice::SpuriousWake) {
        me.woken.set(true);
        return false;
    }
    machine.signal_point(&me);
    if word.low_half() != expected {
        return false;
    }
    let over = if me.takes_summons() && me.is_summoned() {
        machine.signal_point(&me);
        false
    } else {
        machine.sleep(&me, word.address(), kind)
    };
    me.woken.set(true);
    over
}

/// No call in a model forbids futex.
pub(crate) fn probe() {}

/// Wakes up to `count` sleepers.
#[track_caller]
pub(crate) fn wake<W: Word>(word: &W, count: i32) {
    if machine::is_current_dead() {
        return;
    }
    if mutation::find(Location::caller(), Op::Wake, Ordering::Relaxed).is_some() {
        return;
    }
    let count = if fault::is(Fault::WakeAllWakesOne) { 1 } else { count };
    // Orders the wake-up with every comparison of the same word, as the kernel's lock does.
    word.low_half();
    machine::get().wake(word.address(), count as usize);
}
