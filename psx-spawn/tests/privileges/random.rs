//! Random ids, sets and bits, and the state that a process starts from.

use psx::privileges::SecureBits;
use psx::{CapabilitySet, CapabilitySets};
use psx_test_support::Random;
use psx_test_support::process::last_capability;
use rustix::thread;

use crate::kernel::set_parent_death_signal;

/// 12 and 65534 are not mapped where few are.
pub(crate) fn id(random: &mut Random) -> u32 {
    random.of(&[0, 0, 1, 1, 5, 9, 12, 65534])
}

pub(crate) fn three_ids(random: &mut Random) -> [Option<u32>; 3] {
    match random.below(5) {
        0 | 1 => [None; 3],
        2 => [(); 3].map(|()| random.maybe(2, id)),
        _ => [Some(id(random)); 3],
    }
}

pub(crate) fn set(random: &mut Random) -> CapabilitySet {
    // SETGID, SETUID, SETPCAP, NET_BIND_SERVICE, SYS_ADMIN, CHOWN, and an unknown one.
    const SOME: [u64; 7] = [6, 7, 8, 10, 21, 0, 50];
    match random.below(6) {
        0 => CapabilitySet::empty(),
        1 => CapabilitySet::all(),
        _ => {
            let bits = SOME.iter().filter(|_| random.one_in(2)).map(|number| 1 << number).sum();
            CapabilitySet::from_bits_retain(bits)
        }
    }
}

pub(crate) fn sets(random: &mut Random) -> CapabilitySets {
    let [effective, mut permitted, inheritable] = [(); 3].map(|()| set(random));
    if random.one_in(2) {
        permitted |= effective;
    }
    CapabilitySets { effective, permitted, inheritable }
}

pub(crate) fn secure_bits(random: &mut Random) -> SecureBits {
    // Odd ones are locks.
    let bits = (0..=7).filter(|bit| random.one_in(if bit % 2 == 1 { 6 } else { 3 }));
    SecureBits::from_bits_retain(bits.map(|bit| 1 << bit).sum())
}

/// Puts the process into a random state; what the kernel refuses of it is left out.
pub(crate) fn state(random: &mut Random) {
    let three = |random: &mut Random| [(); 3].map(|()| random.of(&[0, 0, 0, 1, 5, 9]));
    let groups: Vec<u32> = (0..random.below(3)).map(|_| random.of(&[0, 1, 5, 9])).collect();
    let [gid, uid] = [three(random), three(random)];
    let [sets_groups, sets_gid, sets_uid] = [(); 3].map(|()| random.one_in(2));
    let secure_bits = random.maybe(3, secure_bits);
    let drops = random.maybe(3, set);
    let [keeps, restores, dumps] = [(); 3].map(|()| random.one_in(2));
    let loses = random.maybe(2, sets);
    let no_new_privs = random.one_in(4);
    set_parent_death_signal(random.of(&[0, libc::SIGUSR1]));
    // SAFETY: plain system calls, numbers, and as many groups as there are.
    unsafe {
        if sets_groups {
            libc::setgroups(groups.len(), groups.as_ptr());
        }
        if sets_gid {
            libc::setresgid(gid[0], gid[1], gid[2]);
        }
        for number in
            (0..=last_capability()).filter(|n| drops.is_some_and(|d| d.bits() & 1 << n != 0))
        {
            libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0);
        }
        if let Some(bits) = secure_bits {
            let _ = thread::set_capabilities_secure_bits(bits);
        }
        if keeps {
            let _ = thread::set_keep_capabilities(true);
        }
        if sets_uid {
            libc::setresuid(uid[0], uid[1], uid[2]);
        }
        libc::prctl(libc::PR_SET_DUMPABLE, i32::from(dumps), 0, 0, 0);
    }
    let mut sets = thread::capabilities(None).unwrap();
    if restores {
        sets.effective = sets.permitted;
    }
    if let Some(lost) = loses {
        sets.permitted &= !lost.permitted;
        sets.effective &= sets.permitted & !lost.effective;
        sets.inheritable |= sets.permitted & lost.inheritable;
    }
    let _ = thread::set_capabilities(None, sets);
    if no_new_privs {
        thread::set_no_new_privs(true).unwrap();
    }
}
