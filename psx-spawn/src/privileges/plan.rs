//! The system calls of a batch, one after the other, laid out before any thread stops; and how all
//! threads come to make the same of them. Contains `unsafe`: it runs a round.
//!
//! The caller makes the calls first and alone, up to the one that fails. The number of those it has
//! made is what every other thread makes.
//!
//! # Calls that change nothing
//!
//! Every thread makes every call, also where the caller is as wanted already: other threads may
//! differ. Four calls need a capability, or an unlocked secure bit, even where they change nothing.
//! If the kernel answers one of these with `EPERM` on a thread that is as wanted, the call counts as
//! made there ([`Call::is_done`]).

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

/// One system call. What it needs is in here: nothing is allocated when it is made.
#[derive(Debug)]
enum Call {
    SecureBits(CapabilitiesSecureBits),
    KeepCapabilities(bool),
    DropFromBounding(CapabilitySet),
    Groups(Box<[Gid]>),
    Gid([Option<Gid>; 3]),
    /// Not on a thread that has group id 0 where `nonzero_gids` says so.
    Uid {
        ids: [Option<Uid>; 3],
        nonzero_gids: [bool; 3],
    },
    /// Permitted and effective.
    EmptyCapabilities,
    /// To what the thread had before the batch.
    ParentDeathSignal,
    Capabilities(thread::CapabilitySets),
    ClearAmbient,
    RaiseAmbient(CapabilitySet),
    NoNewPrivs,
    Landlock {
        ruleset: i32,
        flags: u32,
        /// The thread whose descriptor it is, if that can be compared.
        owner: Option<i32>,
    },
}

impl Call {
    /// Async-signal-safe: rustix's functions for threads are the bare system calls.
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

    /// Whether the calling thread is as this call would make it. Only for calls that the kernel
    /// refuses even then. Async-signal-safe, as `make`.
    fn is_done(&self) -> bool {
        match self {
            Self::SecureBits(bits) => thread::capabilities_secure_bits() == Ok(*bits),
            Self::KeepCapabilities(on) => thread::get_keep_capabilities() == Ok(*on),
            Self::DropFromBounding(one) => thread::capability_is_in_bounding_set(*one) == Ok(false),
            // Other groups cannot be compared: those that the user namespace does not map all read
            // as the same one.
            Self::Groups(groups) if groups.is_empty() => {
                // SAFETY: asked for the number alone, the call writes nothing.
                let count = unsafe { libc::getgroups(0, ptr::null_mut()) };
                count == 0
            }
            _ => false,
        }
    }
}

/// Fails with `EPERM` where one of these group ids of the calling thread, real, effective and saved, is 0.
/// Fit for a round: one system call at most. Writes errno.
fn refuse_gid_0(nonzero: [bool; 3]) -> Result<(), Errno> {
    if nonzero == [false; 3] {
        return Ok(());
    }
    let mut gids: [libc::gid_t; 3] = [0; 3];
    let [real, effective, saved] = &mut gids;
    // SAFETY: the kernel writes three numbers.
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

/// Giving up needs no privilege. The ambient capabilities fall with the permitted ones. Fit for a round:
/// two system calls at most.
fn empty_capabilities() -> io::Result<()> {
    let mut sets = thread::capabilities(None)?;
    if sets.permitted.is_empty() && sets.effective.is_empty() {
        return Ok(());
    }
    sets.permitted = CapabilitySet::empty();
    sets.effective = CapabilitySet::empty();
    thread::set_capabilities(None, sets)
}

/// What a thread has before its first call, and gets back after a later one.
#[derive(Clone, Copy)]
struct Before {
    /// 0 where it has none, or where it does not matter.
    parent_death_signal: c_int,
}

/// The calls of a batch in their order.
pub(super) struct Plan {
    calls: Vec<(Step, Call)>,
    keeps_parent_death_signal: bool,
    /// To be given back: what it was when every thread was stopped. Relaxed: the caller alone uses it.
    dumpable: Option<AtomicUsize>,
    /// How many calls every thread is to make: decided by the caller, which runs first and alone.
    /// Relaxed, as the next one: what the caller wrote is seen by whom it commits the round to.
    prefix: AtomicUsize,
    /// With what the call after those failed, if one did.
    errno: AtomicI32,
}

const UNDECIDED: usize = usize::MAX;

impl Plan {
    /// The one place that knows the order; the module's documentation tells its reasons.
    ///
    /// `dumpable` is what is given back should it become unreadable.
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
        if caller.stops_keeping(wanted) {
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

    /// What the process had in the round, before the first call.
    pub(super) fn dumpable(&self) -> Option<usize> {
        self.dumpable.as_ref().map(|dumpable| dumpable.load(Ordering::Relaxed))
    }

    /// Makes the calls on every thread. Fails with [`ApplyError::Step`] if one of them failed on the
    /// caller.
    pub(super) fn run(&self, broadcast: Broadcast) -> Result<Report, ApplyError> {
        // SAFETY: system calls that may be made on any thread, two atomics, and memory that is laid
        // out and outlives the round.
        let result = unsafe { broadcast.run_privileges(|| self.make()) };
        let errno = match (&result, self.errno.load(Ordering::Relaxed)) {
            (Err(Error::Os(errno)), _) => *errno,
            (Ok(_), raw @ 1..) => Errno::from_raw(raw),
            _ => return Ok(result?),
        };
        let prefix = self.prefix.load(Ordering::Relaxed);
        // Undecided: what was there before could not be read.
        let failed = self.calls.get(prefix).map_or(Step::ParentDeathSignal, |(step, _)| *step);
        let mut made = self.steps();
        let is_partial = made.contains(&failed);
        made.retain(|&step| step != failed);
        let divergent = result.map_or_else(|_| Vec::new(), |report| report.divergent().to_vec());
        let error = StepError::new(failed, Cause::Kernel(errno), made);
        Err(error.with_partial(is_partial).with_divergent(divergent).into())
    }

    /// The steps of the calls that have been made, each once.
    pub(super) fn steps(&self) -> Vec<Step> {
        let prefix = match self.prefix.load(Ordering::Relaxed) {
            UNDECIDED => 0,
            prefix => prefix,
        };
        let mut steps: Vec<_> = self.calls[..prefix].iter().map(|(step, _)| *step).collect();
        steps.sort_unstable();
        steps.dedup();
        steps
    }

    /// What each thread does: the caller first.
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
                    // Nobody has changed anything yet, so nobody else needs to come along.
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
