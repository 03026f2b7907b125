//! The proof that no thread was missed (P4), and who is left out where none is asked for (P10).
//!
//! With every registered thread stopped, the kernel's own thread count of the process is compared
//! with the number of stopped threads plus the caller. If they are equal there is no other thread,
//! and none can come: a stopped thread creates none, and the caller is busy here.
//!
//! If the count is larger, the rest is looked at. Two kinds are no danger: a thread that has ended
//! and waits to be reaped (a main thread that left by `pthread_exit`), and a thread that the kernel
//! has made for itself and that does nothing with the credentials that it has (an io_uring worker).
//! With `n` of those found, all of them there before and after the count is read again, a count of
//! stopped + caller + `n` leaves room for no other thread.
//!
//! The count and the main thread's end come from one read of a file that is held open, the end
//! before the count ([`ThreadCount`]): an ended main thread starts no more threads, and those that it
//! has started are counted. The rest takes `/proc` itself: where that is out of reach, what is left
//! over is counted and not named, and is taken for missed.

use super::broadcast::ThreadCounts;
use super::caller::AttemptError;
use super::scratch::Scratch;
use crate::Errno;
use crate::registry::Entry;
use crate::runtime::Runtime;
use crate::sync::Closed;
use crate::sys::sync::Ordering;
use crate::sys::{EXIT_POLLS, ThreadCount, UnregisteredKind};

/// How often the threads are listed to name those that are left out: the kernel ends a list early
/// when the thread that it has come to ends.
const LISTINGS: usize = 4;

impl Runtime {
    /// Proves that `stopped` threads and the caller are all there are. Notes in the ledger which were
    /// missed.
    pub(super) fn prove_coverage(
        &self,
        frozen: &Closed<'_>,
        stopped: usize,
        scratch: &mut Scratch,
    ) -> Result<(), AttemptError> {
        let held = stopped + 1;
        let seen = self.kernel.thread_count().map_err(AttemptError::ThreadCountUnavailable)?;
        let count = seen.threads;
        if count == held {
            return self.note_proof(0);
        }
        if count == 0 {
            return Err(AttemptError::ThreadCountUnavailable(self.kernel.zero_count_error()));
        }
        // Somebody has ended after it arrived; the next attempt finds it dead.
        if count < held {
            return Err(AttemptError::Uncovered);
        }
        if !scratch.has_room_for(count) || !self.note_registered(frozen, scratch) {
            return Err(AttemptError::NoRoom);
        }
        let ended = self.ended_mains(seen, scratch);
        if count == held + ended {
            return self.note_proof(ended);
        }

        if let Err(errno) = self.list_others(scratch) {
            scratch.others.count(count.saturating_sub(held), ended, Some(errno));
            return Err(AttemptError::Uncovered);
        }
        let harmless = scratch.others.harmless.as_slice();
        let count =
            self.kernel.thread_count().map_err(AttemptError::ThreadCountUnavailable)?.threads;
        if !scratch.others.none_missed()
            || count != held + harmless.len()
            || !self.are_harmless(harmless)
        {
            return Err(AttemptError::Uncovered);
        }
        self.note_proof(harmless.len())
    }

    /// Remembers what the proof came to, as a hint for the next round.
    fn note_proof<E>(&self, harmless: usize) -> Result<(), E> {
        self.round.harmless_hint.store(harmless as u32, Ordering::Relaxed);
        self.round.proven_hint.store(self.list.len() as u32, Ordering::Relaxed);
        Ok(())
    }

    /// Notes in the ledger which threads a round without a proof leaves out, as they are at this
    /// moment; or says why they cannot be counted.
    pub(super) fn note_left_out(
        &self,
        frozen: &Closed<'_>,
        stopped: usize,
        scratch: &mut Scratch,
    ) -> Result<Result<(), Errno>, AttemptError> {
        let held = stopped + 1;
        let count = match self.kernel.thread_count() {
            Ok(ThreadCount { threads: 0, .. }) => return Ok(Err(self.kernel.zero_count_error())),
            Ok(count) if count.threads <= held => return Ok(Ok(())),
            Ok(count) => count.threads,
            Err(errno) => return Ok(Err(errno)),
        };
        if !scratch.has_room_for(count) || !self.note_registered(frozen, scratch) {
            return Err(AttemptError::NoRoom);
        }
        for _ in 0..LISTINGS {
            scratch.others.clear();
            let listed = self.list_others(scratch);
            let count = match self.kernel.thread_count() {
                Ok(count) => count,
                Err(errno) => return Ok(Err(errno)),
            };
            let left = count.threads.saturating_sub(held);
            if let Err(errno) = listed {
                let ended = self.ended_mains(count, scratch);
                scratch.others.count(left, ended, Some(errno));
                break;
            }
            scratch.others.count(left, scratch.others.harmless.as_slice().len(), None);
            if scratch.others.is_whole() {
                break;
            }
        }
        Ok(Ok(()))
    }

    /// Notes the ids of all registered threads; returns whether there was room.
    fn note_registered(&self, frozen: &Closed<'_>, scratch: &mut Scratch) -> bool {
        let entries = self.list.iter(frozen).filter(|entry| entry.tid() != Entry::NO_TID);
        let mut tids = entries.map(Entry::tid);
        let fits = tids.all(|tid| scratch.registered.push(tid));
        scratch.registered.sort();
        fits
    }

    /// How many main threads in the count have ended and are not registered: one or none. A registered
    /// one that has ended is found dead by its summons.
    fn ended_mains(&self, count: ThreadCount, scratch: &Scratch) -> usize {
        let is_registered = scratch.registered.contains(self.kernel.main_tid());
        usize::from(!is_registered && count.main_has_ended)
    }

    /// Lists the process's threads, and notes those that are not registered.
    fn list_others(&self, scratch: &mut Scratch) -> Result<(), Errno> {
        let Scratch { registered, others, .. } = scratch;
        let threads = self.kernel.threads_in_stop()?;
        threads.for_each(|listed| {
            if registered.contains(listed.tid) {
                return;
            }
            match threads.info(listed.proc_id) {
                None => {}
                Some(info) if info.kind == UnregisteredKind::Missed => {
                    others.note(listed.tid, info)
                }
                // One that there is no room for leaves the count too large.
                Some(_) => {
                    let _ = others.harmless.push(listed.proc_id);
                }
            }
        })
    }

    /// Whether these threads, by their ids in `/proc`, are there and harmless.
    fn are_harmless(&self, proc_ids: &[u32]) -> bool {
        let Ok(threads) = self.kernel.threads_in_stop() else { return false };
        let is_harmless =
            |&id: &u32| threads.info(id).is_some_and(|info| info.kind != UnregisteredKind::Missed);
        proc_ids.iter().all(is_harmless)
    }

    /// Gives threads that have left the list a moment to leave the process too, before anybody is
    /// stopped for a proof that could only fail. Called with the gate closed.
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
