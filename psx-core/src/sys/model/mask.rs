//! Whether the calling thread takes summonses, the only signals of the model.

use super::fault::{self, Fault};
use super::machine;
use crate::Errno;

/// The previous mask; restored when dropped.
#[derive(Debug)]
pub(crate) struct Masked {
    before: bool,
}

/// Blocks every signal.
pub(crate) fn block_all() -> Result<Masked, Errno> {
    Ok(Masked { before: set(true) })
}

impl Masked {
    /// Waits with the summons unblocked.
    pub(crate) fn with_summons_unblocked<R>(&self, wait: impl FnOnce() -> R) -> Result<R, Errno> {
        set(fault::is(Fault::LockWaitBlocksSummons));
        let waited = wait();
        set(true);
        Ok(waited)
    }
}

impl Drop for Masked {
    fn drop(&mut self) {
        set(self.before);
    }
}

/// Sets the mask, and answers summonses that it lets through. Returns the previous mask.
pub(crate) fn set(blocked: bool) -> bool {
    if machine::is_current_dead() {
        return false;
    }
    let machine = machine::get();
    let Some(me) = machine.me() else { return false };
    let before = me.blocks_summons.replace(blocked);
    machine.signal_point(&me);
    before
}
