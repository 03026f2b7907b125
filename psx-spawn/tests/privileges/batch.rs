//! A batch takes one stop, and every thread makes the same steps (P3, P8).

use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;

use psx::privileges::{ApplyError, Cause, SecureBits, Step};
use psx::{Broadcast, CapabilitySet, CapabilitySets, Divergence, Errno, Error, Privileges, thread};
use psx_test_support::seccomp::refuse_here;
use psx_test_support::threads::{start_idlers, start_named, start_unregistered, tid};
use psx_test_support::{Case, Ending, Line, Probe, procfs, root};

use crate::kernel::{prctl, refuse_prctl_here};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("batch::six_steps_take_one_stop", six_steps).needs(root).check(|child| {
            let sleeper = child.expect("sleeper").parse().unwrap();
            for _ in 0..8 {
                child.inspect("settle", |child| {
                    child.wait_until(|child| sleeps(child.pid(), sleeper));
                });
            }
            assert_eq!(child.end(), Ending::Exited(0));
        }),
        Case::new("batch::fourth_of_six_fails", fourth_fails).needs(root).check(|child| {
            child.inspect("failed", |child| {
                assert_eq!(child.tasks().len(), 5);
                // Step 1 is checked by the threads themselves. Steps 2 and 3:
                child.assert_all("CapBnd", "0000000000000400");
                child.assert_all("Groups", "7");
                // Steps 4 to 6:
                child.assert_all("Gid", "0 0 0 0");
                child.assert_all("Uid", "0 0 0 0");
                child.assert_all("NoNewPrivs", "0");
            });
            assert_eq!(child.end(), Ending::Exited(0));
        }),
        Case::new("batch::first_step_fails", |line| {
            start_idlers(3);
            refuse_here(libc::SYS_setgroups);
            let error = Privileges::new().groups(&[7]).gid(7).apply().unwrap_err();
            let text = error.to_string();
            let ApplyError::Step(error) = error else {
                panic!("{error:?}");
            };
            assert_eq!(error.failed(), Step::Groups);
            assert_eq!(error.completed(), []);
            assert!(error.nothing_changed() && !error.is_partial());
            assert!(text.starts_with("nothing changed: "), "{text}");
            line.pause("failed");
        })
        .needs(root)
        .check(|child| {
            child.inspect("failed", |child| {
                child.assert_all("Groups", "");
                child.assert_all("Gid", "0 0 0 0");
            });
        })
        .prepare(|command| {
            std::os::unix::process::CommandExt::gid(command, 0);
        }),
        Case::new("batch::a_part_of_the_first_step", |line| {
            start_idlers(3);
            refuse_prctl_here(&[libc::PR_CAPBSET_DROP as u32, 5]);
            let start = Privileges::new;
            for (batch, made, text_begins) in [
                (start(), &[][..], "every thread completed only a part of bounding_set: "),
                (
                    start().secure_bits(SecureBits::NO_ROOT),
                    &[Step::SecureBits][..],
                    "every thread completed only secure_bits, a part of bounding_set: ",
                ),
            ] {
                let error = batch.bounding_set(CapabilitySet::empty()).apply().unwrap_err();
                let text = error.to_string();
                let ApplyError::Step(error) = error else {
                    panic!("{error:?}");
                };
                assert_eq!((error.failed(), error.completed()), (Step::BoundingSet, made));
                assert!(error.is_partial() && !error.nothing_changed());
                assert!(text.starts_with(text_begins), "{text}");
                assert!(text.contains("end the process"), "{text}");
            }
            line.pause("failed");
        })
        .needs(root)
        .check(|child| {
            child.inspect("failed", |child| {
                assert_eq!(child.tasks().len(), 4);
                for task in child.tasks() {
                    // The capabilities 0 to 4 are gone, 5 is not.
                    assert_eq!(task.mask("CapBnd") & 0x3f, 0x20);
                }
            });
            assert_eq!(child.end(), Ending::Exited(0));
        }),
        Case::new("batch::another_threads_failure_ends_the_process", |line| {
            line.send(format_args!("refuses {}", start_one_that_refuses()));
            let _ = Privileges::new().groups(&[]).gid(7).apply();
        })
        .needs(root)
        .check(|child| {
            let named = format!("thread {} ", child.expect("refuses"));
            assert_eq!(child.end(), Ending::Killed(libc::SIGABRT));
            assert!(child.output().contains(&named), "{}", child.output());
            let whose = "psx: fatal: psx::Privileges returned 2 on the calling thread";
            assert!(child.output().contains(whose), "{}", child.output());
        }),
        Case::new("batch::another_threads_failure_is_reported", |line| {
            let refuses = start_one_that_refuses();
            let lenient = Broadcast::new().divergence(Divergence::Report);
            let batch = Privileges::new().groups(&[]).gid(7);
            let report = batch.apply_with(lenient).unwrap();
            assert_eq!(report.divergent().len(), 1);
            assert_eq!(report.divergent()[0].thread().tid(), refuses);
            batch.verify().unwrap_err();
            line.pause("reported");
        })
        .needs(root)
        .check(|child| {
            child.inspect("reported", |child| {
                for task in child.tasks() {
                    let gid = if task.name() == "refuses" { 0 } else { 7 };
                    assert_eq!(task.field("Gid"), format!("{gid} {gid} {gid} {gid}"));
                }
            });
        }),
        Case::new("batch::a_foreign_thread_stops_it", |line| {
            start_unregistered("foreign", || ());
            let strict = Broadcast::new().timeout(std::time::Duration::from_secs(30));
            let error = Privileges::new().no_new_privs().apply_with(strict).unwrap_err();
            assert!(matches!(error, ApplyError::Broadcast(Error::Uncovered(_))), "{error:?}");
            assert!(error.to_string().contains("interpose"), "{error}");
            line.pause("refused");
        })
        .needs(|| {
            let all_are_registered = cfg!(feature = "interpose");
            if all_are_registered {
                Err("`interpose` registers std's threads".into())
            } else {
                Ok(())
            }
        })
        .check(|child| child.inspect("refused", |child| child.assert_all("NoNewPrivs", "0"))),
    ]
}

