//! A batch as data: applied by psx, and by the bare calls that it consists of.

use std::ptr;

use psx::privileges::{ApplyError, Cause, Precondition, SecureBits};
use psx::{CapabilitySet, CapabilitySets, Privileges};
use rustix::thread;

use psx_test_support::process::last_capability;
use psx_test_support::seccomp::{self, ALLOW};
use psx_test_support::{Random, raw};

use crate::kernel::{parent_death_signal, prctl, set_parent_death_signal};
use crate::random::{id, secure_bits, set, sets, three_ids};

/// The steps in their order, as data.
#[derive(Debug)]
pub(super) struct Batch {
    secure_bits: Option<SecureBits>,
    keep_capabilities: bool,
    bounding: Option<CapabilitySet>,
    groups: Option<Vec<u32>>,
    gid: [Option<u32>; 3],
    uid: [Option<u32>; 3],
    keep_parent_death_signal: bool,
    capabilities: Option<CapabilitySets>,
    ambient: Option<CapabilitySet>,
    no_new_privs: bool,
    keep_dumpable: bool,
    seccomp: bool,
    keep_names: bool,
}

impl Batch {
    pub(super) fn random(random: &mut Random) -> Self {
        Self {
            secure_bits: random.maybe(4, secure_bits),
            keep_capabilities: random.one_in(6),
            bounding: random.maybe(4, set),
            groups: random.maybe(2, |random| (0..random.below(3)).map(|_| id(random)).collect()),
            gid: three_ids(random),
            uid: three_ids(random),
            keep_parent_death_signal: random.one_in(3),
            capabilities: random.maybe(3, sets),
            ambient: random.maybe(5, set),
            no_new_privs: random.one_in(3),
            keep_dumpable: random.one_in(3),
            seccomp: random.one_in(5),
            keep_names: !random.one_in(4),
        }
    }

    pub(super) fn apply(&self) -> String {
        let mut steps = Privileges::new();
        if let Some(bits) = self.secure_bits {
            steps = steps.secure_bits(bits);
        }
        if self.keep_capabilities {
            steps = steps.keep_capabilities();
        }
        if let Some(keep) = self.bounding {
            steps = steps.bounding_set(keep);
        }
        if let Some(groups) = &self.groups {
            steps = steps.groups(groups);
        }
        type Set = fn(Privileges, u32) -> Privileges;
        let gid: [Set; 3] =
            [Privileges::real_gid, Privileges::effective_gid, Privileges::saved_gid];
        let uid: [Set; 3] =
            [Privileges::real_uid, Privileges::effective_uid, Privileges::saved_uid];
        for (set, id) in gid.into_iter().zip(self.gid).chain(uid.into_iter().zip(self.uid)) {
            if let Some(id) = id {
                steps = set(steps, id);
            }
        }
        if self.keep_parent_death_signal {
            steps = steps.keep_parent_death_signal();
        }
        if let Some(sets) = self.capabilities {
            steps = steps.capabilities(sets);
        }
        if let Some(set) = self.ambient {
            steps = steps.ambient(set);
        }
        if self.no_new_privs {
            steps = steps.no_new_privs();
        }
        if self.keep_dumpable {
            steps = steps.keep_dumpable();
        }
        if self.seccomp {
            steps = steps.seccomp(&[ALLOW]);
        }
        if self.keep_names {
            steps = steps.keep_gid().keep_groups();
        }
        let error = match steps.apply() {
            Ok(_) => return "applied".into(),
            Err(ApplyError::Step(error)) => error,
            Err(other) => panic!("{other}"),
        };
        match error.cause() {
            Cause::Precondition(
                Precondition::GidKept { .. }
                | Precondition::GroupsKept { .. }
                | Precondition::CapabilitiesKept { .. },
            ) => "refused by psx's own rule".into(),
            Cause::Precondition(_) => format!("refused: {error}"),
            _ => format!("half-way: {error}"),
        }
    }

    pub(super) fn make_bare_calls(&self) -> String {
        match self.try_bare_calls() {
            Ok(()) => "applied".into(),
            Err(step) => format!("failed: {step}"),
        }
    }

