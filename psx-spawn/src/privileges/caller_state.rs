//! The calling thread's ids and capabilities before the batch, and after a change of uid. Contains
//! `unsafe`: libc's getters.

use std::ptr;

use rustix::io::Errno as RustixErrno;
use rustix::thread::{self, CapabilitiesSecureBits as SecureBits, CapabilitySet};

use super::implied::Implied;
use super::sets::each;
use super::user_namespace::UserNamespace;
use super::{CapabilitySets, Cause, Privileges, Step};
use crate::Errno;

/// The state of the calling thread that the checks need.
///
/// A seccomp filter may refuse any of the getters. If a check requires the value, the step that needs it
/// fails; else the field has the value with which no check fails.
pub(super) struct CallerState {
    pub(super) uid: [u32; 3],
    pub(super) gid: [u32; 3],
    pub(super) groups: Vec<u32>,
    pub(super) sets: CapabilitySets,
    pub(super) bounding: CapabilitySet,
    /// The capabilities that this kernel knows.
    pub(super) known: CapabilitySet,
    pub(super) secure_bits: SecureBits,
    pub(super) no_new_privs: bool,
    /// Whether `execve` gave the process ids or capabilities that the caller of `execve` did not have.
    pub(super) is_secure_exec: bool,
    /// Read only for a batch that sets ids.
    pub(super) namespace: UserNamespace,
}

impl CallerState {
    /// Reads the state that the checks of `wanted` need.
    pub(super) fn read(wanted: &Privileges) -> Result<Self, (Step, Cause)> {
        let needed = |step, errno| (step, Cause::Kernel(errno));
        let changes_uid = !wanted.uid.is_none();
        let changes_gid = !wanted.gid.is_none();
        let changes_ids = changes_uid || changes_gid || wanted.groups.is_some();

        let (known, bounding) = match known_and_bounding() {
            Ok(sets) => sets,
            Err(errno) if wanted.bounding.is_some() => {
                return Err(needed(Step::BoundingSet, errno));
            }
            Err(_) => (CapabilitySet::all(), CapabilitySet::all()),
        };
        let [mut uid, mut gid] = [[0; 3]; 2];
        let mut groups = Vec::new();
        if changes_ids {
            let [real, effective, saved] = &mut uid;
            // SAFETY: the call writes three numbers, for which there is room.
            result(unsafe { libc::getresuid(real, effective, saved) })
                .map_err(|errno| needed(Step::Uid, errno))?;
            let [real, effective, saved] = &mut gid;
            // SAFETY: as above.
            result(unsafe { libc::getresgid(real, effective, saved) })
                .map_err(|errno| needed(Step::Gid, errno))?;
            groups = supplementary_groups().map_err(|errno| needed(Step::Groups, errno))?;
        }
        let all = CapabilitySet::all();
        let all = CapabilitySets { effective: all, permitted: all, inheritable: all };
        let sets = thread::capabilities(None);
        let state = Self {
            uid,
            gid,
            groups,
            sets: sets.map_or(all, Into::into),
            secure_bits: thread::capabilities_secure_bits().unwrap_or(SecureBits::empty()),
            bounding,
            known,
            no_new_privs: thread::no_new_privs().unwrap_or(true),
            // SAFETY: the call reads a value of the auxiliary vector.
            is_secure_exec: unsafe { libc::getauxval(libc::AT_SECURE) } != 0,
            namespace: if changes_ids { UserNamespace::read() } else { UserNamespace::default() },
        };
        match sets {
            Err(errno) if Implied::new(wanted, &state).empties_capabilities => {
                Err(needed(Step::Uid, Errno::from_raw(errno.raw_os_error())))
            }
            _ => Ok(state),
        }
    }

