//! The lock that the caller of a round holds: fair, with its owner in the lock word.
//!
//! Need: several threads may broadcast in a loop. If the lock went to the first thread that tries, the
//! thread that has just released it would be first again: each round interrupts the wait of the others,
//! which are still returning from their handlers. Design: a ticket lock. Each thread takes the next number,
//! and the lock serves numbers in order.
//!
//! Downside: a thread with a number may be slow, may have given up, or may be dead. So the others wait for
//! it for [`TURN_TIMEOUT`] at most. Then one of them takes the lock out of turn, and the threads whose
//! numbers were skipped take new ones.
//!
//! The word contains the owner, so that the owner of a held lock is always known: a thread that waits asks
//! whether the owner is dead, and a fork hook that interrupts another one must find that its thread holds
//! the lock already.

use core::time::Duration;

use super::liveness_poll::LivenessPoll;
use crate::sys::clock::Deadline;
use crate::sys::const_on_linux;
use crate::sys::futex::{self, Limit};
use crate::sys::sync::{AtomicU64, Ordering};

/// Names this file to the models' seeded faults.
#[cfg(psx_loom)]
pub(crate) const FILE: &str = file!();

/// How long the other threads leave a free lock to the thread whose turn it is.
const TURN_TIMEOUT: Duration = Duration::from_millis(5);

/// Ticket numbers wrap. At most half of them are in use at a time: there are at most 2^22 threads
/// (`PID_MAX_LIMIT` in the kernel's include/linux/threads.h), and few of them broadcast.
const TICKET_BITS: u32 = 21;
const TICKETS: u64 = (1 << TICKET_BITS) - 1;
const OWNER_BITS: u32 = 22;
const OWNERS: u64 = (1 << OWNER_BITS) - 1;

/// A lock without data. The fields that it protects name it.
#[derive(Debug)]
pub(crate) struct FairLock {
    /// A [`State`]. The Acquire of each acquisition pairs with the Release in `advance`: an owner sees what the
    /// last one did. Threads sleep on the low half, which changes when the owner does.
    word: AtomicU64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    /// The id of the thread that holds the lock, or [`FairLock::NO_OWNER`].
    owner: u32,
    /// The number that holds the lock or, if the lock is free, whose turn it is.
    serving: u32,
    /// The next number to be taken.
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

    /// Whether the lock has skipped `ticket`.
    fn has_skipped(self, ticket: u32) -> bool {
        let ahead = u64::from(ticket.wrapping_sub(self.serving)) & TICKETS;
        ahead > TICKETS / 2
    }
}

impl FairLock {
    /// The owner of a free lock.
    pub(crate) const NO_OWNER: u32 = 0;

    const_on_linux! {
        pub(crate) fn new() -> Self {
            Self { word: AtomicU64::new(0) }
        }
    }

    /// The id of the thread that holds the lock. Acquire pairs with the Release in `advance`: a thread that
    /// reads a later owner sees what the earlier one did.
    pub(crate) fn owner(&self) -> u32 {
        State::unpack(self.word.load(Ordering::Acquire)).owner
    }

    /// Acquires the lock for the thread `me`, if it is free and no thread waits for it.
    #[must_use = "what the lock protects must not be accessed without it"]
    pub(crate) fn try_acquire_now(&self, me: u32) -> bool {
        let seen = self.read();
        seen.owner == Self::NO_OWNER && seen.serving == seen.next && {
            let next = seen.next + 1;
            self.change(seen, State { owner: me, next, ..seen }, Ordering::Acquire)
        }
    }

    /// Acquires the lock for the thread `me` when its turn comes, or returns `false` at the deadline. Signals
    /// are handled during the wait.
    #[must_use = "what the lock protects must not be accessed without it"]
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

    /// Releases the lock to the next number. Only the owner calls this.
    pub(crate) fn release(&self) {
        while !self.advance(self.read()) {}
    }

