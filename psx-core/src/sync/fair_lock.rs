//! The lock that the caller of a round holds: fair, and it knows its owner.
//!
//! Need: several threads may broadcast in a loop. With a lock that goes to the first thread that tries,
//! the one that has just released it is the first again: the others are still on their way out of their
//! handlers, because every round has interrupted their wait. Design: a ticket lock. Each thread takes
//! the next number, and the lock serves numbers in order.
//!
//! Downside: a thread with a number may be slow, may have given up, or may be dead. So the others wait
//! for it for [`TURN_TIMEOUT`] at most; then one of them takes the lock out of turn, and those that were
//! passed over take new numbers.
//!
//! The owner is part of the word, so that no moment exists in which the lock is held and its owner is
//! unknown: a thread that waits asks whether the owner is dead, and a fork whose hook interrupts
//! another fork's must find that the thread holds the lock already.

use core::time::Duration;

use super::liveness_poll::LivenessPoll;
use crate::sys::clock::Deadline;
use crate::sys::const_on_linux;
use crate::sys::futex::{self, Limit};
use crate::sys::sync::{AtomicU64, Ordering};

/// Names this file to the models' seeded faults.
#[cfg(psx_loom)]
pub(crate) const FILE: &str = file!();

/// How long a free lock waits for the thread whose number has come.
const TURN_TIMEOUT: Duration = Duration::from_millis(5);

/// A ticket's number. Numbers wrap: no more than half of them are out, since there are at most 2^22
/// threads (`PID_MAX_LIMIT` in the kernel's include/linux/threads.h), and few of them broadcast.
const TICKET_BITS: u32 = 21;
const TICKETS: u64 = (1 << TICKET_BITS) - 1;
const OWNER_BITS: u32 = 22;
const OWNERS: u64 = (1 << OWNER_BITS) - 1;

/// A lock without data: what it protects says so.
#[derive(Debug)]
pub(crate) struct FairLock {
    /// A [`State`]. Taken with Acquire, released with Release: what was done under the lock is seen by
    /// the next owner. The low half, on which threads sleep, changes whenever the owner does.
    word: AtomicU64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    /// The id of the thread that holds the lock, or [`FairLock::NO_OWNER`].
    owner: u32,
    /// The number that holds the lock, or whose turn it is.
    serving: u32,
    /// The number that the next thread to come takes.
    next: u32,
}

impl State {
    fn pack(self) -> u64 {
        let (serving, next) = (u64::from(self.serving) & TICKETS, u64::from(self.next) & TICKETS);
        u64::from(self.owner) & OWNERS | serving << OWNER_BITS | next << (OWNER_BITS + TICKET_BITS)
    }

    fn unpack(word: u64) -> Self {
        Self {
            owner: (word & OWNERS) as u32,
            serving: (word >> OWNER_BITS & TICKETS) as u32,
            next: (word >> (OWNER_BITS + TICKET_BITS) & TICKETS) as u32,
        }
    }

    /// Whether the lock has gone on without `ticket`.
    fn has_skipped(self, ticket: u32) -> bool {
        let ahead = u64::from(ticket.wrapping_sub(self.serving)) & TICKETS;
        ahead > TICKETS / 2
    }
}

impl FairLock {
    /// The id of no thread.
    pub(crate) const NO_OWNER: u32 = 0;

    const_on_linux! {
        pub(crate) fn new() -> Self {
            Self { word: AtomicU64::new(0) }
        }
    }

    /// The id of the thread that holds the lock. Acquire: whoever finds the owner of a later turn has
    /// seen what the owner of an earlier one did.
    pub(crate) fn owner(&self) -> u32 {
        State::unpack(self.word.load(Ordering::Acquire)).owner
    }

    /// Takes the lock for the thread `me`, if it is free and no thread waits for it.
    #[must_use = "without the lock nothing that it protects may be touched"]
    pub(crate) fn try_acquire_now(&self, me: u32) -> bool {
        let seen = self.read();
        seen.owner == Self::NO_OWNER && seen.serving == seen.next && {
            let next = seen.next + 1;
            self.change(seen, State { owner: me, next, ..seen }, Ordering::Acquire)
        }
    }

