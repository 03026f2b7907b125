//! Batches in a user namespace: what it does not allow is refused before anything changes (P8).

use std::fs;

use psx::privileges::{Cause, IdKind, Precondition, Step, VerifyError};
use psx::{CapabilitySet, Errno, Privileges};
use psx_test_support::process::with_groups;
use psx_test_support::raw::must;
use psx_test_support::threads::start_idlers;
use psx_test_support::{Case, Child, Ending, Line, root};

use crate::preconditions::{expect, failed};

/// What the check writes before the child continues.
struct Maps {
    setgroups: &'static str,
    users: &'static str,
    groups: &'static str,
}

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("user_namespace::setgroups_denied", |line| {
            enter(line);
            let batch = Privileges::new().bounding_set(CapabilitySet::empty());
            let batch = batch.groups(&[]).gid(1).uid(1);
            expect(Step::Groups, &Precondition::SetgroupsDenied, &batch);
            line.pause("refused");
            // What the error's text proposes.
            let batch = Privileges::new().bounding_set(CapabilitySet::empty());
            batch.keep_groups().gid(1).uid(1).apply().unwrap();
            line.pause("applied");
        })
        .prepare(|command| with_groups(command, &[7]))
        .needs(user_namespaces)
        .check(|child| {
            let before = map(child, &DENIES);
            child.inspect("refused", |child| assert_eq!(state(child), before));
            child.inspect("applied", |child| {
                child.assert_all("CapBnd", "0000000000000000");
                child.assert_all("Uid", "1 1 1 1");
            });
            assert_eq!(child.end(), Ending::Exited(0));
        }),
        // setgroups would change nothing.
        Case::new("user_namespace::no_groups_and_setgroups_denied", |line| {
            enter(line);
            Privileges::new().groups(&[]).gid(1).uid(1).apply().unwrap();
            line.pause("applied");
        })
        .prepare(|command| with_groups(command, &[]))
        .needs(user_namespaces)
        .check(|child| {
            map(child, &DENIES);
            child.inspect("applied", |child| {
                child.assert_all("Groups", "");
                child.assert_all("Uid", "1 1 1 1");
            });
            assert_eq!(child.end(), Ending::Exited(0));
        }),
        Case::new("user_namespace::ids_not_mapped", |line| {
            enter(line);
            let start = || Privileges::new().bounding_set(CapabilitySet::empty()).groups(&[1, 2]);
            let unmapped = |kind, id| Precondition::IdNotMapped { kind, id };
            let (user, group) = (IdKind::User, IdKind::Group);
            for (step, unmet, batch) in [
                (Step::Uid, unmapped(user, 65534), start().gid(9).uid(65534)),
                (Step::Uid, unmapped(user, 10), start().gid(9).real_uid(10)),
                (Step::Gid, unmapped(group, 65534), start().gid(65534).uid(9)),
                (Step::Groups, unmapped(group, 11), start().groups(&[9, 11]).gid(9).uid(9)),
            ] {
                expect(step, &unmet, &batch);
            }
            line.pause("refused");
            start().gid(9).uid(9).apply().unwrap();
            line.pause("applied");
        })
        .prepare(|command| with_groups(command, &[0]))
        .needs(user_namespaces)
        .check(|child| {
            let before = map(child, &TEN_IDS);
            child.inspect("refused", |child| assert_eq!(state(child), before));
            child.inspect("applied", |child| {
                child.assert_all("Uid", "9 9 9 9");
                child.assert_all("Groups", "1 2");
            });
            assert_eq!(child.end(), Ending::Exited(0));
        }),
        Case::new("user_namespace::nothing_mapped", |line| {
            enter(line);
            let batch = Privileges::new().bounding_set(CapabilitySet::empty());
            // Every id reads as 65534 here, and none is mapped to it.
            let batch = batch.uid(65534).gid(65534);
            let unmet = Precondition::IdNotMapped { kind: IdKind::Group, id: 65534 };
            expect(Step::Gid, &unmet, &batch);
            expect(Step::Groups, &Precondition::SetgroupsDenied, &batch.groups(&[]));
            line.pause("refused");
        })
        .prepare(|command| with_groups(command, &[7]))
        .needs(user_namespaces)
        .check(|child| {
            let before = map(child, &NOTHING);
            child.inspect("refused", |child| assert_eq!(state(child), before));
            assert_eq!(child.end(), Ending::Exited(0));
        }),
        // A thread that has the initial namespace's uid 0 shows 65534.
        Case::new("user_namespace::the_overflow_id_proves_nothing", |line| {
            enter(line);
            for id in [65534, 65533] {
                let batches = [
                    (Step::Groups, Privileges::new().groups(&[id])),
                    (Step::Gid, Privileges::new().gid(id)),
                    (Step::Uid, Privileges::new().keep_gid().keep_groups().uid(id)),
                ];
                for (step, batch) in batches {
                    match batch.verify() {
                        Err(VerifyError::OverflowId { step: named, id: 65534 }) if id == 65534 => {
                            assert_eq!(named, step);
                        }
                        Err(VerifyError::Different(_)) if id == 65533 => {}
                        other => panic!("{step} {id}: {other:?}"),
                    }
                }
            }
            line.pause("unproven");
            let batch =
                Privileges::new().groups(&[7]).gid(7).real_uid(7).effective_uid(7).saved_uid(7);
            batch.apply().unwrap();
            batch.verify().unwrap();
            line.pause("proven");
        })
        .prepare(|command| with_groups(command, &[4]))
        .needs(user_namespaces)
        .check(|child| {
            map(child, &CONTAINER);
            child.inspect("unproven", |child| {
                child.assert_all("Uid", "0 0 0 0");
                child.assert_all("Gid", "0 0 0 0");
                child.assert_all("Groups", "4");
            });
            child.inspect("proven", |child| child.assert_all("Uid", "100007 100007 100007 100007"));
            assert_eq!(child.end(), Ending::Exited(0));
        }),
        // Without /proc the kernel refuses the step in the round.
        Case::new("user_namespace::maps_out_of_reach", |line| {
            enter(line);
            // It has no folder `proc`.
            std::os::unix::fs::chroot("/sys").unwrap();
            let batch = Privileges::new().bounding_set(CapabilitySet::empty()).groups(&[]).gid(1);
            let error = failed(&batch);
            let refused = Cause::Kernel(Errno::from_raw(libc::EPERM));
            assert_eq!((error.failed(), error.cause()), (Step::Groups, &refused));
            assert_eq!(error.completed(), [Step::BoundingSet]);
            line.pause("refused");
        })
        .prepare(|command| with_groups(command, &[7]))
        .needs(user_namespaces)
        .check(|child| {
            map(child, &DENIES);
            child.inspect("refused", |child| {
                child.assert_all("CapBnd", "0000000000000000");
                child.assert_all("Gid", "0 0 0 0");
            });
            assert_eq!(child.end(), Ending::Exited(0));
        }),
    ]
}

