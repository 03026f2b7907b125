//! What another thread may not keep of root's privileges where the calling thread has none (P10).

use psx::privileges::{Step, VerifyError};
use psx::{
    Broadcast, CapabilitySet, CapabilitySets, Coverage, Divergence, Errno, Outcome, Privileges,
};
use psx_test_support::process::with_groups;
use psx_test_support::raw::{self, must};
use psx_test_support::threads::{start_idlers, start_named, start_unregistered};
use psx_test_support::{Case, Ending, Probe, procfs, root};

use crate::kernel::prctl;

const NONE: &str = "0000000000000000";
const BIND: &str = "0000000000000400";

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("left_behind::capabilities_by_secure_bits_of_another_thread", |line| {
            // SECBIT_NO_SETUID_FIXUP
            start_named("no fixup", || raw::prctl(libc::PR_SET_SECUREBITS, 4));
            start_named("keeps", || raw::prctl(libc::PR_SET_KEEPCAPS, 1));
            start_idlers(1);
            let batch = Privileges::new().groups(&[]).gid(65534).uid(65534);
            batch.apply().unwrap();
            batch.verify().unwrap();
            line.pause("left");
        })
        .needs(root)
        .check(|child| {
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
            start_unregistered("foreign", || {
                raw::prctl(libc::PR_SET_SECUREBITS, 4);
                must(libc::SYS_setgroups, [0; 6]);
                must(libc::SYS_setresgid, [7, 7, 7, 0, 0, 0]);
                must(libc::SYS_setresuid, [7, 7, 7, 0, 0, 0]);
            });
            let batch = Privileges::new().groups(&[]).gid(7).uid(7);
            batch.verify().unwrap_err();
            batch.apply_with(Broadcast::new().coverage(Coverage::Registered)).unwrap();
            let Err(VerifyError::Different(found)) = batch.verify() else { panic!("verified") };
            let steps: Vec<_> = found.iter().map(|difference| difference.step).collect();
            assert_eq!(steps, [Step::Capabilities], "{found:?}");
            line.pause("reported");
        })
        .needs(root)
        .check(|child| {
            child.inspect("reported", |child| {
                child.assert_all("Uid", "7 7 7 7");
                let empty: Vec<_> =
                    child.tasks().iter().map(|task| task.field("CapEff") == NONE).collect();
                assert_eq!(empty, [true, false]);
            });
            assert_eq!(child.end(), Ending::Exited(0));
        }),
        Case::new("left_behind::groups_of_another_thread", |line| {
            start_named("groups", || {
                must(libc::SYS_setgroups, [3, [0_u32, 4, 27].as_ptr().addr(), 0, 0, 0, 0]);
            });
            line.pause("before");
            let batch = Privileges::new().gid(65534).uid(65534);
            batch.apply().unwrap();
            batch.verify().unwrap();
            line.pause("left");
        })
        .prepare(|command| with_groups(command, &[]))
        .needs(root)
        .check(|child| {
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
            // On this thread alone.
            must(libc::SYS_setresgid, [7, 7, 7, 0, 0, 0]);
            let batch = Privileges::new().groups(&[]).uid(65534);
            let lenient = Broadcast::new().divergence(Divergence::Report);
            let report = batch.apply_with(lenient).unwrap();
            let [divergent] = report.divergent() else { panic!("{report:?}") };
            let refused = Outcome::Failed(Errno::from_raw(libc::EPERM));
            assert_eq!((divergent.thread().tid(), divergent.outcome()), (root, refused));
            let Err(VerifyError::Different(found)) = batch.verify() else { panic!("verified") };
            assert!(found.iter().any(|difference| difference.step == Step::Gid), "{found:?}");
            line.pause("reported");
        })
        .needs(root)
        .check(|child| {
            child.inspect("reported", |child| {
                let uids: Vec<_> =
                    child.tasks().iter().map(|task| task.field("Uid").to_owned()).collect();
                assert_eq!(uids, ["65534 65534 65534 65534", "0 0 0 0"]);
            });
            assert_eq!(child.end(), Ending::Exited(0));
        }),
        Case::new("left_behind::group_id_0_of_another_thread_by_name", |line| {
            start_idlers(1);
            // On this thread alone.
            must(libc::SYS_setresgid, [7, 7, 7, 0, 0, 0]);
            let batch = Privileges::new().groups(&[]).keep_gid().uid(65534);
            batch.apply().unwrap();
            batch.verify().unwrap();
            line.pause("kept");
        })
        .needs(root)
        .check(|child| {
            child.inspect("kept", |child| child.assert_all("Uid", "65534 65534 65534 65534"));
            assert_eq!(child.end(), Ending::Exited(0));
        }),
        // The others get the flag although the calling thread has it already.
        Case::new("left_behind::keep_capabilities_of_the_caller", |line| {
            let other = Probe::start();
            let keeps = || prctl(libc::PR_GET_KEEPCAPS);
            raw::prctl(libc::PR_SET_KEEPCAPS, 1);
            let sets = CapabilitySets::permitted_and_effective(CapabilitySet::NET_BIND_SERVICE);
            let batch = Privileges::new().groups(&[]).gid(7).uid(7).capabilities(sets);
            batch.apply().unwrap();
            batch.verify().unwrap();
            line.pause("kept");
            assert_eq!((other.ask(keeps), keeps()), (0, 0));
        })
        .needs(root)
        .check(|child| {
            child.inspect("kept", |child| {
                child.assert_all("Uid", "7 7 7 7");
                child.assert_all("CapPrm", BIND);
                child.assert_all("CapEff", BIND);
            });
            assert_eq!(child.end(), Ending::Exited(0));
        }),
    ]
}
