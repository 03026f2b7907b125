//! The system calls of a batch in their order, allocated before any thread stops, and the prefix of them
//! that all threads make. Contains `unsafe`: it broadcasts.
//!
//! The caller makes the calls first and alone, up to the one that fails. Every other thread then makes as
//! many calls as the caller completed.
//!
//! # Calls that change nothing
//!
//! Every thread makes every call, also if it changes nothing on the caller: other threads may differ. Four
//! calls need a capability, or an unlocked secure bit, even where they change nothing. If the kernel refuses
//! one of these with `EPERM` on a thread that is in the wanted state, the call counts as made there
//! ([`Call::is_done`]).

use std::ffi::c_int;
use std::os::fd::AsRawFd;
use std::ptr;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};

use rustix::io;
use rustix::thread::{self, CapabilitiesSecureBits, CapabilitySet, Gid, Uid};

use super::caller_state::CallerState;
use super::implied::Implied;
use super::sets::each;
use super::{ApplyError, Cause, Privileges, Step, StepError, landlock, process_state};
use crate::{Broadcast, Errno, Error, Report};

/// One system call with its arguments, so that making it allocates nothing.
#[derive(Debug)]
enum Call {
    SecureBits(CapabilitiesSecureBits),
    KeepCapabilities(bool),
    DropFromBounding(CapabilitySet),
    Groups(Box<[Gid]>),
    Gid([Option<Gid>; 3]),
    /// Fails on a thread whose real, effective or saved group id is 0 where `nonzero_gids` is set.
    Uid {
        ids: [Option<Uid>; 3],
        nonzero_gids: [bool; 3],
    },
    /// The permitted and effective set.
    EmptyCapabilities,
    /// Restores the signal that the thread had before the batch.
    ParentDeathSignal,
    Capabilities(thread::CapabilitySets),
    ClearAmbient,
    RaiseAmbient(CapabilitySet),
    NoNewPrivs,
    Landlock {
        ruleset: i32,
        flags: u32,
        /// The thread whose descriptor it is, if descriptors can be compared.
        owner: Option<i32>,
    },
}

impl Call {
    /// Async-signal-safe: rustix's thread functions are bare system calls.
    fn make(&self, before: Before) -> Result<(), Errno> {
        match self.make_always(before) {
            Err(errno) if errno.raw() == libc::EPERM && self.is_done() => Ok(()),
            result => result,
        }
    }

    fn make_always(&self, before: Before) -> Result<(), Errno> {
        let result: io::Result<()> = match self {
            Self::SecureBits(bits) => thread::set_capabilities_secure_bits(*bits),
            Self::KeepCapabilities(on) => thread::set_keep_capabilities(*on),
            Self::DropFromBounding(one) => thread::remove_capability_from_bounding_set(*one),
            Self::Groups(groups) => thread::set_thread_groups(groups),
            Self::Gid([real, effective, saved]) => {
                thread::set_thread_res_gid(*real, *effective, *saved)
            }
            Self::Uid { ids: [real, effective, saved], nonzero_gids } => {
                refuse_gid_0(*nonzero_gids)?;
                thread::set_thread_res_uid(*real, *effective, *saved)
            }
            Self::EmptyCapabilities => empty_capabilities(),
            Self::ParentDeathSignal => match before.parent_death_signal {
                0 => Ok(()),
                signal => return process_state::set_parent_death_signal(signal),
            },
            Self::Capabilities(sets) => thread::set_capabilities(None, *sets),
            Self::ClearAmbient => thread::clear_ambient_capability_set(),
            Self::RaiseAmbient(one) => thread::configure_capability_in_ambient_set(*one, true),
            Self::NoNewPrivs => thread::set_no_new_privs(true),
            Self::Landlock { ruleset, flags, owner } => {
                landlock::require_file_of(*owner, *ruleset)?;
                return landlock::restrict_this_thread(*ruleset, *flags);
            }
        };
        result.map_err(|errno| Errno::from_raw(errno.raw_os_error()))
    }

    /// Whether the calling thread is in the state that this call would set. Only for the calls that the
    /// kernel refuses even then. Async-signal-safe, as `make`.
    fn is_done(&self) -> bool {
        match self {
            Self::SecureBits(bits) => thread::capabilities_secure_bits() == Ok(*bits),
            Self::KeepCapabilities(on) => thread::get_keep_capabilities() == Ok(*on),
            Self::DropFromBounding(one) => thread::capability_is_in_bounding_set(*one) == Ok(false),
            // Other groups cannot be compared: all groups that the user namespace does not map read as
            // the same number.
            Self::Groups(groups) if groups.is_empty() => {
                // SAFETY: with a size of 0 the call writes nothing.
                let count = unsafe { libc::getgroups(0, ptr::null_mut()) };
                count == 0
            }
            _ => false,
        }
    }
}

