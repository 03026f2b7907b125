//! Sleep on a word, wake its sleepers.
//!
//! The kernel compares and enqueues under a lock. Here comparison and falling asleep are one turn of
//! loom's, which is the same: whoever changes the word does so before the comparison, which then
//! finds the new value, or after it, and then finds the sleeper.

use core::time::Duration;

use super::choices::Whim;
use super::clock::Deadline;
use super::fault::{self, Fault};
use super::machine;
use super::sync::{AtomicU32, AtomicU64};
use super::task::Sleep;

/// What can be slept on.
pub(crate) trait Word {
    fn address(&self) -> usize;
    fn low_half(&self) -> u32;
    /// Whether it is a latch, for [`Fault::LatchForgetsToWake`].
    const WIDE: bool;
}

impl Word for AtomicU32 {
    const WIDE: bool = false;

    fn address(&self) -> usize {
        self.address()
    }

    fn low_half(&self) -> u32 {
        self.peek()
    }
}

impl Word for AtomicU64 {
    const WIDE: bool = true;

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
    For(#[allow(dead_code, reason = "time has no length here")] Duration),
    /// Of a thread that looks whether another is still alive.
    Poll(#[allow(dead_code, reason = "as above")] Duration),
}

/// Sleeps while the word is `expected`. Returns whether the limit has been reached.
///
/// A wake for no reason and a limit reached are decided on before the sleep. That is all there is
/// to explore: a thread that returns at once, and is then kept from running for a while, is like
/// one that has slept for that while.
pub(crate) fn wait<W: Word>(word: &W, expected: u32, limit: Limit) -> bool {
    let machine = machine::get();
    let Some(me) = machine.me() else {
        panic!("only a task of the model sleeps");
    };
    let kind = match limit {
        Limit::Never => Sleep::Endless,
        Limit::At(_) | Limit::For(_) => Sleep::Timed,
        Limit::Poll(_) if fault::is(Fault::CallerNotWatched) => Sleep::Endless,
        Limit::Poll(_) => Sleep::Look,
    };
    let at_once = match kind {
        Sleep::Timed => machine.whim(Whim::Timer),
        Sleep::Look => machine.whim(Whim::Look),
        _ => false,
    };
    if at_once {
        return true;
    }
    if machine.whim(Whim::SpuriousWake) {
        me.has_slept();
        return false;
    }
    machine.interrupt(&me);
    if word.low_half() != expected {
        return false;
    }
    let over = if me.can_be_summoned() && me.is_summoned() {
        machine.interrupt(&me);
        false
    } else {
        machine.sleep(&me, word.address(), kind)
    };
    me.has_slept();
    over
}

/// No call of a model's forbids a futex.
pub(crate) fn probe() {}

/// Wakes up to `count` sleepers.
pub(crate) fn wake<W: Word>(word: &W, count: i32) {
    if machine::is_over() {
        return;
    }
    if W::WIDE && fault::is(Fault::LatchForgetsToWake) {
        return;
    }
    let count = if fault::is(Fault::WakeAllWakesOne) { 1 } else { count };
    // Orders the wake and every comparison of the same word, as the kernel's lock does.
    word.low_half();
    machine::get().wake(word.address(), count as usize);
}
