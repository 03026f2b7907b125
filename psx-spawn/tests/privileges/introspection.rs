//! What psx reports about the threads' privileges (P10).

use psx::privileges::{Step, VerifyError};
use psx::{CapabilitySet, Privileges};
use psx_test_support::raw::must;
use psx_test_support::threads::{start_idlers, start_named};
use psx_test_support::{Case, procfs, root};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("introspection::threads_as_the_kernel_has_them", |_| {
            start_idlers(2);
            start_named("named", || ());
            let states = psx::threads().unwrap();
            let tasks = procfs::tasks(std::process::id());
            assert_eq!(states.len(), tasks.len());
            for task in tasks {
                let state = states.iter().find(|state| state.tid() == task.tid).unwrap();
                let ids = state.uid;
                let ids = [ids.real, ids.effective, ids.saved, ids.filesystem];
                assert_eq!(task.field("Uid"), ids.map(|id| id.to_string()).join(" "));
                let groups: Vec<_> = state.groups.iter().map(u32::to_string).collect();
                assert_eq!(task.field("Groups"), groups.join(" "));
                let hex = |set: CapabilitySet| format!("{:016x}", set.bits());
                assert_eq!(task.field("CapEff"), hex(state.capabilities.effective));
                assert_eq!(task.field("CapPrm"), hex(state.capabilities.permitted));
                assert_eq!(task.field("CapInh"), hex(state.capabilities.inheritable));
                assert_eq!(task.field("CapBnd"), hex(state.bounding));
                assert_eq!(task.field("CapAmb"), hex(state.ambient));
                assert!(!state.no_new_privs);
            }
            assert!(states.iter().any(|state| state.name() == "named"));
        })
        .prepare(|command| {
            std::os::unix::process::CommandExt::gid(command, 12);
        })
        .needs(root),
        Case::new("introspection::verify_finds_the_one_that_differs", |_| {
            start_idlers(2);
            let gid = Privileges::new().gid(7);
            let VerifyError::Different(all) = gid.verify().unwrap_err() else {
                panic!("readable");
            };
            assert_eq!(all.len(), 3);
            gid.apply().unwrap();
            gid.verify().unwrap();
            // On this thread alone.
            must(libc::SYS_setresgid, [8, 7, 7, 0, 0, 0]);
            let error = gid.verify().unwrap_err();
            println!("{error}");
            let VerifyError::Different(one) = error else {
                panic!("readable");
            };
            assert_eq!(one.len(), 1);
            assert_eq!(one[0].thread.tid(), std::process::id());
            assert_eq!(one[0].step, Step::Gid);
        })
        .needs(root),
    ]
}