/// Fails with `EPERM` if one of these group ids of the calling thread (real, effective, saved) is 0.
/// Async-signal-safe: one system call at most. Writes errno.
fn refuse_gid_0(nonzero: [bool; 3]) -> Result<(), Errno> {
    if nonzero == [false; 3] {
        return Ok(());
    }
    let mut gids: [libc::gid_t; 3] = [0; 3];
    let [real, effective, saved] = &mut gids;
    // SAFETY: the kernel writes three numbers, for which there is room.
    let read = unsafe {
        libc::syscall(libc::SYS_getresgid, &raw mut *real, &raw mut *effective, &raw mut *saved)
    };
    if read != 0 {
        return Err(Errno::last());
    }
    match (0..3).any(|i| nonzero[i] && gids[i] == 0) {
        true => Err(Errno::from_raw(libc::EPERM)),
        false => Ok(()),
    }
}

/// Clears the permitted and effective set, and with them the ambient set. Needs no privilege.
/// Async-signal-safe: two system calls at most.
fn empty_capabilities() -> io::Result<()> {
    let mut sets = thread::capabilities(None)?;
    if sets.permitted.is_empty() && sets.effective.is_empty() {
        return Ok(());
    }
    sets.permitted = CapabilitySet::empty();
    sets.effective = CapabilitySet::empty();
    thread::set_capabilities(None, sets)
}

/// The state of a thread before its first call, which a later call restores.
#[derive(Clone, Copy)]
struct Before {
    /// 0 if the thread has none, or the batch does not restore it.
    parent_death_signal: c_int,
}

/// The calls of a batch in their order.
pub(super) struct Plan {
    calls: Vec<(Step, Call)>,
    keeps_parent_death_signal: bool,
    /// The dumpability to restore, as read when every thread was stopped. Relaxed: only the caller uses it.
    dumpable: Option<AtomicUsize>,
    /// How many calls every thread makes. The caller decides it, first and alone. Relaxed, as `errno`: the
    /// commit of the round orders the caller's store before the targets' loads.
    prefix: AtomicUsize,
    /// The error of the next call, if it failed; else 0.
    errno: AtomicI32,
}

const UNDECIDED: usize = usize::MAX;

impl Plan {
    /// Orders the calls; the documentation of the parent module has the reasons.
    ///
    /// `dumpable` is restored if the round cannot read a newer value.
    pub(super) fn new(
        wanted: &Privileges,
        caller: &CallerState,
        restrict_in_round: bool,
        dumpable: Option<usize>,
    ) -> Self {
        let mut calls = Vec::new();
        let mut add = |step, call| calls.push((step, call));
        if let Some(bits) = wanted.secure_bits {
            add(Step::SecureBits, Call::SecureBits(bits));
        }
        let implied = Implied::new(wanted, caller);
        if wanted.keep_capabilities || caller.needs_keepcaps(wanted) {
            add(Step::KeepCapabilities, Call::KeepCapabilities(true));
        }
        if let Some(rest) = wanted.bounding {
            for one in each(caller.known - rest) {
                add(Step::BoundingSet, Call::DropFromBounding(one));
            }
        }
        if let Some(groups) = &wanted.groups {
            let groups = groups.iter().map(|&raw| Gid::from_raw(raw)).collect();
            add(Step::Groups, Call::Groups(groups));
        } else if implied.empties_groups {
            add(Step::Groups, Call::Groups(Box::default()));
        }
        if !wanted.gid.is_none() {
            let gid = wanted.gid.0.map(|id| id.map(Gid::from_raw));
            add(Step::Gid, Call::Gid(gid));
        }
        if !wanted.uid.is_none() {
            let ids = wanted.uid.0.map(|id| id.map(Uid::from_raw));
            add(Step::Uid, Call::Uid { ids, nonzero_gids: implied.nonzero_gids });
        }
        if implied.empties_capabilities {
            add(Step::Uid, Call::EmptyCapabilities);
        }
        let keeps_parent_death_signal =
            wanted.keep_parent_death_signal && !(wanted.gid.is_none() && wanted.uid.is_none());
        if keeps_parent_death_signal {
            add(Step::ParentDeathSignal, Call::ParentDeathSignal);
        }
        if caller.clears_keepcaps(wanted) {
            add(Step::KeepCapabilities, Call::KeepCapabilities(false));
        }
        if let Some(sets) = wanted.capabilities {
            add(Step::Capabilities, Call::Capabilities(sets.into()));
        }
        if let Some(set) = wanted.ambient {
            add(Step::Ambient, Call::ClearAmbient);
            for one in each(set) {
                add(Step::Ambient, Call::RaiseAmbient(one));
            }
        }
        if wanted.no_new_privs {
            add(Step::NoNewPrivs, Call::NoNewPrivs);
        }
        if let Some((ruleset, flags)) = wanted.landlock.as_ref().filter(|_| restrict_in_round) {
            let owner = landlock::owner_to_compare(ruleset);
            let (ruleset, flags) = (ruleset.as_raw_fd(), flags.bits());
            add(Step::Landlock, Call::Landlock { ruleset, flags, owner });
        }
        let (prefix, errno) = (AtomicUsize::new(UNDECIDED), AtomicI32::new(0));
        let dumpable = dumpable.map(AtomicUsize::new);
        Self { calls, keeps_parent_death_signal, dumpable, prefix, errno }
    }

