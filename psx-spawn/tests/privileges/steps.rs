//! Each step's effect on every thread; the order of the builder's calls does not matter (P8).

use std::process::Command;

use psx::privileges::SecureBits;
use psx::{CapabilitySet, CapabilitySets, Privileges};
use psx_test_support::threads::start_idlers;
use psx_test_support::{Case, Child, Ending, Line, Probe, root};

use crate::kernel::prctl;

/// The number of `CAP_NET_BIND_SERVICE`, as a set, in /proc.
const BIND: &str = "0000000000000400";
const NONE: &str = "0000000000000000";

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("steps::root_becomes_nobody", |line| {
            let drop = Privileges::new()
                .bounding_set(CapabilitySet::empty())
                .groups(&[65532, 7])
                .gid(65533)
                .uid(65534)
                .capabilities(CapabilitySets::empty())
                .no_new_privs();
            drop_and_show(drop, line);
        })
        .needs(root)
        .check(has_dropped_all),
        Case::new("steps::calls_in_reverse", |line| {
            let drop = Privileges::new()
                .no_new_privs()
                .capabilities(CapabilitySets::empty())
                .uid(65534)
                .gid(65533)
                .groups(&[65532, 7])
                .bounding_set(CapabilitySet::empty());
            drop_and_show(drop, line);
        })
        .needs(root)
        .check(has_dropped_all),
        Case::new("steps::capability_survives_the_uid", |line| {
            start_idlers(2);
            let other = Probe::start();
            let keep = Privileges::new()
                .capabilities(CapabilitySets::permitted_and_effective(
                    CapabilitySet::NET_BIND_SERVICE,
                ))
                .groups(&[])
                .gid(65534)
                .uid(65534);
            keep.apply().unwrap();
            keep.verify().unwrap();
            line.pause("kept");
            assert_eq!(other.ask(|| prctl(libc::PR_GET_KEEPCAPS)), 0);
            let drop = Privileges::new().capabilities(CapabilitySets::empty());
            drop.apply().unwrap();
            line.pause("dropped");
        })
        .needs(root)
        .check(|child| {
            child.inspect("kept", |child| {
                child.assert_all("Uid", "65534 65534 65534 65534");
                child.assert_all("CapEff", BIND);
                child.assert_all("CapPrm", BIND);
            });
            child.inspect("dropped", |child| child.assert_all("CapPrm", NONE));
            assert_eq!(child.end(), Ending::Exited(0));
        }),
        Case::new("steps::ambient_reaches_a_program", ambient).needs(root).check(|child| {
            child.inspect("raised", |child| child.assert_all("CapAmb", BIND));
            assert_eq!(child.end(), Ending::Exited(0));
        }),
        Case::new("steps::secure_bits_and_kept_capabilities", secure_bits).needs(root),
        Case::new("steps::no_setuid_fixup_keeps_all", |line| {
            start_idlers(2);
            let step = Privileges::new().uid(65534).secure_bits(SecureBits::NO_SETUID_FIXUP);
            step.keep_gid().keep_groups().apply().unwrap();
            line.pause("unprivileged in name only");
        })
        .needs(root)
        .check(|child| {
            child.inspect("unprivileged", |child| {
                child.assert_all("Uid", "65534 65534 65534 65534");
                for task in child.tasks() {
                    assert_ne!(task.field("CapEff"), NONE);
                }
            });
        }),
        Case::new("steps::the_three_ids_separately", |line| {
            start_idlers(2);
            let step = Privileges::new().real_uid(1).effective_uid(2).saved_uid(3);
            let step = step.real_gid(4).effective_gid(5).saved_gid(6).keep_groups();
            step.apply().unwrap();
            step.verify().unwrap();
            line.pause("set");
            // Unprivileged now: each id may become any of the three.
            Privileges::new().effective_uid(1).apply().unwrap();
            line.pause("changed");
        })
        .needs(root)
        .check(|child| {
            child.inspect("set", |child| {
                child.assert_all("Uid", "1 2 3 2");
                child.assert_all("Gid", "4 5 6 5");
            });
            child.inspect("changed", |child| child.assert_all("Uid", "1 1 3 1"));
        }),
        Case::new("steps::as_many_groups_as_the_kernel_allows", |line| {
            start_idlers(2);
            let groups: Vec<u32> = (1..=65536).rev().collect();
            let step = Privileges::new().groups(&groups);
            step.apply().unwrap();
            step.verify().unwrap();
            line.pause("set");
        })
        .needs(root)
        .check(|child| {
            child.inspect("set", |child| {
                for task in child.tasks() {
                    let groups: Vec<_> = task.field("Groups").split(' ').collect();
                    assert_eq!(groups.len(), 65536);
                    assert_eq!(groups.last(), Some(&"65536"));
                }
            });
        }),
    ]
}

fn has_dropped_all(child: &mut Child) {
    child.inspect("dropped", |child| {
        assert_eq!(child.tasks().len(), 4);
        child.assert_all("Uid", "65534 65534 65534 65534");
        child.assert_all("Gid", "65533 65533 65533 65533");
        child.assert_all("Groups", "7 65532");
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            child.assert_all(set, NONE);
        }
        child.assert_all("NoNewPrivs", "1");
    });
    assert_eq!(child.end(), Ending::Exited(0));
}

fn drop_and_show(drop: Privileges, line: &Line) {
    start_idlers(3);
    let report = drop.apply().unwrap();
    assert_eq!(report.threads(), 4);
    drop.verify().unwrap();
    line.pause("dropped");
}

fn ambient(line: &Line) {
    start_idlers(2);
    let bind = CapabilitySet::NET_BIND_SERVICE;
    let sets =
        CapabilitySets { inheritable: bind, ..CapabilitySets::permitted_and_effective(bind) };
    let step = Privileges::new().ambient(bind).capabilities(sets).groups(&[]).gid(7).uid(65534);
    step.apply().unwrap();
    step.verify().unwrap();
    line.pause("raised");
    let status = Command::new("cat").arg("/proc/self/status").output().unwrap();
    let status = String::from_utf8(status.stdout).unwrap();
    assert!(status.contains(&format!("CapEff:\t{BIND}")), "{status}");
}

fn secure_bits(_: &Line) {
    let (other, bits) = (Probe::start(), || prctl(libc::PR_GET_SECUREBITS));
    let step = Privileges::new().secure_bits(SecureBits::NO_ROOT).keep_capabilities();
    step.apply().unwrap();
    let wanted = SecureBits::NO_ROOT | SecureBits::KEEP_CAPS;
    assert_eq!([bits(), other.ask(bits)], [wanted.bits() as i32; 2]);
}
