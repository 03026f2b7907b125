//! Checks a batch before any thread is stopped, because a batch that fails between two steps cannot be
//! undone.
//!
//! Two kinds of rules apply to the calling thread. First the kernel's: those of `capabilities(7)`,
//! `setresuid(2)`, `capset(2)`, `prctl(2)` and `user_namespaces(7)`. What only the kernel can know (a
//! filter, a security module, another thread) is left to it. Then psx's: a batch that gives up root must not
//! leave behind a part of root that it does not name.
//!
//! A step that changes nothing on the calling thread is not refused: other threads may differ, so it is
//! made. The kernel refuses some calls without a capability even where they change nothing;
//! [`Plan`](super::plan::Plan) counts these as made, and the rules here allow them.

use rustix::thread::{CapabilitiesSecureBits as SecureBits, CapabilitySet};

use super::caller_state::CallerState;
use super::{
    CapabilityMask, CapabilitySets, Cause, IdKind, Precondition, Privileges, ResIds, Step,
};

type Refusal = (Step, Precondition);

/// `setresuid(2)` and similar calls read this as "leave unchanged".
const NO_ID: u32 = u32::MAX;

/// `NGROUPS_MAX`
const MAX_GROUPS: usize = 65536;

/// Finds a step that the kernel would refuse, or that psx refuses.
pub(super) fn check(wanted: &Privileges, caller: &CallerState) -> Result<(), (Step, Cause)> {
    check_all(wanted, caller).map_err(|(step, unmet)| (step, Cause::Precondition(unmet)))
}

fn check_all(wanted: &Privileges, caller: &CallerState) -> Result<(), Refusal> {
    check_groups(wanted, caller)?;
    check_ids(IdKind::Group, wanted.gid, caller)?;
    check_ids(IdKind::User, wanted.uid, caller)?;
    check_secure_bits(wanted, caller)?;
    check_bounding(wanted, caller)?;
    let sets = check_sets(wanted, caller)?;
    check_leftovers(wanted, caller)?;

    let trusted = wanted.no_new_privs
        || caller.no_new_privs
        || sets.effective.contains(CapabilitySet::SYS_ADMIN);
    if !trusted && wanted.landlock.is_some() {
        return Err((Step::Landlock, Precondition::NeedsNoNewPrivs));
    }
    if let Some(filter) = &wanted.seccomp {
        if !trusted {
            return Err((Step::Seccomp, Precondition::NeedsNoNewPrivs));
        }
        filter.check().map_err(|unmet| (Step::Seccomp, unmet))?;
    }
    Ok(())
}

fn check_groups(wanted: &Privileges, caller: &CallerState) -> Result<(), Refusal> {
    let Some(groups) = &wanted.groups else { return Ok(()) };
    let refuse = |unmet| Err((Step::Groups, unmet));
    if groups.contains(&NO_ID) {
        return refuse(Precondition::NotAnId { kind: IdKind::Group });
    }
    if groups.len() > MAX_GROUPS {
        return refuse(Precondition::TooManyGroups { count: groups.len(), limit: MAX_GROUPS });
    }
    if groups.is_empty() && caller.groups.is_empty() {
        return Ok(());
    }
    if !caller.sets.effective.contains(CapabilitySet::SETGID) {
        return refuse(missing(CapabilitySet::SETGID));
    }
    if caller.namespace.denies_setgroups() {
        return refuse(Precondition::SetgroupsDenied);
    }
    caller
        .namespace
        .check(IdKind::Group, groups.iter().copied())
        .map_err(|unmet| (Step::Groups, unmet))
}

fn check_ids(kind: IdKind, ids: ResIds, caller: &CallerState) -> Result<(), Refusal> {
    let (step, current, capability) = match kind {
        IdKind::Group => (Step::Gid, caller.gid, CapabilitySet::SETGID),
        IdKind::User => (Step::Uid, caller.uid, CapabilitySet::SETUID),
    };
    let wanted = || ids.0.into_iter().flatten();
    if wanted().any(|id| id == NO_ID) {
        return Err((step, Precondition::NotAnId { kind }));
    }
    if !caller.sets.effective.contains(capability) {
        if let Some(id) = wanted().find(|id| !current.contains(id)) {
            let capability = mask(capability);
            return Err((step, Precondition::IdNotPermitted { kind, id, capability }));
        }
    }
    caller.namespace.check(kind, wanted()).map_err(|unmet| (step, unmet))
}

fn check_secure_bits(wanted: &Privileges, caller: &CallerState) -> Result<(), Refusal> {
    /// Each lock is the bit above the bit that it locks. Bits from 8 on need no capability.
    const LOCKS: u32 = 0b1010_1010;
    const PRIVILEGED: u32 = 0xff;
    let old = caller.secure_bits.bits();
    if let Some(bits) = wanted.secure_bits {
        let refuse = |unmet| Err((Step::SecureBits, unmet));
        let changes = (old ^ bits.bits()) & PRIVILEGED;
        let locks = old & LOCKS;
        let locked = changes & (locks | locks >> 1);
        if locked != 0 {
            return refuse(Precondition::SecureBitsLocked { bits: locked });
        }
        if changes != 0 && !caller.sets.effective.contains(CapabilitySet::SETPCAP) {
            return refuse(missing(CapabilitySet::SETPCAP));
        }
    }
    let bits = caller.bits_during(wanted);
    let sets_keep = (wanted.keep_capabilities || caller.needs_keepcaps(wanted))
        && !bits.contains(SecureBits::KEEP_CAPS);
    if sets_keep && bits.contains(SecureBits::KEEP_CAPS_LOCKED) {
        return Err((Step::KeepCapabilities, Precondition::KeepCapabilitiesLocked));
    }
    Ok(())
}