    /// The dumpability of the process in the round, before the first call.
    pub(super) fn dumpable(&self) -> Option<usize> {
        self.dumpable.as_ref().map(|dumpable| dumpable.load(Ordering::Relaxed))
    }

    /// Makes the calls on every thread. Fails with [`ApplyError::Step`] if one of them failed on the
    /// caller.
    pub(super) fn run(&self, broadcast: Broadcast) -> Result<Report, ApplyError> {
        // SAFETY: `make` is async-signal-safe: system calls that are sound on any thread, atomics, and
        // memory that is allocated before the round and outlives it.
        let result = unsafe { broadcast.run_privileges(|| self.make()) };
        let errno = match (&result, self.errno.load(Ordering::Relaxed)) {
            (Err(Error::Os(errno)), _) => *errno,
            (Ok(_), raw @ 1..) => Errno::from_raw(raw),
            _ => return Ok(result?),
        };
        let prefix = self.prefix.load(Ordering::Relaxed);
        // Undecided: the caller could not read its parent-death signal.
        let failed = self.calls.get(prefix).map_or(Step::ParentDeathSignal, |(step, _)| *step);
        let mut completed = self.completed_steps();
        let is_partial = completed.contains(&failed);
        completed.retain(|&step| step != failed);
        let divergent = result.map_or_else(|_| Vec::new(), |report| report.divergent().to_vec());
        let error = StepError::new(failed, Cause::Kernel(errno), completed);
        Err(error.with_partial(is_partial).with_divergent(divergent).into())
    }

    /// The steps of the completed calls, each once.
    pub(super) fn completed_steps(&self) -> Vec<Step> {
        let prefix = match self.prefix.load(Ordering::Relaxed) {
            UNDECIDED => 0,
            prefix => prefix,
        };
        let mut steps: Vec<_> = self.calls[..prefix].iter().map(|(step, _)| *step).collect();
        steps.sort_unstable();
        steps.dedup();
        steps
    }

    /// Runs on each thread, on the caller first.
    fn make(&self) -> Result<usize, Errno> {
        let parent_death_signal =
            if self.keeps_parent_death_signal { process_state::parent_death_signal()? } else { 0 };
        let before = Before { parent_death_signal };
        match self.prefix.load(Ordering::Relaxed) {
            UNDECIDED => {
                if let Some(dumpable) = &self.dumpable {
                    // Another thread may have changed it since the check.
                    if let Ok(now) = process_state::dumpable() {
                        dumpable.store(now, Ordering::Relaxed);
                    }
                }
                let failed = self.calls.iter().position(|(_, call)| {
                    call.make(before)
                        .inspect_err(|errno| self.errno.store(errno.raw(), Ordering::Relaxed))
                        .is_err()
                });
                let prefix = failed.unwrap_or(self.calls.len());
                self.prefix.store(prefix, Ordering::Relaxed);
                match failed {
                    // No call took effect, so the broadcast fails, and the other threads make none.
                    Some(0) => Err(Errno::from_raw(self.errno.load(Ordering::Relaxed))),
                    _ => Ok(prefix),
                }
            }
            prefix => {
                for (_, call) in &self.calls[..prefix] {
                    call.make(before)?;
                }
                Ok(prefix)
            }
        }
    }
}
