//! What a round asks of the kernel, answered by the machine.

use super::super::{Activity, SendError, ThreadCount, ThreadInfo, UnregisteredKind};
use super::fault::{self, Fault};
use super::machine;
use crate::report::Comm;
use crate::{Errno, Obstacle};

/// The process as the kernel sees it.
#[derive(Debug)]
pub(crate) struct Kernel;

impl Kernel {
    pub(crate) fn reinit_after_fork(&self) {}

    pub(crate) fn has_stat_file(&self) -> bool {
        true
    }

    pub(crate) fn reopen_stat_file(&self) -> bool {
        true
    }

    /// Without cores no thread spins: a spin is a sleep that costs loom more.
    pub(crate) fn cores(&self) -> usize {
        0
    }

    pub(crate) fn confirm_handler(&self) -> Result<bool, Errno> {
        let machine = machine::get();
        if let Some(me) = machine.me().filter(|me| me.dies_before_round.get()) {
            machine.die_and_unwind(&me);
        }
        Ok(machine.handler_replaced.take())
    }

    /// The calling thread's id.
    pub(crate) fn own_tid(&self) -> Option<u32> {
        machine::get().me().map(|me| me.tid)
    }

    pub(crate) fn summon(&self, tid: u32) -> Result<(), SendError> {
        machine::get().summon(tid)
    }

    pub(crate) fn thread_count(&self) -> Result<ThreadCount, Errno> {
        let machine = machine::get();
        if fault::is(Fault::KernelCountIgnored) {
            return Ok(ThreadCount { threads: machine.registered(), main_has_ended: false });
        }
        let stale = fault::is(Fault::MainEndReadAfterCount).then(|| machine.count());
        let main_has_ended = fault::is(Fault::MainAssumedEnded)
            || machine.kind(self.main_tid()) == Some(UnregisteredKind::Dead);
        Ok(ThreadCount { threads: stale.unwrap_or_else(|| machine.count()), main_has_ended })
    }

    pub(crate) fn main_tid(&self) -> u32 {
        1
    }

    pub(crate) fn zero_count_error(&self) -> Errno {
        Errno::from_raw(libc::ENOSYS)
    }

    pub(crate) fn threads_in_stop(&self) -> Result<ThreadDir, Errno> {
        if machine::get().lists_threads() {
            Ok(ThreadDir)
        } else {
            Err(Errno::from_raw(libc::ENOENT))
        }
    }

    pub(crate) fn name(&self, _: u32) -> Option<Comm> {
        None
    }

    /// The model has no names.
    pub(crate) fn own_name(&self) -> Comm {
        Comm::default()
    }

    /// The model's time has no length, so no thread has used any.
    pub(crate) fn activity(&self, _: u32) -> Option<Activity> {
        None
    }

    /// Whether a signal of the thread is queued.
    pub(crate) fn has_pending_summons(&self, tid: u32) -> Option<bool> {
        machine::get().has_pending_summons(tid)
    }

    /// The model has no `/proc`.
    pub(crate) fn obstacle(&self, _: u32) -> Option<Obstacle> {
        None
    }

    pub(crate) fn is_dead(&self, tid: u32) -> bool {
        !fault::is(Fault::DeathNotDetected) && machine::get().is_dead(tid)
    }
}

/// The list of the threads of the process.
#[derive(Debug)]
pub(crate) struct ThreadDir;

/// The ids of a listed thread.
#[derive(Debug)]
pub(crate) struct ThreadIds {
    pub(crate) tid: u32,
    pub(crate) proc_id: u32,
}

impl ThreadDir {
    pub(crate) fn for_each(&self, found: impl FnMut(ThreadIds)) -> Result<(), Errno> {
        let listed = |tid| ThreadIds { tid, proc_id: tid };
        machine::get().list().into_iter().map(listed).for_each(found);
        Ok(())
    }

    pub(crate) fn info(&self, proc_id: u32) -> Option<ThreadInfo> {
        let kind = machine::get().kind(proc_id)?;
        Some(ThreadInfo { kind, name: Comm::default(), made_by_kernel: false })
    }
}

/// The limit of pending signals, which the model does not have.
#[derive(Debug)]
pub(crate) struct SigpendingLimit;

impl SigpendingLimit {
    pub(crate) fn raise() -> Option<Self> {
        None
    }
}
