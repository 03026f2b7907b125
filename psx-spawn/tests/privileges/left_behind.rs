//! What another thread may not keep of root where the calling thread has nothing of it.

use std::sync::mpsc;

use psx::privileges::{Step, VerifyError};
use psx::{
    Broadcast, CapabilitySet, CapabilitySets, Coverage, Divergence, Errno, Outcome, Privileges,
};

use crate::kernel::{Teller, prctl, start_idlers, start_named};
use crate::preconditions::with_groups;
use crate::support::{Case, Ending, procfs, root};

const NONE: &str = "0000000000000000";
const BIND: &str = "0000000000000400";

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("left_behind::capabilities_by_secure_bits_of_another_thread", |line| {
            // SECBIT_NO_SETUID_FIXUP
            start_named("no fixup", || set(libc::PR_SET_SECUREBITS, 4));
            start_named("keeps", || set(libc::PR_SET_KEEPCAPS, 1));
            start_idlers(1);
            let batch = Privileges::new().groups(&[]).gid(65534).uid(65534);
            batch.apply().unwrap();
            batch.verify().unwrap();
            line.show("left");
        })
        .needs(root)
        .judge(|child| {
            child.inspect("left", |child| {
                assert_eq!(child.tasks().len(), 4);
                child.assert_all("Uid", "65534 65534 65534 65534");
                for set in ["CapPrm", "CapEff", "CapAmb"] {
                    child.assert_all(set, NONE);
                }
            });
            assert_eq!(child.end(), Ending::Exited(0));
        }),
        Case::new("left_behind::verify_wants_no_capabilities_left", |line| {
            let (ready, is_ready) = mpsc::channel();
            std::thread::spawn(move || {
                set(libc::PR_SET_SECUREBITS, 4);
                // SAFETY: numbers only, for this thread alone.
                unsafe {
                    assert_eq!(libc::syscall(libc::SYS_setgroups, 0, 0), 0);
                    assert_eq!(libc::syscall(libc::SYS_setresgid, 7, 7, 7), 0);
                    assert_eq!(libc::syscall(libc::SYS_setresuid, 7, 7, 7), 0);
                }
                ready.send(()).unwrap();
                loop {
                    std::thread::park();
                }
            });
            is_ready.recv().unwrap();
            let batch = Privileges::new().groups(&[]).gid(7).uid(7);
            batch.verify().unwrap_err();
            batch.apply_with(Broadcast::new().coverage(Coverage::Registered)).unwrap();
            let Err(VerifyError::Different(found)) = batch.verify() else { panic!("verified") };
            let steps: Vec<_> = found.iter().map(|difference| difference.step).collect();
            assert_eq!(steps, [Step::Capabilities], "{found:?}");
            line.show("told");
        })
        .needs(root)
        .judge(|child| {
            child.inspect("told", |child| {
                child.assert_all("Uid", "7 7 7 7");
                let empty: Vec<_> =
                    child.tasks().iter().map(|task| task.field("CapEff") == NONE).collect();
                assert_eq!(empty, [true, false]);
            });
            assert_eq!(child.end(), Ending::Exited(0));
        }),
        Case::new("left_behind::groups_of_another_thread", |line| {
            start_named("groups", || {
                let groups = [0_u32, 4, 27];
                // SAFETY: the kernel reads three numbers; for this thread alone.
                let made = unsafe { libc::syscall(libc::SYS_setgroups, 3, groups.as_ptr()) };
                assert_eq!(made, 0);
            });
            line.show("before");
            let batch = Privileges::new().gid(65534).uid(65534);
            batch.apply().unwrap();
            batch.verify().unwrap();
            line.show("left");
        })
        .prepare(|command| with_groups(command, &[]))
        .needs(root)
        .judge(|child| {
            child.inspect("before", |child| {
                let groups = |task: &procfs::Task| task.field("Groups").to_owned();
                let groups: Vec<_> = child.tasks().iter().map(groups).collect();
                assert_eq!(groups, ["", "0 4 27"]);
            });
            child.inspect("left", |child| {
                child.assert_all("Uid", "65534 65534 65534 65534");
                child.assert_all("Groups", "");
            });
            assert_eq!(child.end(), Ending::Exited(0));
        }),
        Case::new("left_behind::group_id_0_of_another_thread", |line| {
            let root = start_named("root", || ());
            // SAFETY: numbers only, for this thread alone.
            assert_eq!(unsafe { libc::syscall(libc::SYS_setresgid, 7, 7, 7) }, 0);
            let batch = Privileges::new().groups(&[]).uid(65534);
            let lenient = Broadcast::new().divergence(Divergence::Report);
            let report = batch.apply_with(lenient).unwrap();
            let [divergent] = report.divergent() else { panic!("{report:?}") };
            let refused = Outcome::Failed(Errno::from_raw(libc::EPERM));
            assert_eq!((divergent.thread().tid(), divergent.outcome()), (root, refused));
            let Err(VerifyError::Different(found)) = batch.verify() else { panic!("verified") };
            assert!(found.iter().any(|difference| difference.step == Step::Gid), "{found:?}");
            line.show("told");
        })
        .needs(root)
        .judge(|child| {
            child.inspect("told", |child| {
                let uids: Vec<_> =
                    child.tasks().iter().map(|task| task.field("Uid").to_owned()).collect();
                assert_eq!(uids, ["65534 65534 65534 65534", "0 0 0 0"]);
            });
            assert_eq!(child.end(), Ending::Exited(0));
        }),
        Case::new("left_behind::group_id_0_of_another_thread_by_name", |line| {
            start_idlers(1);
            // SAFETY: numbers only, for this thread alone.
            assert_eq!(unsafe { libc::syscall(libc::SYS_setresgid, 7, 7, 7) }, 0);
            let batch = Privileges::new().groups(&[]).keep_gid().uid(65534);
            batch.apply().unwrap();
            batch.verify().unwrap();
            line.show("kept");
        })
        .needs(root)
        .judge(|child| {
            child.inspect("kept", |child| child.assert_all("Uid", "65534 65534 65534 65534"));
            assert_eq!(child.end(), Ending::Exited(0));
        }),
        // The calling thread's own flag is no reason to leave the flag out on the others.
        Case::new("left_behind::keep_capabilities_of_the_caller", |line| {
            let keeps = Teller::start(|| prctl(libc::PR_GET_KEEPCAPS));
            set(libc::PR_SET_KEEPCAPS, 1);
            let sets = CapabilitySets::permitted_and_effective(CapabilitySet::NET_BIND_SERVICE);
            let batch = Privileges::new().groups(&[]).gid(7).uid(7).capabilities(sets);
            batch.apply().unwrap();
            batch.verify().unwrap();
            line.show("kept");
            assert_eq!((keeps.tell(), prctl(libc::PR_GET_KEEPCAPS)), (0, 0));
        })
        .needs(root)
        .judge(|child| {
            child.inspect("kept", |child| {
                child.assert_all("Uid", "7 7 7 7");
                child.assert_all("CapPrm", BIND);
                child.assert_all("CapEff", BIND);
            });
            assert_eq!(child.end(), Ending::Exited(0));
        }),
    ]
}

/// For the calling thread alone.
fn set(option: i32, value: i32) {
    // SAFETY: numbers only.
    assert_eq!(unsafe { libc::syscall(libc::SYS_prctl, option, value, 0, 0, 0) }, 0);
}
