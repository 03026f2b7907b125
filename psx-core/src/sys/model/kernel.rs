//! What the kernel does for a round, asked of the machine.

use super::super::{Kind, Refusal};
use super::fault::{self, Fault};
use super::machine;
use crate::Errno;
use crate::report::Comm;

/// The process as the kernel sees it.
#[derive(Debug)]
pub(crate) struct Kernel;

impl Kernel {
    pub(crate) fn meet_child(&self) {}

    pub(crate) fn make_ready(&self) {}

    /// No cores, no spinning: a spin is a sleep that costs loom more.
    pub(crate) fn cores(&self) -> usize {
        0
    }

    pub(crate) fn confirm_handler(&self) -> Result<(), Errno> {
        Ok(())
    }

    /// The calling thread's id.
    pub(crate) fn own_tid(&self) -> Option<u32> {
        machine::get().me().map(|me| me.tid)
    }

    pub(crate) fn summon(&self, tid: u32) -> Result<(), Refusal> {
        machine::get().summon(tid)
    }

    pub(crate) fn thread_count(&self) -> Result<usize, Errno> {
        let machine = machine::get();
        Ok(if fault::is(Fault::CountOfOnesOwn) { machine.registered() } else { machine.count() })
    }

    pub(crate) fn implausible(&self) -> Errno {
        Errno::from_raw(libc::ENOSYS)
    }

    pub(crate) fn for_each_thread(&self, found: impl FnMut(u32)) -> Result<(), Errno> {
        machine::get().alive().into_iter().for_each(found);
        Ok(())
    }

    pub(crate) fn kind(&self, tid: u32) -> Option<Kind> {
        machine::get().kind(tid)
    }

    pub(crate) fn name(&self, _: u32) -> Option<Comm> {
        None
    }

    /// Names are for people.
    pub(crate) fn own_name(&self) -> Comm {
        Comm::default()
    }

    pub(crate) fn is_dead(&self, tid: u32) -> bool {
        !fault::is(Fault::DeathUnnoticed) && machine::get().kind(tid).is_none()
    }
}

/// The signal quota, which the model refills by itself.
#[derive(Debug)]
pub(crate) struct Quota;

impl Quota {
    pub(crate) fn raise() -> Option<Self> {
        None
    }
}
