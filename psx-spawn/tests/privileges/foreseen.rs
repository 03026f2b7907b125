//! What is refused before any thread is stopped.

use std::fs::File;
use std::os::unix::process::CommandExt;

use psx::privileges::{Cause, LandlockFlags, SecureBits, Step};
use psx::{CapabilitySet, CapabilitySets, Error, Privileges};

use crate::kernel::{landlock, refusing, ruleset, start_idlers};
use crate::support::{Case, root};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("foreseen::as_root", |_| {
            start_idlers(1);
            let bind = CapabilitySet::NET_BIND_SERVICE;
            let neither = CapabilitySets { effective: bind, ..CapabilitySets::empty() };
            let unbound = CapabilitySets { inheritable: bind, ..CapabilitySets::empty() };
            let no_raise = SecureBits::NO_CAP_AMBIENT_RAISE;
            let inherit = CapabilitySets { inheritable: bind, ..CapabilitySets::usable(bind) };
            let new = Privileges::new;
            for (step, wanted) in [
                (Step::Uid, new().uid(u32::MAX)),
                (Step::Uid, new().saved_uid(u32::MAX)),
                (Step::Gid, new().gid(u32::MAX)),
                (Step::Groups, new().groups(&[0, u32::MAX])),
                (Step::Groups, new().groups(&[1; 65537])),
                (Step::Capabilities, new().capabilities(neither)),
                (
                    Step::Capabilities,
                    new().uid(1).capabilities(unbound).bounding(CapabilitySet::empty()),
                ),
                (Step::Ambient, new().ambient(bind)),
                (Step::Ambient, new().capabilities(inherit).ambient(bind).secure_bits(no_raise)),
                (
                    Step::KeepCapabilities,
                    new().uid(1).capabilities(inherit).secure_bits(SecureBits::KEEP_CAPS_LOCKED),
                ),
                (Step::Seccomp, new().no_new_privs().seccomp(&[])),
                (Step::Seccomp, new().uid(1).seccomp(&refusing(0, 0))),
            ] {
                expect_foreseen(step, &wanted);
            }
        })
        .needs(root)
        .judge(|child| {
            assert_eq!(child.end(), crate::support::Ending::Exited(0));
        }),
        Case::new("foreseen::as_a_user", |line| {
            start_idlers(1);
            let bind = CapabilitySet::NET_BIND_SERVICE;
            let new = Privileges::new;
            for (step, wanted) in [
                (Step::Uid, new().uid(0)),
                (Step::Gid, new().effective_gid(0)),
                (Step::Groups, new().groups(&[])),
                (Step::Bounding, new().bounding(bind)),
                (Step::SecureBits, new().secure_bits(SecureBits::NO_ROOT)),
                (Step::Capabilities, new().capabilities(CapabilitySets::usable(bind))),
                (Step::Seccomp, new().seccomp(&refusing(0, 0))),
            ] {
                expect_foreseen(step, &wanted.no_new_privs_if(step != Step::Seccomp));
            }
            line.show("refused");
            // What anyone may.
            let drop = new().uid(1000).gid(1000).capabilities(CapabilitySets::empty());
            drop.no_new_privs().apply().unwrap();
            line.show("allowed");
        })
        .prepare(|command| {
            command.uid(1000).gid(1000);
        })
        .needs(root)
        .judge(|child| {
            child.inspect("refused", |child| child.assert_all("NoNewPrivs", "0"));
            child.inspect("allowed", |child| child.assert_all("NoNewPrivs", "1"));
        }),
        Case::new("foreseen::landlock", |_| {
            start_idlers(1);
            let none = LandlockFlags::NONE;
            let file = File::open("/").unwrap();
            let no_ruleset = Privileges::new().no_new_privs().landlock(file, none);
            expect_foreseen(Step::Landlock, &no_ruleset);
            let untrusted = Privileges::new().landlock(ruleset(false), none);
            expect_foreseen(Step::Landlock, &untrusted);
        })
        .prepare(|command| {
            command.uid(1000).gid(1000);
        })
        .needs(|| root().and_then(|()| landlock())),
    ]
}

trait If {
    fn no_new_privs_if(self, condition: bool) -> Self;
}

impl If for Privileges {
    fn no_new_privs_if(self, condition: bool) -> Self {
        if condition { self.no_new_privs() } else { self }
    }
}

fn expect_foreseen(step: Step, wanted: &Privileges) {
    let error = wanted.apply().unwrap_err();
    println!("{error}");
    let Error::Step(error) = error else {
        panic!("{error:?}");
    };
    assert_eq!(error.failed(), step);
    assert!(matches!(error.reason(), Cause::Foreseen(_)), "{error:?}");
    assert_eq!(error.made(), []);
}
