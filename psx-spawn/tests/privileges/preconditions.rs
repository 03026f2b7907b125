//! What is refused before any thread is stopped, and what is allowed because it changes nothing (P8, P10).

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;

use psx::privileges::{
    ApplyError, CapabilityMask, Cause, IdKind, LandlockFlags, Precondition, SecureBits, Step,
};
use psx::{Broadcast, CapabilitySet, CapabilitySets, Divergence, Errno, Outcome, Privileges};
use psx_test_support::landlock::{self, deny_reading};
use psx_test_support::process::with_groups;
use psx_test_support::seccomp::refuse_here;
use psx_test_support::threads::{start_idlers, start_named};
use psx_test_support::{Case, Ending, Line, procfs, root};

use crate::kernel::{prctl, refuse_prctl_here, refusing};

const BIND: CapabilitySet = CapabilitySet::NET_BIND_SERVICE;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("preconditions::as_root", as_root).needs(root).check(|child| {
            child.inspect("refused", |child| {
                child.assert_all("Uid", "0 0 0 0");
                child.assert_all("NoNewPrivs", "0");
            });
            assert_eq!(child.end(), Ending::Exited(0));
        }),
        Case::new("preconditions::as_a_user", as_a_user).prepare(be_plain_user).needs(root).check(
            |child| {
                child.inspect("refused", |child| child.assert_all("NoNewPrivs", "0"));
                child.inspect("allowed", |child| child.assert_all("NoNewPrivs", "1"));
                assert_eq!(child.end(), Ending::Exited(0));
            },
        ),
        Case::new("preconditions::landlock", |_| {
            start_idlers(1);
            let none = LandlockFlags::NONE;
            let file = File::open("/").unwrap();
            let no_ruleset = Privileges::new().no_new_privs().landlock(file, none);
            expect(Step::Landlock, &Precondition::NotARuleset, &no_ruleset);
            let path = File::options().read(true).custom_flags(libc::O_PATH).open("/").unwrap();
            let no_ruleset = Privileges::new().no_new_privs().landlock(path, none);
            expect(Step::Landlock, &Precondition::NotARuleset, &no_ruleset);
            let untrusted = Privileges::new().landlock(deny_reading(false), none);
            expect(Step::Landlock, &Precondition::NeedsNoNewPrivs, &untrusted);
        })
        .prepare(be_plain_user)
        .needs(|| root().and_then(|()| landlock::available())),
        Case::new("preconditions::locked_bits", |_| {
            let locked = SecureBits::NO_ROOT | SecureBits::NO_ROOT_LOCKED;
            let keeps = SecureBits::KEEP_CAPS | SecureBits::KEEP_CAPS_LOCKED;
            let step = |bits| Privileges::new().secure_bits(bits);
            step(locked | keeps).apply().unwrap();
            let both = SecureBits::NO_ROOT.bits() | SecureBits::NO_ROOT_LOCKED.bits();
            let unmet = Precondition::SecureBitsLocked { bits: both };
            expect(Step::SecureBits, &unmet, &step(keeps));
            // It is locked as wanted.
            Privileges::new().keep_capabilities().apply().unwrap();
        })
        .needs(root),
        // A process without capabilities repeats what it has done before.
        Case::new("preconditions::nothing_to_change", |line| {
            start_idlers(2);
            let bits = SecureBits::NO_ROOT;
            let batch = Privileges::new()
                .secure_bits(bits)
                .bounding_set(BIND)
                .groups(&[])
                .gid(65534)
                .uid(65534)
                .capabilities(CapabilitySets::empty());
            batch.apply().unwrap();
            line.pause("once");
            batch.apply().unwrap();
            batch.verify().unwrap();
            line.pause("twice");
            let all = Privileges::new().bounding_set(CapabilitySet::all());
            all.apply().unwrap();
            let other = Privileges::new().bounding_set(CapabilitySet::empty());
            expect(Step::BoundingSet, &missing(CapabilitySet::SETPCAP), &other);
            let other = Privileges::new().secure_bits(SecureBits::empty());
            expect(Step::SecureBits, &missing(CapabilitySet::SETPCAP), &other);
            line.pause("thrice");
        })
        .needs(root)
        .check(|child| {
            for word in ["once", "twice", "thrice"] {
                child.inspect(word, |child| {
                    assert_eq!(child.tasks().len(), 3);
                    child.assert_all("Uid", "65534 65534 65534 65534");
                    child.assert_all("CapBnd", "0000000000000400");
                    child.assert_all("CapPrm", "0000000000000000");
                });
            }
            assert_eq!(child.end(), Ending::Exited(0));
        }),
        // The caller has nothing to change, nor the right to; the others have both.
        Case::new("preconditions::others_have_something_to_change", |line| {
            start_idlers(2);
            for number in 0..64 {
                // On this thread alone. There may be fewer.
                // SAFETY: numbers.
                unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0) };
            }
            rustix::thread::set_capabilities(None, CapabilitySets::empty().into()).unwrap();
            line.pause("before");
            let batch = Privileges::new().bounding_set(CapabilitySet::empty()).groups(&[]);
            batch.apply().unwrap();
            batch.verify().unwrap();
            line.pause("after");
        })
        .prepare(|command| with_groups(command, &[]))
        .needs(root)
        .check(|child| {
            const NONE: &str = "0000000000000000";
            child.inspect("before", |child| {
                let has_none = |task: &procfs::Task| task.field("CapBnd") == NONE;
                assert_eq!(child.tasks().iter().filter(|task| has_none(task)).count(), 1);
            });
            child.inspect("after", |child| {
                assert_eq!(child.tasks().len(), 3);
                child.assert_all("CapBnd", NONE);
            });
            assert_eq!(child.end(), Ending::Exited(0));
        }),
        // The caller has nothing to change; another thread has, but not the right to.
        Case::new("preconditions::another_cannot_change", |line| {
            let lose_all = || {
                rustix::thread::set_capabilities(None, CapabilitySets::empty().into()).unwrap();
            };
            let other = start_named("other", lose_all);
            rustix::thread::remove_capability_from_bounding_set(BIND).unwrap();
            lose_all();
            let batch = Privileges::new().bounding_set(CapabilitySet::all() - BIND);
            let lenient = Broadcast::new().divergence(Divergence::Report);
            let report = batch.apply_with(lenient).unwrap();
            let [divergent] = report.divergent() else { panic!("{report:?}") };
            let refused = Outcome::Failed(Errno::from_raw(libc::EPERM));
            assert_eq!((divergent.thread().tid(), divergent.outcome()), (other, refused));
            batch.verify().unwrap_err();
            line.pause("reported");
        })
        .needs(root)
        .check(|child| {
            child.inspect("reported", |child| {
                let bound = |task: &procfs::Task| task.mask("CapBnd") & BIND.bits() != 0;
                assert_eq!(child.tasks().iter().map(bound).collect::<Vec<_>>(), [false, true]);
            });
            assert_eq!(child.end(), Ending::Exited(0));
        }),
        // A refused getter does not mean that the capability is missing.
        Case::new("preconditions::unreadable_capabilities", |line| {
            start_idlers(2);
            refuse_here(libc::SYS_capget);
            Privileges::new().groups(&[7]).gid(7).apply().unwrap();
            refuse_prctl_here(&[libc::PR_CAPBSET_READ as u32]);
            // Without the kernel's list psx cannot know what to drop.
            let step = Privileges::new().bounding_set(CapabilitySet::empty());
            let error = failed(&step);
            let refused = Cause::Kernel(Errno::from_raw(libc::EPERM));
            assert_eq!((error.failed(), error.cause()), (Step::BoundingSet, &refused));
            line.pause("refused");
        })
        .needs(root)
        .check(|child| {
            child.inspect("refused", |child| {
                child.assert_all("Groups", "7");
                for task in child.tasks() {
                    assert_ne!(task.field("CapBnd"), "0000000000000000");
                }
            });
            assert_eq!(child.end(), Ending::Exited(0));
        }),
    ]
}

