//! Whether the calling thread takes summonses. Nothing else is ever sent in the model.

use super::fault::{self, Fault};
use super::machine;

/// The mask that was in force; put back when dropped.
#[derive(Debug)]
pub(crate) struct Masked {
    before: bool,
}

/// Blocks every signal but the summons.
pub(crate) fn block_all_but_summons() -> Masked {
    let before = set(None);
    if fault::is(Fault::TurnBlocksSummons) {
        set(Some(true));
    }
    Masked { before }
}

impl Masked {
    /// Blocks the summons too.
    pub(crate) fn block_summons(&self) {
        set(Some(true));
    }
}

impl Drop for Masked {
    fn drop(&mut self) {
        set(Some(self.before));
    }
}

/// Sets the mask and takes what has been waiting for it. Returns the mask before.
pub(crate) fn set(blocked: Option<bool>) -> bool {
    let machine = machine::get();
    let Some(me) = machine.me() else { return false };
    let before = me.blocks_summons();
    if let Some(blocked) = blocked {
        me.block_summons(blocked);
        machine.interrupt(&me);
    }
    before
}