    /// Releases the lock to the next number if its owner will never do so: `is_abandoned` decides.
    pub(crate) fn release_if(&self, is_abandoned: impl FnOnce(u32) -> bool) {
        // The answer of `is_abandoned` applies to this turn of the owner only.
        let seen = self.read();
        if seen.owner != Self::NO_OWNER && is_abandoned(seen.owner) {
            self.advance(seen);
        }
    }

    /// Releases the lock to the next number. Returns `false` if the state is not `seen`.
    fn advance(&self, seen: State) -> bool {
        let free = State { owner: Self::NO_OWNER, serving: seen.serving + 1, ..seen };
        let changed = self.change(seen, free, Ordering::Release);
        if changed && State::unpack(free.pack()).serving != seen.next {
            futex::wake(&self.word, i32::MAX);
        }
        changed
    }

    /// In a forked child: frees the lock, which a thread of the parent may have held. Skips the numbers that
    /// were taken: the forking thread may have one, if the fork has interrupted its wait.
    pub(crate) fn reset_after_fork(&self) {
        let State { next, .. } = self.read();
        let free = State { owner: Self::NO_OWNER, serving: next, next };
        // Relaxed: the child has one thread.
        self.word.store(free.pack(), Ordering::Relaxed);
    }

    fn take_ticket(&self) -> u32 {
        loop {
            let seen = self.read();
            // Relaxed: a ticket publishes nothing, and the exchange continues the last release sequence.
            if self.change(seen, State { next: seen.next + 1, ..seen }, Ordering::Relaxed) {
                return seen.next;
            }
        }
    }

    /// Relaxed: a compare-and-swap follows, or a sleep on the value.
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
    fn states_round_trip() {
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
    fn a_ticket_given_up_at_the_deadline_is_skipped() {
        let lock = FairLock::new();
        assert!(lock.try_acquire_now(1));
        assert!(!lock.try_acquire_now(2));
        assert!(!take(&lock, 2, in_ms(1)));
        lock.release();
        // The number of the thread that has given up is skipped.
        let start = Instant::now();
        assert!(take(&lock, 3, in_ms(60_000)));
        assert!(start.elapsed() >= TURN_TIMEOUT);
        lock.release();
        assert!(lock.try_acquire_now(4), "no number is left");
    }

    /// A thread that gets no core for [`TURN_TIMEOUT`] is skipped, so a busy machine may need several tries. A
    /// lock that goes to the first thread that tries never passes: the thread that releases it is first again.
    #[test]
    fn it_serves_in_order_of_arrival() {
        assert!((0..100).any(|_| order_of_service() == [2, 3, 4]));
    }

    /// The threads that get the lock before the thread that has just released it gets it again.
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
    fn a_lock_whose_owner_is_dead_is_released() {
        let lock = FairLock::new();
        assert!(lock.try_acquire_now(1));
        lock.release_if(|owner| owner == 2);
        assert_eq!(lock.owner(), 1);
        lock.release_if(|owner| owner == 1);
        assert!(lock.try_acquire_now(2));
        // A conclusion about an earlier turn releases nothing.
        let seen = lock.read();
        lock.release();
        assert!(lock.try_acquire_now(2));
        assert!(!lock.advance(seen));
    }

    #[test]
    fn one_owner_at_a_time() {
        let (lock, count) = (FairLock::new(), Cell::new(0));
        struct Shared<'a>(&'a FairLock, &'a Cell<u32>);
        // SAFETY: the cell is accessed only under the lock, which is what this tests.
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
    fn in_a_forked_child_it_is_free_and_old_numbers_are_skipped() {
        let lock = FairLock::new();
        assert!(lock.try_acquire_now(1));
        let ticket = lock.take_ticket();
        lock.reset_after_fork();
        assert!(lock.read().has_skipped(ticket));
        assert!(lock.try_acquire_now(2));
    }
}