    /// Whether the batch must set *keep capabilities* before the change of uid, because its `capabilities`
    /// step needs permitted ones afterwards. Flags that the calling thread has already do not count: another
    /// thread may lack them.
    pub(super) fn needs_keepcaps(&self, wanted: &Privileges) -> bool {
        let wants_some = |sets: &CapabilitySets| !sets.permitted.is_empty();
        // With both bits the flag cannot be set, and is not needed.
        let bits = SecureBits::NO_SETUID_FIXUP | SecureBits::KEEP_CAPS_LOCKED;
        wanted.capabilities.as_ref().is_some_and(wants_some)
            && self.leaves_root(wanted)
            && !wanted.keeps_by_secure_bits()
            && !self.bits_during(wanted).contains(bits)
    }

    /// Whether the batch must clear the flag that it set because of
    /// [`needs_keepcaps`](Self::needs_keepcaps). A locked flag stays set.
    pub(super) fn clears_keepcaps(&self, wanted: &Privileges) -> bool {
        self.needs_keepcaps(wanted)
            && !wanted.keep_capabilities
            && !self.bits_during(wanted).contains(SecureBits::KEEP_CAPS_LOCKED)
    }

    /// The secure bits at the change of uid, without the effect of a `keep_capabilities` step.
    pub(super) fn bits_during(&self, wanted: &Privileges) -> SecureBits {
        wanted.secure_bits.unwrap_or(self.secure_bits)
    }

    /// Whether no user id is 0 after the batch, and one was before it.
    pub(super) fn leaves_root(&self, wanted: &Privileges) -> bool {
        self.uid.contains(&0) && !wanted.uid.over(self.uid).contains(&0)
    }

    /// The capabilities after the change of uid.
    pub(super) fn after_uid(&self, wanted: &Privileges) -> CapabilitySets {
        let mut sets = self.sets;
        let bits = self.bits_during(wanted);
        if bits.contains(SecureBits::NO_SETUID_FIXUP) {
            return sets;
        }
        let keep = wanted.keep_capabilities || self.needs_keepcaps(wanted);
        if self.leaves_root(wanted) && !keep && !bits.contains(SecureBits::KEEP_CAPS) {
            sets.permitted = CapabilitySet::empty();
        }
        match (self.uid[1], wanted.uid.over(self.uid)[1]) {
            (0, 0) => {}
            (0, _) => sets.effective = CapabilitySet::empty(),
            (_, 0) => sets.effective = sets.permitted,
            _ => {}
        }
        sets.effective &= sets.permitted;
        sets
    }
}

/// The capabilities that this kernel knows; all, if that cannot be read.
pub(super) fn known_capabilities() -> CapabilitySet {
    known_and_bounding().map_or(CapabilitySet::all(), |(known, _)| known)
}

fn known_and_bounding() -> Result<(CapabilitySet, CapabilitySet), Errno> {
    let [mut known, mut bounding] = [CapabilitySet::empty(); 2];
    for one in each(CapabilitySet::all()) {
        match thread::capability_is_in_bounding_set(one) {
            Ok(bound) => {
                known |= one;
                bounding.set(one, bound);
            }
            // The first number that the kernel does not know.
            Err(RustixErrno::INVAL) if !known.is_empty() => break,
            Err(errno) => return Err(Errno::from_raw(errno.raw_os_error())),
        }
    }
    Ok((known, bounding))
}

fn supplementary_groups() -> Result<Vec<u32>, Errno> {
    loop {
        // SAFETY: with a size of 0 the call writes nothing.
        let count = result(unsafe { libc::getgroups(0, ptr::null_mut()) })?;
        let mut groups = vec![0; count];
        // SAFETY: the kernel writes at most `count` numbers, for which there is room, or fails.
        match result(unsafe { libc::getgroups(count as i32, groups.as_mut_ptr()) }) {
            // With a size of 0 the second call returned only the number, which has grown.
            Ok(now) if count == 0 && now > 0 => {}
            Ok(now) => {
                groups.truncate(now);
                return Ok(groups);
            }
            // The number has grown.
            Err(errno) if errno.raw() == libc::EINVAL => {}
            Err(errno) => return Err(errno),
        }
    }
}

fn result(returned: i32) -> Result<usize, Errno> {
    usize::try_from(returned).map_err(|_| Errno::last())
}