    /// Takes the lock for the thread `me` when its turn comes, or returns `false` at the deadline.
    /// Signals are answered in the meantime.
    #[must_use = "without the lock nothing that it protects may be touched"]
    pub(crate) fn try_acquire(
        &self,
        me: u32,
        deadline: Deadline,
        mut poll: LivenessPoll<'_>,
    ) -> bool {
        let mut ticket = self.take_ticket();
        let mut overdue = None;
        let mut timed_out = false;
        loop {
            let seen = self.read();
            if seen.has_skipped(ticket) {
                ticket = self.take_ticket();
                continue;
            }
            let is_free = seen.owner == Self::NO_OWNER;
            if is_free && (seen.serving == ticket || overdue == Some(seen.serving)) {
                let taken = State { owner: me, serving: ticket, ..seen };
                if self.change(seen, taken, Ordering::Acquire) {
                    return true;
                }
            } else if timed_out {
                return false;
            } else if is_free {
                if self.sleep(seen, Limit::At(deadline.at_most(TURN_TIMEOUT))) {
                    overdue = Some(seen.serving);
                    timed_out = deadline.passed();
                }
            } else if self.sleep(seen, poll.limit(deadline)) {
                poll.check();
                timed_out = deadline.passed();
            }
        }
    }

    /// Gives the lock to the next number. Only its owner calls this.
    pub(crate) fn release(&self) {
        while !self.advance(self.read()) {}
    }

    /// Gives the lock to the next number where `is_abandoned` says so of its owner, a thread that will
    /// never release it.
    pub(crate) fn release_if(&self, is_abandoned: impl FnOnce(u32) -> bool) {
        // What is found out about the owner counts for this turn of it alone.
        let seen = self.read();
        if seen.owner != Self::NO_OWNER && is_abandoned(seen.owner) {
            self.advance(seen);
        }
    }

    /// Returns `false` where the lock has changed.
    fn advance(&self, seen: State) -> bool {
        let free = State { owner: Self::NO_OWNER, serving: seen.serving + 1, ..seen };
        let changed = self.change(seen, free, Ordering::Release);
        if changed && State::unpack(free.pack()).serving != seen.next {
            futex::wake(&self.word, i32::MAX);
        }
        changed
    }

    /// Free again in a forked child, whatever thread held it in the parent. The numbers that are out
    /// are passed over: one may belong to this very thread, in a wait that the fork has interrupted.
    pub(crate) fn reset_after_fork(&self) {
        let State { next, .. } = self.read();
        let free = State { owner: Self::NO_OWNER, serving: next, next };
        // Relaxed: the child has one thread.
        self.word.store(free.pack(), Ordering::Relaxed);
    }

    fn take_ticket(&self) -> u32 {
        loop {
            let seen = self.read();
            // Relaxed: a ticket orders nothing.
            if self.change(seen, State { next: seen.next + 1, ..seen }, Ordering::Relaxed) {
                return seen.next;
            }
        }
    }

    /// Relaxed: only for the exchange that follows, or to sleep on.
    fn read(&self) -> State {
        State::unpack(self.word.load(Ordering::Relaxed))
    }

    fn change(&self, from: State, to: State, order: Ordering) -> bool {
        let (from, to) = (from.pack(), to.pack());
        self.word.compare_exchange(from, to, order, Ordering::Relaxed).is_ok()
    }

    fn sleep(&self, seen: State, limit: Limit) -> bool {
        futex::wait(&self.word, seen.pack() as u32, limit)
    }
}

#[cfg(all(test, not(psx_loom)))]
mod tests {
    use super::*;
    use core::cell::Cell;
    use std::sync::mpsc;
    use std::time::Instant;

    fn in_ms(ms: u64) -> Deadline {
        Deadline::after(Duration::from_millis(ms))
    }

    fn take(lock: &FairLock, me: u32, deadline: Deadline) -> bool {
        lock.try_acquire(me, deadline, LivenessPoll::new(&|| ()))
    }

    #[test]
    fn a_state_survives_the_word() {
        for owner in [0, 1, OWNERS as u32] {
            for ticket in [0, 1, TICKETS as u32] {
                let state = State { owner, serving: ticket, next: TICKETS as u32 - ticket };
                assert_eq!(State::unpack(state.pack()), state);
            }
        }
    }