fn check_bounding(wanted: &Privileges, caller: &CallerState) -> Result<(), Refusal> {
    let drops = wanted.bounding.is_some_and(|keep| !keep.contains(caller.bounding));
    if drops && !caller.sets.effective.contains(CapabilitySet::SETPCAP) {
        return Err((Step::BoundingSet, missing(CapabilitySet::SETPCAP)));
    }
    Ok(())
}

/// Returns the sets after the batch.
fn check_sets(wanted: &Privileges, caller: &CallerState) -> Result<CapabilitySets, Refusal> {
    let mut sets = caller.after_uid(wanted);
    if let Some(new) = wanted.capabilities {
        let refuse = |unmet| Err((Step::Capabilities, unmet));
        // The kernel ignores capabilities that it does not know.
        let [effective, permitted, inheritable] =
            [new.effective, new.permitted, new.inheritable].map(|set| set & caller.known);
        let missing = permitted - sets.permitted;
        if !missing.is_empty() {
            return refuse(Precondition::NotPermitted { capabilities: mask(missing) });
        }
        let missing = effective - permitted;
        if !missing.is_empty() {
            return refuse(Precondition::EffectiveNotPermitted { capabilities: mask(missing) });
        }
        let bounding = wanted.bounding.map_or(caller.bounding, |keep| keep & caller.bounding);
        let mut allowed = sets.inheritable | bounding;
        if !sets.effective.contains(CapabilitySet::SETPCAP) {
            allowed &= sets.inheritable | sets.permitted;
        }
        let missing = inheritable - allowed;
        if !missing.is_empty() {
            return refuse(Precondition::NotInheritable { capabilities: mask(missing) });
        }
        sets = CapabilitySets { effective, permitted, inheritable };
    }
    if let Some(ambient) = wanted.ambient {
        let refuse = |unmet| Err((Step::Ambient, unmet));
        let missing = ambient - (sets.permitted & sets.inheritable);
        if !missing.is_empty() {
            return refuse(Precondition::AmbientNotPermitted { capabilities: mask(missing) });
        }
        let bits = caller.bits_during(wanted);
        if bits.contains(SecureBits::NO_CAP_AMBIENT_RAISE) && !ambient.is_empty() {
            return refuse(Precondition::AmbientRaiseForbidden);
        }
    }
    Ok(sets)
}

/// Refuses a batch that gives up root and neither sets nor keeps by name root's group ids, supplementary
/// groups and capabilities.
fn check_leftovers(wanted: &Privileges, caller: &CallerState) -> Result<(), Refusal> {
    let leaves_root = caller.leaves_root(wanted);
    let [uids, gids] = [wanted.uid.over(caller.uid), wanted.gid.over(caller.gid)];
    let keeps_gid_0 = (0..3).any(|i| gids[i] == 0 && wanted.gid.0[i].is_none());
    if leaves_root && keeps_gid_0 && !wanted.keep_gid {
        return Err((Step::Uid, Precondition::GidKept { gids }));
    }

    let keeps_groups = wanted.groups.is_none() && !caller.groups.is_empty();
    // A set-user-ID program that becomes its real user has that user's groups. The ids alone do not show
    // this: root that set its real uid in an earlier batch has root's groups.
    let becomes_real_user = caller.is_secure_exec && uids == [caller.uid[0]; 3];
    // A process that is not root gives up group id 0, and could give up its groups.
    let leaves_group_0 = caller.gid.contains(&0)
        && !gids.contains(&0)
        && !uids.contains(&0)
        && caller.groups.contains(&0)
        && caller.sets.effective.contains(CapabilitySet::SETGID);
    if keeps_groups && !wanted.keep_groups {
        let groups = caller.groups.clone();
        if leaves_root && !becomes_real_user {
            return Err((Step::Uid, Precondition::GroupsKept { groups }));
        }
        if leaves_group_0 {
            return Err((Step::Gid, Precondition::GroupsKept { groups }));
        }
    }

    let kept = caller.after_uid(wanted).permitted & caller.known;
    let names_capabilities =
        wanted.capabilities.is_some() || wanted.keep_capabilities || wanted.secure_bits.is_some();
    if leaves_root && !kept.is_empty() && !names_capabilities {
        let capabilities = mask(kept);
        return Err((Step::Uid, Precondition::CapabilitiesKept { capabilities }));
    }
    Ok(())
}

fn missing(capability: CapabilitySet) -> Precondition {
    Precondition::MissingCapability { capability: mask(capability) }
}

fn mask(set: CapabilitySet) -> CapabilityMask {
    CapabilityMask::from_bits(set.bits())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_have_the_names_that_rustix_gives_them() {
        let mut named = 0;
        for (name, one) in CapabilitySet::all().iter_names() {
            assert_eq!(mask(one).to_string(), format!("CAP_{name}"));
            named += 1;
        }
        assert!(named >= 41, "{named}");
    }
}