/// How often the sleeper was interrupted: `ppoll` is never resumed after a signal.
static STOPS: AtomicU32 = AtomicU32::new(0);

fn six_steps(line: &Line) {
    let (send, ids) = mpsc::channel();
    thread::spawn(move || {
        send.send(tid()).unwrap();
        loop {
            // SAFETY: no descriptors, no timeout, no mask.
            unsafe { libc::ppoll(ptr::null_mut(), 0, ptr::null(), ptr::null()) };
            STOPS.fetch_add(1, Ordering::SeqCst);
        }
    });
    line.send(format_args!("sleeper {}", ids.recv().unwrap()));
    let stops_of = |batch: Privileges| {
        line.pause("settle");
        let before = STOPS.load(Ordering::SeqCst);
        assert_eq!(batch.apply().unwrap().attempts(), 1);
        line.pause("settle");
        STOPS.load(Ordering::SeqCst) - before
    };
    assert_eq!(stops_of(Privileges::new().groups(&[1])), 1);
    let six = Privileges::new()
        .bounding_set(CapabilitySet::empty())
        .groups(&[])
        .gid(65534)
        .uid(65534)
        .capabilities(CapabilitySets::empty())
        .no_new_privs();
    assert_eq!(stops_of(six), 1);
    // Two stops are counted as two.
    let again = || Privileges::new().no_new_privs();
    assert_eq!(stops_of(again()) + stops_of(again()), 2);
}

/// Whether the thread is in `ppoll`, asleep.
fn sleeps(pid: u32, tid: u32) -> bool {
    procfs::blocked_in(pid, tid)
        .is_some_and(|call| call.starts_with(&format!("{} ", libc::SYS_ppoll)))
}

fn fourth_fails(line: &Line) {
    start_idlers(3);
    let other = Probe::start();
    let bits = || prctl(libc::PR_GET_SECUREBITS);
    // Not on the threads that run already, but the caller comes first.
    refuse_here(libc::SYS_setresgid);
    let error = Privileges::new()
        .no_new_privs()
        .uid(65534)
        .gid(65534)
        .groups(&[7])
        .bounding_set(CapabilitySet::NET_BIND_SERVICE)
        .secure_bits(SecureBits::NO_ROOT)
        .apply()
        .unwrap_err();
    println!("{error}");
    let ApplyError::Step(error) = error else {
        panic!("{error:?}");
    };
    assert_eq!(error.failed(), Step::Gid);
    assert_eq!(*error.cause(), Cause::Kernel(Errno::from_raw(libc::EPERM)));
    assert_eq!(error.completed(), [Step::SecureBits, Step::BoundingSet, Step::Groups]);
    let no_root = SecureBits::NO_ROOT.bits() as i32;
    assert_eq!((bits(), other.ask(bits)), (no_root, no_root));
    line.pause("failed");
}

fn start_one_that_refuses() -> u32 {
    start_idlers(2);
    start_named("refuses", || refuse_here(libc::SYS_setresgid))
}
