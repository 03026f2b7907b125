//! Whether the calling thread takes summonses. Nothing else is ever sent in the model.

use super::fault::{self, Fault};
use super::machine;
use crate::Errno;

/// The mask that was in force; put back when dropped.
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
        set(fault::is(Fault::TurnBlocksSummons));
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

/// Sets the mask and takes what has been waiting for it. Returns the mask before.
pub(crate) fn set(blocked: bool) -> bool {
    if machine::is_over() {
        return false;
    }
    let machine = machine::get();
    let Some(me) = machine.me() else { return false };
    let before = me.blocks_summons();
    me.block_summons(blocked);
    machine.interrupt(&me);
    before
}
