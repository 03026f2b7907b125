//! The proof that no thread was missed (P4).
//!
//! With every registered thread stopped, the kernel's own thread count of the process is compared
//! with the number of stopped threads plus the caller. If they are equal there is no other thread,
//! and none can come: a stopped thread creates none, and the caller is busy here.
//!
//! If the count is larger, the rest is looked at one by one. Two kinds are no danger: a thread that
//! has ended and waits to be reaped (a main thread that left by `pthread_exit`), and an io_uring
//! worker, which acts with the credentials of whoever submits. With `n` of those found, all of them
//! there before and after the count is read again, a count of stopped + caller + `n` leaves room
//! for nobody else.

use super::caller::{Census, Setback};
use super::ledger::{Finding, Ledger};
use crate::registry::{Closed, Entry, Registry};
use crate::report::{Comm, Outcome};
use crate::sys::sync::Ordering;
use crate::sys::{Kind, LEAVER_LOOKS};

impl Registry {
    /// Proves that `stopped` threads and the caller are all there are. Notes in the ledger who was
    /// missed.
    pub(super) fn prove_coverage(
        &self,
        frozen: &Closed<'_>,
        stopped: usize,
        ledger: &mut Ledger,
    ) -> Result<(), Setback> {
        let held = stopped + 1;
        let count = self.kernel.thread_count().map_err(Setback::Unprovable)?;
        if count == held {
            return Ok(());
        }
        if count == 0 {
            return Err(Setback::Unprovable(self.kernel.implausible()));
        }
        // Somebody has ended after it arrived; the next attempt finds it dead.
        if count < held {
            return Err(Setback::Missed);
        }
        for entry in self.list.iter(frozen).filter(|entry| entry.tid() != Entry::NOBODY) {
            if !ledger.registered.push(entry.tid()) {
                return Err(Setback::Missed);
            }
        }
        ledger.registered.sort();

        let mut all_harmless = true;
        let looked = self.kernel.for_each_thread(|tid| {
            if ledger.registered.contains(tid) {
                return;
            }
            match self.kernel.kind(tid) {
                None => {}
                Some(Kind::Dead | Kind::UringWorker) => {
                    all_harmless &= ledger.harmless.push(tid);
                }
                Some(Kind::Missed) => {
                    all_harmless = false;
                    ledger.note(Finding { tid, name: Comm::default(), outcome: Outcome::Died });
                }
            }
        });
        looked.map_err(Setback::Unprovable)?;

        let harmless = ledger.harmless.as_slice();
        let count = self.kernel.thread_count().map_err(Setback::Unprovable)?;
        let still_there = |&tid: &u32| !matches!(self.kernel.kind(tid), None | Some(Kind::Missed));
        if !all_harmless || count != held + harmless.len() || !harmless.iter().all(still_there) {
            return Err(Setback::Missed);
        }
        self.round.bystanders.store(harmless.len() as u32, Ordering::Relaxed);
        Ok(())
    }

    /// Gives threads that have left the list a moment to leave the process too, before anybody is
    /// stopped for a proof that could only fail. Called with the gate closed.
    pub(super) fn let_leavers_vanish(&self, mut seen: Census) {
        let bystanders = self.round.bystanders.load(Ordering::Relaxed) as usize;
        for _ in 0..LEAVER_LOOKS {
            if seen.all <= self.list.len() + bystanders {
                return;
            }
            crate::sys::sync::yield_now();
            seen = self.census();
        }
    }
}
