//! The proof that no thread was missed (P4), and the list of threads that a round without a proof leaves out
//! (P10).
//!
//! While all registered threads are stopped, the caller compares the kernel's thread count of the process
//! with the number of stopped threads plus itself. If they are equal, there is no other thread, and none can
//! appear: only threads create threads, the stopped ones do not, and the caller only runs the round.
//!
//! If the count is larger, the caller inspects the other threads. Two kinds are harmless: a thread that has
//! ended and has not been reaped (a main thread that left by `pthread_exit`), and a thread that the kernel
//! has created and that does not use its own credentials (an io_uring worker). If there are `n` of those
//! before and after the count is read again, and the count is stopped + caller + `n`, there is no other
//! thread.
//!
//! The count and whether the main thread has ended come from one read of an open file, in which the end is
//! read before the count ([`ThreadCount`]): a main thread that has ended starts no more threads, and those
//! that it has started are counted. The inspection needs `/proc` itself: if that is out of reach, the other
//! threads are counted as missed, without their names.

use super::broadcast::ThreadCounts;
use super::caller::AttemptError;
use super::scratch::Scratch;
use crate::Errno;
use crate::registry::Entry;
use crate::runtime::Runtime;
use crate::sync::Closed;
use crate::sys::sync::Ordering;
use crate::sys::{EXIT_POLLS, ThreadCount, UnregisteredKind};

/// How often at most to list the threads that are left out: the kernel cuts a list short when the thread at
/// its position ends.
const LISTINGS: usize = 4;

impl Runtime {
    /// Proves that the process has no threads but the `stopped` ones and the caller. Records missed threads in
    /// the scratch.
    pub(super) fn prove_coverage(
        &self,
        frozen: &Closed<'_>,
        stopped: usize,
        scratch: &mut Scratch,
    ) -> Result<(), AttemptError> {
        let accounted = stopped + 1;
        let seen = self.kernel.thread_count().map_err(AttemptError::ThreadCountUnavailable)?;
        let count = seen.threads;
        if count == accounted {
            return self.record_proof(0);
        }
        if count == 0 {
            return Err(AttemptError::ThreadCountUnavailable(self.kernel.zero_count_error()));
        }
        // A thread has ended after it arrived. The next attempt finds it dead.
        if count < accounted {
            return Err(AttemptError::Uncovered);
        }
        if !scratch.has_room_for(count) || !self.record_registered(frozen, scratch) {
            return Err(AttemptError::NoRoom);
        }
        let ended = self.ended_main_threads(seen, scratch);
        if count == accounted + ended {
            return self.record_proof(ended);
        }

        if let Err(errno) = self.list_unregistered(scratch) {
            scratch.unregistered.set_count(count.saturating_sub(accounted), ended, Some(errno));
            return Err(AttemptError::Uncovered);
        }
        let harmless = scratch.unregistered.harmless.as_slice();
        let count =
            self.kernel.thread_count().map_err(AttemptError::ThreadCountUnavailable)?.threads;
        if !scratch.unregistered.none_missed()
            || count != accounted + harmless.len()
            || !self.are_harmless(harmless)
        {
            return Err(AttemptError::Uncovered);
        }
        self.record_proof(harmless.len())
    }

    /// Stores the proof's counts. Relaxed: hints for the next round.
    fn record_proof<E>(&self, harmless: usize) -> Result<(), E> {
        self.round.harmless_hint.store(harmless as u32, Ordering::Relaxed);
        self.round.proven_hint.store(self.list.len() as u32, Ordering::Relaxed);
        Ok(())
    }

    /// Records in the scratch the threads that a round without a proof leaves out. The inner error says why
    /// they cannot be counted.
    pub(super) fn record_left_out(
        &self,
        frozen: &Closed<'_>,
        stopped: usize,
        scratch: &mut Scratch,
    ) -> Result<Result<(), Errno>, AttemptError> {
        let accounted = stopped + 1;
        let count = match self.kernel.thread_count() {
            Ok(ThreadCount { threads: 0, .. }) => return Ok(Err(self.kernel.zero_count_error())),
            Ok(count) if count.threads <= accounted => return Ok(Ok(())),
            Ok(count) => count.threads,
            Err(errno) => return Ok(Err(errno)),
        };
        if !scratch.has_room_for(count) || !self.record_registered(frozen, scratch) {
            return Err(AttemptError::NoRoom);
        }
        for _ in 0..LISTINGS {
            scratch.unregistered.clear();
            let listed = self.list_unregistered(scratch);
            let count = match self.kernel.thread_count() {
                Ok(count) => count,
                Err(errno) => return Ok(Err(errno)),
            };
            let left = count.threads.saturating_sub(accounted);
            if let Err(errno) = listed {
                let ended = self.ended_main_threads(count, scratch);
                scratch.unregistered.set_count(left, ended, Some(errno));
                break;
            }
            scratch.unregistered.set_count(
                left,
                scratch.unregistered.harmless.as_slice().len(),
                None,
            );
            if scratch.unregistered.is_complete() {
                break;
            }
        }
        Ok(Ok(()))
    }

    /// Records the ids of all registered threads. Returns `false` if the scratch has no room.
    fn record_registered(&self, frozen: &Closed<'_>, scratch: &mut Scratch) -> bool {
        let entries = self.list.iter(frozen).filter(|entry| entry.tid() != Entry::NO_TID);
        let mut tids = entries.map(Entry::tid);
        let fits = tids.all(|tid| scratch.registered.push(tid));
        scratch.registered.sort();
        fits
    }

    /// How many unregistered main threads in the count have ended: one or none. If it is registered, the wait
    /// for its arrival finds it dead.
    fn ended_main_threads(&self, count: ThreadCount, scratch: &Scratch) -> usize {
        let is_registered = scratch.registered.contains(self.kernel.main_tid());
        usize::from(!is_registered && count.main_has_ended)
    }

    /// Lists the threads of the process, and records those that are not registered.
    fn list_unregistered(&self, scratch: &mut Scratch) -> Result<(), Errno> {
        let Scratch { registered, unregistered, .. } = scratch;
        let threads = self.kernel.threads_in_stop()?;
        threads.for_each(|listed| {
            if registered.contains(listed.tid) {
                return;
            }
            match threads.info(listed.proc_id) {
                None => {}
                Some(info) if info.kind == UnregisteredKind::Missed => {
                    unregistered.add_missed(listed.tid, info)
                }
                // If there is no room, the count stays too large.
                Some(_) => {
                    let _ = unregistered.harmless.push(listed.proc_id);
                }
            }
        })
    }

    /// Whether these threads, by their ids in `/proc`, exist and are harmless.
    fn are_harmless(&self, proc_ids: &[u32]) -> bool {
        let Ok(threads) = self.kernel.threads_in_stop() else { return false };
        let is_harmless =
            |&id: &u32| threads.info(id).is_some_and(|info| info.kind != UnregisteredKind::Missed);
        proc_ids.iter().all(is_harmless)
    }

    /// Waits a moment for threads that have left the list and not yet the process: with them, the proof would
    /// fail. Called after the gate is closed and before threads are stopped.
    pub(super) fn wait_for_exiting(&self, mut seen: ThreadCounts) {
        let harmless_hint = self.round.harmless_hint.load(Ordering::Relaxed) as usize;
        for _ in 0..EXIT_POLLS {
            if seen.all <= self.list.len() + harmless_hint {
                return;
            }
            crate::sys::sync::yield_now();
            seen = self.thread_counts();
        }
    }
}