fn as_root(line: &Line) {
    start_idlers(1);
    let neither = CapabilitySets { effective: BIND, ..CapabilitySets::empty() };
    let unbound = CapabilitySets { inheritable: BIND, ..CapabilitySets::empty() };
    let no_raise = SecureBits::NO_CAP_AMBIENT_RAISE;
    let inherit =
        CapabilitySets { inheritable: BIND, ..CapabilitySets::permitted_and_effective(BIND) };
    let new = Privileges::new;
    let drop = || new().groups(&[]).gid(1).uid(1);
    let bind = mask(BIND);
    let (user, group) = (IdKind::User, IdKind::Group);
    for (step, unmet, wanted) in [
        (Step::Uid, Precondition::NotAnId { kind: user }, new().uid(u32::MAX)),
        (Step::Uid, Precondition::NotAnId { kind: user }, new().saved_uid(u32::MAX)),
        (Step::Gid, Precondition::NotAnId { kind: group }, new().gid(u32::MAX)),
        (Step::Groups, Precondition::NotAnId { kind: group }, new().groups(&[0, u32::MAX])),
        (
            Step::Groups,
            Precondition::TooManyGroups { count: 65537, limit: 65536 },
            new().groups(&[1; 65537]),
        ),
        (
            Step::Capabilities,
            Precondition::EffectiveNotPermitted { capabilities: bind },
            new().capabilities(neither),
        ),
        (
            Step::Capabilities,
            Precondition::NotInheritable { capabilities: bind },
            drop().capabilities(unbound).bounding_set(CapabilitySet::empty()),
        ),
        (
            Step::Ambient,
            Precondition::AmbientNotPermitted { capabilities: bind },
            new().ambient(BIND),
        ),
        (
            Step::Ambient,
            Precondition::AmbientRaiseForbidden,
            new().capabilities(inherit).ambient(BIND).secure_bits(no_raise),
        ),
        (
            Step::KeepCapabilities,
            Precondition::KeepCapabilitiesLocked,
            drop().capabilities(inherit).secure_bits(SecureBits::KEEP_CAPS_LOCKED),
        ),
        (
            Step::Seccomp,
            Precondition::FilterLength { instructions: 0 },
            new().no_new_privs().seccomp(&[]),
        ),
        (Step::Seccomp, Precondition::NeedsNoNewPrivs, drop().seccomp(&refusing(0, 0))),
    ] {
        expect(step, &unmet, &wanted);
    }
    line.pause("refused");
}

