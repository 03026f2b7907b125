//! What the kernel would plainly refuse, told before any thread is stopped: a batch that fails
//! half-way cannot be taken back.
//!
//! The rules are those of `capabilities(7)`, `setresuid(2)`, `capset(2)` and `prctl(2)`, for the
//! calling thread. What only the kernel can know (a filter, a security module, another thread) is
//! left to it. Contains `unsafe`: libc's getters.

use rustix::thread::{self, CapabilitiesSecureBits as SecureBits, CapabilitySet};

use super::sets::each;
use super::{CapabilitySets, Privileges, Step};

/// What the calling thread has.
pub(super) struct Caller {
    uid: [u32; 3],
    gid: [u32; 3],
    sets: CapabilitySets,
    bounding: CapabilitySet,
    /// The capabilities that this kernel knows.
    pub(super) known: CapabilitySet,
    secure_bits: SecureBits,
    no_new_privs: bool,
}

impl Caller {
    pub(super) fn read() -> Self {
        let mut known = CapabilitySet::empty();
        let mut bounding = CapabilitySet::empty();
        for one in each(CapabilitySet::all()) {
            let Ok(bound) = thread::capability_is_in_bounding_set(one) else {
                break;
            };
            known |= one;
            bounding.set(one, bound);
        }
        let [mut uid, mut gid] = [[0; 3]; 2];
        let [real, effective, saved] = &mut uid;
        // SAFETY: the call writes three numbers, and cannot fail.
        unsafe { libc::getresuid(real, effective, saved) };
        let [real, effective, saved] = &mut gid;
        // SAFETY: as above.
        unsafe { libc::getresgid(real, effective, saved) };
        Self {
            uid,
            gid,
            // These two cannot fail either, except under a filter, which will answer for itself.
            sets: thread::capabilities(None).map_or(CapabilitySets::empty(), Into::into),
            secure_bits: thread::capabilities_secure_bits().unwrap_or(SecureBits::empty()),
            bounding,
            known,
            no_new_privs: thread::no_new_privs().unwrap_or(false),
        }
    }

    /// Whether capabilities must be kept over the change of uid, for the step that sets them.
    pub(super) fn must_keep(&self, wanted: &Privileges) -> bool {
        let wants_some = |sets: &CapabilitySets| !sets.permitted.is_empty();
        let bits = self.bits_during(wanted);
        wanted.capabilities.as_ref().is_some_and(wants_some)
            && self.leaves_root(wanted)
            && !bits.intersects(SecureBits::KEEP_CAPS | SecureBits::NO_SETUID_FIXUP)
    }

    /// The secure bits at the change of uid, but for a `keep_capabilities` step.
    fn bits_during(&self, wanted: &Privileges) -> SecureBits {
        wanted.secure_bits.unwrap_or(self.secure_bits)
    }

    fn leaves_root(&self, wanted: &Privileges) -> bool {
        self.uid.contains(&0) && !wanted.uid.over(self.uid).contains(&0)
    }