/// As in a rootless container. The ids 65534 are mapped, and an unmapped id shows as 65534.
const CONTAINER: Maps =
    Maps { setgroups: "allow", users: "0 100000 65536", groups: "0 100000 65536" };
const DENIES: Maps = Maps { setgroups: "deny", users: "0 0 10", groups: "0 0 10" };
const TEN_IDS: Maps = Maps { setgroups: "allow", users: "0 0 10", groups: "0 0 10" };
const NOTHING: Maps = Maps { setgroups: "allow", users: "", groups: "" };

/// Puts the child into a new user namespace, and starts threads there.
fn enter(line: &Line) {
    must(libc::SYS_unshare, [libc::CLONE_NEWUSER as usize, 0, 0, 0, 0, 0]);
    line.pause("unshared");
    start_idlers(2);
    line.pause("ready");
}

/// Writes the maps, and returns the state of the child's threads then.
fn map(child: &Child, maps: &Maps) -> Vec<[String; 5]> {
    child.inspect("unshared", |child| {
        for (file, text) in
            [("setgroups", maps.setgroups), ("uid_map", maps.users), ("gid_map", maps.groups)]
        {
            if !text.is_empty() {
                fs::write(format!("/proc/{}/{file}", child.pid()), text).unwrap();
            }
        }
    });
    let mut before = Vec::new();
    child.inspect("ready", |child| before = state(child));
    assert_eq!(before.len(), 3);
    before
}

/// What a batch that was refused must not have changed.
fn state(child: &Child) -> Vec<[String; 5]> {
    let fields = ["Uid", "Gid", "Groups", "CapBnd", "CapPrm"];
    child.tasks().iter().map(|task| fields.map(|field| task.field(field).to_owned())).collect()
}

/// For `Case::needs`: root may make user namespaces here.
pub(crate) fn user_namespaces() -> Result<(), String> {
    root()?;
    match fs::read_to_string("/proc/sys/user/max_user_namespaces") {
        Ok(text) if text.trim() != "0" => Ok(()),
        _ => Err("needs user namespaces".into()),
    }
}
