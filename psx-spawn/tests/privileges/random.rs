//! Choices by a seed: ids, sets, bits, and the state that a process starts from.

use std::env;
use std::ops::RangeInclusive;

use psx::privileges::SecureBits;
use psx::{CapabilitySet, CapabilitySets};
use rustix::thread;

use crate::kernel::{last_capability, set_parent_death_signal};

/// xorshift64: the same choices for the same seed.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// The first seed and how many, as `FIRST,COUNT` in this variable; else the first `count`.
    pub(crate) fn seeds(variable: &str, count: u64) -> (u64, u64) {
        let Ok(text) = env::var(variable) else { return (1, count) };
        let numbers = text.split_once(',').expect("FIRST,COUNT");
        (numbers.0.parse().expect("a number"), numbers.1.parse().expect("a number"))
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit
    }

    pub(crate) fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    pub(crate) fn maybe<T>(&mut self, count: u64, make: impl FnOnce(&mut Self) -> T) -> Option<T> {
        self.one_in(count).then(|| make(self))
    }

    pub(crate) fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }

    /// 12 and 65534 are not mapped where few are.
    pub(crate) fn id(&mut self) -> u32 {
        self.of(&[0, 0, 1, 1, 5, 9, 12, 65534])
    }

    pub(crate) fn three_ids(&mut self) -> [Option<u32>; 3] {
        match self.below(5) {
            0 | 1 => [None; 3],
            2 => [(); 3].map(|()| self.maybe(2, Self::id)),
            _ => [Some(self.id()); 3],
        }
    }

    pub(crate) fn set(&mut self) -> CapabilitySet {
        // SETGID, SETUID, SETPCAP, NET_BIND_SERVICE, SYS_ADMIN, CHOWN, and one that is not known.
        const SOME: [u64; 7] = [6, 7, 8, 10, 21, 0, 50];
        match self.below(6) {
            0 => CapabilitySet::empty(),
            1 => CapabilitySet::all(),
            _ => {
                let bits = SOME.iter().filter(|_| self.one_in(2)).map(|number| 1 << number).sum();
                CapabilitySet::from_bits_retain(bits)
            }
        }
    }

    pub(crate) fn sets(&mut self) -> CapabilitySets {
        let [effective, mut permitted, inheritable] = [(); 3].map(|()| self.set());
        if self.one_in(2) {
            permitted |= effective;
        }
        CapabilitySets { effective, permitted, inheritable }
    }

    pub(crate) fn secure_bits(&mut self) -> SecureBits {
        let of_bit = |bit: RangeInclusive<u32>, random: &mut Self| -> u32 {
            // Odd ones are locks.
            bit.filter(|bit| random.one_in(if bit % 2 == 1 { 6 } else { 3 }))
                .map(|bit| 1 << bit)
                .sum()
        };
        SecureBits::from_bits_retain(of_bit(0..=7, self))
    }

    /// Puts the process into some state; what the kernel refuses of it stays as it is.
    pub(crate) fn state(&mut self) {
        let three = |random: &mut Self| [(); 3].map(|()| random.of(&[0, 0, 0, 1, 5, 9]));
        let groups: Vec<u32> = (0..self.below(3)).map(|_| self.of(&[0, 1, 5, 9])).collect();
        let [gid, uid] = [three(self), three(self)];
        let [sets_groups, sets_gid, sets_uid] = [(); 3].map(|()| self.one_in(2));
        let secure_bits = self.maybe(3, Self::secure_bits);
        let drops = self.maybe(3, Self::set);
        let [keeps, restores, dumps] = [(); 3].map(|()| self.one_in(2));
        let loses = self.maybe(2, Self::sets);
        let no_new_privs = self.one_in(4);
        set_parent_death_signal(self.of(&[0, libc::SIGUSR1]));
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
}