    /// Returns which call the kernel refuses. A call that would change nothing is not made.
    fn try_bare_calls(&self) -> Result<(), &'static str> {
        let ok = |made: bool, step| if made { Ok(()) } else { Err(step) };
        let mut uids = [0; 3];
        let [real, effective, saved] = &mut uids;
        // SAFETY: the kernel writes three numbers.
        assert_eq!(unsafe { libc::getresuid(real, effective, saved) }, 0);
        let signal = parent_death_signal();
        let dumpable = prctl(libc::PR_GET_DUMPABLE);
        let bits = || thread::capabilities_secure_bits().unwrap();

        if let Some(wanted) = self.secure_bits.filter(|wanted| *wanted != bits()) {
            ok(thread::set_capabilities_secure_bits(wanted).is_ok(), "secure_bits")?;
        }
        let leaves_root = uids.contains(&0) && (0..3).all(|i| self.uid[i].unwrap_or(uids[i]) != 0);
        let keeping = SecureBits::KEEP_CAPS | SecureBits::NO_SETUID_FIXUP;
        let keeps = self.secure_bits.is_some_and(|bits| bits.intersects(keeping))
            || bits().contains(SecureBits::NO_SETUID_FIXUP | SecureBits::KEEP_CAPS_LOCKED);
        let wants_some = self.capabilities.is_some_and(|sets| !sets.permitted.is_empty());
        let for_this_change = leaves_root && wants_some && !keeps;
        let keep = self.keep_capabilities || for_this_change;
        if keep && !bits().contains(SecureBits::KEEP_CAPS) {
            ok(thread::set_keep_capabilities(true).is_ok(), "keep_capabilities")?;
        }
        for number in self.bounding.map_or(0..=0, |_| 0..=last_capability()) {
            let one = CapabilitySet::from_bits_retain(1 << number);
            let drops = self.bounding.is_some_and(|keep| !keep.contains(one));
            if drops && thread::capability_is_in_bounding_set(one).unwrap() {
                ok(thread::remove_capability_from_bounding_set(one).is_ok(), "bounding")?;
            }
        }
        if let Some(groups) = &self.groups {
            // SAFETY: asked for the number alone, the call writes nothing.
            let none_yet = unsafe { libc::getgroups(0, ptr::null_mut()) } == 0;
            // SAFETY: as many numbers as there are.
            let set = || unsafe { libc::setgroups(groups.len(), groups.as_ptr()) } == 0;
            ok(groups.is_empty() && none_yet || set(), "groups")?;
        }
        let [gid, uid] = [self.gid, self.uid].map(|ids| ids.map(|id| id.unwrap_or(u32::MAX)));
        // SAFETY: numbers only, and one thread.
        ok(unsafe { libc::setresgid(gid[0], gid[1], gid[2]) } == 0, "gid")?;
        // SAFETY: as above.
        ok(unsafe { libc::setresuid(uid[0], uid[1], uid[2]) } == 0, "uid")?;
        if self.keep_parent_death_signal {
            set_parent_death_signal(signal);
        }
        let is_locked = bits().contains(SecureBits::KEEP_CAPS_LOCKED);
        if for_this_change && !self.keep_capabilities && !is_locked {
            ok(thread::set_keep_capabilities(false).is_ok(), "keep_capabilities")?;
        }
        if let Some(sets) = self.capabilities {
            ok(thread::set_capabilities(None, sets.into()).is_ok(), "capabilities")?;
        }
        if let Some(set) = self.ambient {
            thread::clear_ambient_capability_set().unwrap();
            for number in (0..64).filter(|number| set.bits() & 1 << number != 0) {
                let one = CapabilitySet::from_bits_retain(1 << number);
                let raised = thread::configure_capability_in_ambient_set(one, true);
                ok(raised.is_ok(), "ambient")?;
            }
        }
        if self.no_new_privs {
            thread::set_no_new_privs(true).unwrap();
        }
        let changes_ids = self.gid.iter().chain(&self.uid).any(Option::is_some);
        if self.keep_dumpable && changes_ids {
            raw::prctl(libc::PR_SET_DUMPABLE, dumpable as usize);
        }
        if self.seccomp {
            ok(seccomp::try_install(&[ALLOW], 0).is_ok(), "seccomp")?;
        }
        Ok(())
    }
}