    /// What `setresuid` leaves of the effective and permitted capabilities.
    fn after_uid(&self, wanted: &Privileges) -> CapabilitySets {
        let mut sets = self.sets;
        let bits = self.bits_during(wanted);
        if bits.contains(SecureBits::NO_SETUID_FIXUP) {
            return sets;
        }
        let keep = wanted.keep_capabilities || self.must_keep(wanted);
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

type Refusal = (Step, &'static str);

/// What `setresuid` and its like take for "leave it as it is".
const NO_ID: u32 = u32::MAX;

/// Says which step the kernel would refuse, and why, in words.
pub(super) fn check(wanted: &Privileges, caller: &Caller) -> Result<(), Refusal> {
    check_ids(wanted, caller)?;
    check_bits(wanted, caller)?;
    if wanted.bounding.is_some() && !caller.sets.effective.contains(CapabilitySet::SETPCAP) {
        return Err((Step::Bounding, NEEDS_SETPCAP));
    }
    let sets = check_sets(wanted, caller)?;

    let trusted = wanted.no_new_privs
        || caller.no_new_privs
        || sets.effective.contains(CapabilitySet::SYS_ADMIN);
    if !trusted && wanted.landlock.is_some() {
        return Err((Step::Landlock, NEEDS_NO_NEW_PRIVS));
    }
    if let Some(filter) = &wanted.seccomp {
        if !trusted {
            return Err((Step::Seccomp, NEEDS_NO_NEW_PRIVS));
        }
        if !filter.has_valid_length() {
            return Err((Step::Seccomp, "a filter has at least one and at most 4096 instructions"));
        }
    }
    Ok(())
}

const NEEDS_SETPCAP: &str = "needs CAP_SETPCAP, which the calling thread does not have";
const NEEDS_NO_NEW_PRIVS: &str =
    "needs no_new_privs, or CAP_SYS_ADMIN after the other steps; add .no_new_privs()";

fn check_ids(wanted: &Privileges, caller: &Caller) -> Result<(), Refusal> {
    const NOT_AN_ID: &str = "4294967295 is no id: the kernel takes it for \"leave it as it is\"";
    let has = |capability| caller.sets.effective.contains(capability);
    if let Some(groups) = &wanted.groups {
        let refuse = |why| Err((Step::Groups, why));
        if groups.contains(&NO_ID) {
            return refuse(NOT_AN_ID);
        }
        if groups.len() > 65536 {
            return refuse("the kernel takes at most 65536 groups");
        }
        if !has(CapabilitySet::SETGID) {
            return refuse("needs CAP_SETGID, which the calling thread does not have");
        }
    }
    let gid = (Step::Gid, wanted.gid, caller.gid, CapabilitySet::SETGID);
    let uid = (Step::Uid, wanted.uid, caller.uid, CapabilitySet::SETUID);
    for (step, ids, current, capability) in [gid, uid] {
        if ids.0.contains(&Some(NO_ID)) {
            return Err((step, NOT_AN_ID));
        }
        let is_current = |id| current.contains(id);
        if !has(capability) && !ids.0.iter().flatten().all(is_current) {
            return Err((
                step,
                "the calling thread has neither CAP_SETUID or CAP_SETGID for it, nor this id as its \
                 real, effective or saved one",
            ));
        }
    }
    Ok(())
}

fn check_bits(wanted: &Privileges, caller: &Caller) -> Result<(), Refusal> {
    /// Each lock is the bit above the one that it locks. The bits from 8 on need no capability.
    const LOCKS: u32 = 0b1010_1010;
    const PRIVILEGED: u32 = 0xff;
    let old = caller.secure_bits.bits();
    if let Some(bits) = wanted.secure_bits {
        let refuse = |why| Err((Step::SecureBits, why));
        let changes = (old ^ bits.bits()) & PRIVILEGED;
        let locks = old & LOCKS;
        if changes & (locks | locks >> 1) != 0 {
            return refuse("a bit that would change is locked");
        }
        if changes != 0 && !caller.sets.effective.contains(CapabilitySet::SETPCAP) {
            return refuse(NEEDS_SETPCAP);
        }
    }
    let bits = caller.bits_during(wanted);
    let keep = wanted.keep_capabilities || caller.must_keep(wanted);
    if keep && bits.contains(SecureBits::KEEP_CAPS_LOCKED) {
        return Err((
            Step::KeepCapabilities,
            "the secure bit KEEP_CAPS is locked when capabilities are to be kept; lock it after the \
             change of uid",
        ));
    }
    Ok(())
}

/// Returns the sets as they are in the end.
fn check_sets(wanted: &Privileges, caller: &Caller) -> Result<CapabilitySets, Refusal> {
    let mut sets = caller.after_uid(wanted);
    if let Some(new) = wanted.capabilities {
        let refuse = |why| Err((Step::Capabilities, why));
        // The kernel ignores capabilities that it does not know.
        let [effective, permitted, inheritable] =
            [new.effective, new.permitted, new.inheritable].map(|set| set & caller.known);
        if !sets.permitted.contains(permitted) {
            return refuse(
                "a capability is wanted that the calling thread does not have permitted",
            );
        }
        if !permitted.contains(effective) {
            return refuse("an effective capability must be permitted as well");
        }
        let bounding = wanted.bounding.map_or(caller.bounding, |rest| rest & caller.bounding);
        let uncapped = sets.effective.contains(CapabilitySet::SETPCAP);
        if !(uncapped || (sets.inheritable | sets.permitted).contains(inheritable))
            || !(sets.inheritable | bounding).contains(inheritable)
        {
            return refuse(
                "an inheritable capability must be inheritable already, or be both permitted and in \
                 the bounding set",
            );
        }
        sets = CapabilitySets { effective, permitted, inheritable };
    }
    if let Some(ambient) = wanted.ambient {
        let refuse = |why| Err((Step::Ambient, why));
        if !(sets.permitted & sets.inheritable).contains(ambient) {
            return refuse(
                "an ambient capability must be permitted and inheritable in the end; name it in both \
                 sets of .capabilities()",
            );
        }
        let bits = caller.bits_during(wanted);
        if bits.contains(SecureBits::NO_CAP_AMBIENT_RAISE) && !ambient.is_empty() {
            return refuse("the secure bit NO_CAP_AMBIENT_RAISE forbids it; set it afterwards");
        }
    }
    Ok(sets)
}