fn as_a_user(line: &Line) {
    start_idlers(1);
    let new = Privileges::new;
    let id = |kind, capability| Precondition::IdNotPermitted {
        kind,
        id: 0,
        capability: mask(capability),
    };
    for (step, unmet, wanted) in [
        (Step::Uid, id(IdKind::User, CapabilitySet::SETUID), new().uid(0)),
        (Step::Gid, id(IdKind::Group, CapabilitySet::SETGID), new().effective_gid(0)),
        (Step::Groups, missing(CapabilitySet::SETGID), new().groups(&[1000])),
        (Step::BoundingSet, missing(CapabilitySet::SETPCAP), new().bounding_set(BIND)),
        (Step::SecureBits, missing(CapabilitySet::SETPCAP), new().secure_bits(SecureBits::NO_ROOT)),
        (
            Step::Capabilities,
            Precondition::NotPermitted { capabilities: mask(BIND) },
            new().capabilities(CapabilitySets::permitted_and_effective(BIND)),
        ),
    ] {
        expect(step, &unmet, &wanted.no_new_privs());
    }
    let filter = new().seccomp(&refusing(0, 0));
    expect(Step::Seccomp, &Precondition::NeedsNoNewPrivs, &filter);
    assert_eq!(prctl(libc::PR_GET_NO_NEW_PRIVS), 0);
    line.pause("refused");
    // What any user may.
    let drop = new().uid(1000).gid(1000).capabilities(CapabilitySets::empty());
    drop.no_new_privs().apply().unwrap();
    line.pause("allowed");
}

fn be_plain_user(command: &mut std::process::Command) {
    command.uid(1000).gid(1000);
}

pub(crate) fn mask(set: CapabilitySet) -> CapabilityMask {
    CapabilityMask::from_bits(set.bits())
}

fn missing(set: CapabilitySet) -> Precondition {
    Precondition::MissingCapability { capability: mask(set) }
}

/// Asserts that the batch is refused for this reason, with nothing changed, and prints the error.
#[track_caller]
pub(crate) fn expect(step: Step, unmet: &Precondition, wanted: &Privileges) {
    let error = failed(wanted);
    assert_eq!((error.failed(), error.completed()), (step, &[][..]));
    assert_eq!(*error.cause(), Cause::Precondition(unmet.clone()));
}

/// Applies a batch, of which a step must fail.
#[track_caller]
pub(crate) fn failed(wanted: &Privileges) -> psx::privileges::StepError {
    match wanted.apply() {
        Err(ApplyError::Step(error)) => {
            println!("{error}");
            error
        }
        other => panic!("{other:?}"),
    }
}