    #[test]
    fn numbers_wrap() {
        let last = TICKETS as u32;
        let lock = FairLock::new();
        let at_the_end = State { owner: 0, serving: last, next: last };
        lock.word.store(at_the_end.pack(), Ordering::Relaxed);
        for me in 1..=3 {
            assert!(lock.try_acquire_now(me));
            assert_eq!(lock.owner(), me);
            lock.release();
        }
        assert!(take(&lock, 4, in_ms(10_000)));
        assert!(State { owner: 0, serving: 1, next: 1 }.has_skipped(last));
        assert!(!State { owner: 0, serving: last, next: 1 }.has_skipped(0));
    }

    #[test]
    fn it_gives_up_at_the_deadline_and_is_no_worse_for_it() {
        let lock = FairLock::new();
        assert!(lock.try_acquire_now(1));
        assert!(!lock.try_acquire_now(2));
        assert!(!take(&lock, 2, in_ms(1)));
        lock.release();
        // The number that has given up is passed over.
        let start = Instant::now();
        assert!(take(&lock, 3, in_ms(60_000)));
        assert!(start.elapsed() >= TURN_TIMEOUT);
        lock.release();
        assert!(lock.try_acquire_now(4), "and forgotten");
    }

    /// A thread that has no core for [`TURN_TIMEOUT`] is passed over, so a busy machine may take several tries.
    /// A lock that goes to the first thread that tries never gets there: the thread that releases it is
    /// the first again.
    #[test]
    fn it_serves_in_order_of_arrival() {
        assert!((0..100).any(|_| order_of_service() == [2, 3, 4]));
    }

    /// Which threads have had the lock before the one that has just released it to them.
    fn order_of_service() -> Vec<u32> {
        let lock = FairLock::new();
        assert!(lock.try_acquire_now(1));
        let (served, order) = mpsc::channel();
        std::thread::scope(|scope| {
            for me in 2..=4 {
                let (lock, served) = (&lock, served.clone());
                scope.spawn(move || {
                    assert!(take(lock, me, in_ms(60_000)));
                    served.send(me).unwrap();
                    lock.release();
                });
                while lock.read().next != me {
                    std::thread::yield_now();
                }
            }
            lock.release();
            assert!(take(&lock, 1, in_ms(60_000)));
            let before = order.try_iter().collect();
            lock.release();
            before
        })
    }

    #[test]
    fn it_goes_on_without_an_owner_that_is_dead() {
        let lock = FairLock::new();
        assert!(lock.try_acquire_now(1));
        lock.release_if(|owner| owner == 2);
        assert_eq!(lock.owner(), 1);
        lock.release_if(|owner| owner == 1);
        assert!(lock.try_acquire_now(2));
        // Whoever comes to that conclusion about an earlier turn is too late.
        let seen = lock.read();
        lock.release();
        assert!(lock.try_acquire_now(2));
        assert!(!lock.advance(seen));
    }

    #[test]
    fn one_owner_at_a_time() {
        let (lock, count) = (FairLock::new(), Cell::new(0));
        /// Shared among threads that take turns by the lock.
        struct Shared<'a>(&'a FairLock, &'a Cell<u32>);
        // SAFETY: the cell is touched only under the lock: this is the test.
        unsafe impl Sync for Shared<'_> {}
        let shared = &Shared(&lock, &count);
        std::thread::scope(|scope| {
            for me in 1..=4 {
                scope.spawn(move || {
                    for _ in 0..2_000 {
                        let Shared(lock, count) = shared;
                        assert!(lock.try_acquire_now(me) || take(lock, me, in_ms(60_000)));
                        count.set(count.get() + 1);
                        lock.release();
                    }
                });
            }
        });
        assert_eq!(count.get(), 8_000);
    }

    #[test]
    fn in_a_forked_child_it_is_free_and_old_numbers_are_passed_over() {
        let lock = FairLock::new();
        assert!(lock.try_acquire_now(1));
        let ticket = lock.take_ticket();
        lock.reset_after_fork();
        assert!(lock.read().has_skipped(ticket));
        assert!(lock.try_acquire_now(2));
    }
}
