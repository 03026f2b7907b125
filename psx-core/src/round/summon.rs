//! Summonses: each claims a target and sends it the signal. The caller and the targets share the work, so
//! that summonses spread like a tree.

use super::Round;
use crate::sync::Epoch;
use crate::sys::Kernel;

/// How many other threads a target summons as it arrives.
const SUMMONS_PER_TARGET: usize = 2;

impl Round {
    /// A target's share.
    pub(super) fn help_summon(&self, kernel: &Kernel, epoch: Epoch) {
        for _ in 0..SUMMONS_PER_TARGET {
            if self.summon_next(kernel, epoch).is_none() {
                return;
            }
        }
    }

    /// Claims one target and summons it. `None` if none is left; else whether the kernel has queued the
    /// signal. If it has not, the roster notes that for the caller.
    pub(super) fn summon_next(&self, kernel: &Kernel, epoch: Epoch) -> Option<bool> {
        let claim = self.roster.claim(epoch)?;
        let is_sent = kernel.summon(claim.tid).is_ok();
        if !is_sent {
            self.roster.mark_refused(epoch, claim);
        }
        Some(is_sent)
    }
}
