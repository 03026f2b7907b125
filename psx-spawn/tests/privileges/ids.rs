//! What a change of ids leaves, and what it takes away besides privileges (P10).

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::mpsc;
use std::{env, fs, io, process};

use psx::privileges::{Precondition, SecureBits, Step};
use psx::{Broadcast, CapabilitySet, CapabilitySets, Coverage, Divergence, Privileges, thread};
use psx_test_support::process::with_groups;
use psx_test_support::raw::{must, set_limit};
use psx_test_support::seccomp::{Listener, hold_here, refuse_here};
use psx_test_support::signal::{is_stop_pending, set_mask};
use psx_test_support::threads::{idle, start_idlers, start_named};
use psx_test_support::{Case, Child, Ending, Line, Probe, procfs, raw, root, signal};

use crate::kernel::{parent_death_signal, prctl, set_parent_death_signal};
use crate::preconditions::{expect, mask};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("ids::what_root_leaves_is_named", what_root_leaves_is_named)
            .prepare(|command| with_groups(command, &[4, 27]))
            .needs(root)
            .check(|child| {
                child.inspect("refused", |child| {
                    child.assert_all("Uid", "0 0 0 0");
                    child.assert_all("Gid", "0 0 0 0");
                    child.assert_all("Groups", "4 27");
                });
                child.inspect("kept", |child| {
                    child.assert_all("Uid", "65534 65534 65534 65534");
                    child.assert_all("Gid", "0 0 0 0");
                    child.assert_all("Groups", "4 27");
                });
                assert_eq!(child.end(), Ending::Exited(0));
            }),
        Case::new("ids::root_for_a_while", |line| {
            start_idlers(2);
            Privileges::new().effective_uid(1000).apply().unwrap();
            line.pause("aside");
            Privileges::new().effective_uid(0).apply().unwrap();
            line.pause("back");
        })
        .prepare(|command| with_groups(command, &[4]))
        .needs(root)
        .check(|child| {
            child.inspect("aside", |child| {
                child.assert_all("Uid", "0 1000 0 1000");
                child.assert_all("CapEff", "0000000000000000");
            });
            child.inspect("back", |child| child.assert_all("Uid", "0 0 0 0"));
            assert_eq!(child.end(), Ending::Exited(0));
        }),
        // In two steps, root's groups stay as little as in one.
        Case::new("ids::groups_of_root_that_has_set_its_real_uid", |line| {
            start_idlers(2);
            let first = Privileges::new().gid(1000).real_uid(1000).effective_uid(1000);
            first.apply().unwrap();
            let groups = vec![0, 4, 27];
            let second = Privileges::new().uid(1000);
            expect(Step::Uid, &Precondition::GroupsKept { groups }, &second);
            line.pause("refused");
        })
        .prepare(|command| with_groups(command, &[0, 4, 27]))
        .needs(root)
        .check(|child| {
            child.inspect("refused", |child| child.assert_all("Uid", "1000 1000 0 1000"));
            assert_eq!(child.end(), Ending::Exited(0));
        }),
        // A set-user-ID-root program that user 1000 has started.
        Case::new("ids::back_to_the_real_user", |line| {
            if !is_second() {
                run_set_user_id();
            }
            fs::remove_file(env::current_exe().unwrap()).unwrap();
            start_idlers(2);
            let groups = vec![27, 1000];
            let other = Privileges::new().uid(65534);
            expect(Step::Uid, &Precondition::GroupsKept { groups }, &other);
            Privileges::new().uid(1000).apply().unwrap();
            line.pause("back");
        })
        .prepare(|command| with_groups(command, &[1000, 27]))
        .needs(root)
        .check(|child| {
            child.inspect("back", |child| {
                child.assert_all("Uid", "1000 1000 1000 1000");
                child.assert_all("Groups", "27 1000");
            });
            assert_eq!(child.end(), Ending::Exited(0));
        }),
        // A process with CAP_SETGID that is not root.
        Case::new("ids::group_0_is_named", |line| {
            let sets = CapabilitySets::permitted_and_effective(CapabilitySet::SETGID);
            let user = Privileges::new().keep_groups().keep_gid().uid(1000).capabilities(sets);
            user.apply().unwrap();
            start_idlers(2);
            let groups = vec![0, 27];
            let alone = Privileges::new().gid(1000);
            expect(Step::Gid, &Precondition::GroupsKept { groups }, &alone);
            Privileges::new().gid(1000).groups(&[27]).apply().unwrap();
            line.pause("left");
        })
        .prepare(|command| with_groups(command, &[0, 27]))
        .needs(root)
        .check(|child| {
            child.inspect("left", |child| {
                child.assert_all("Gid", "1000 1000 1000 1000");
                child.assert_all("Groups", "27");
            });
            assert_eq!(child.end(), Ending::Exited(0));
        }),
        Case::new("ids::capabilities_kept_by_an_earlier_bit", |line| {
            let earlier = SecureBits::NO_SETUID_FIXUP.bits();
            raw::prctl(libc::PR_SET_SECUREBITS, earlier as usize);
            start_idlers(2);
            let capabilities = mask(rustix::thread::capabilities(None).unwrap().permitted);
            let drop = || Privileges::new().groups(&[]).gid(7).uid(7);
            expect(Step::Uid, &Precondition::CapabilitiesKept { capabilities }, &drop());
            line.pause("refused");
            drop().capabilities(CapabilitySets::empty()).apply().unwrap();
            line.pause("none");
        })
        .needs(root)
        .check(|child| {
            child.inspect("refused", |child| child.assert_all("Uid", "0 0 0 0"));
            child.inspect("none", |child| child.assert_all("CapPrm", "0000000000000000"));
            assert_eq!(child.end(), Ending::Exited(0));
        }),
        Case::new("ids::parent_death_signal_of_each_thread", parent_death_signals).needs(root),
        Case::new("ids::dies_with_its_parent", |line| {
            if !is_second() {
                run_second_and_wait();
            }
            set_parent_death_signal(libc::SIGKILL);
            start_idlers(2);
            becomes_65534().keep_parent_death_signal().apply().unwrap();
            line.send(format_args!("second {}", process::id()));
            idle()
        })
        .needs(root)
        .check(|child| {
            let second: u32 = child.expect("second").parse().unwrap();
            assert_eq!(procfs::tids(second).len(), 3);
            kill_parent(child);
            child.wait_until(|_| has_ended(second));
        }),
        Case::new("ids::outlives_its_parent", |line| {
            if !is_second() {
                run_second_and_wait();
            }
            set_parent_death_signal(libc::SIGKILL);
            becomes_65534().apply().unwrap();
            line.send(format_args!("second {}", process::id()));
            line.pause("alive");
        })
        .needs(root)
        .check(|child| {
            let second: u32 = child.expect("second").parse().unwrap();
            child.expect("alive");
            kill_parent(child);
            assert_eq!(child.end(), Ending::Killed(libc::SIGKILL));
            assert!(!has_ended(second));
        }),
        Case::new("ids::dumpability_is_lost", |line| {
            start_idlers(2);
            assert_eq!(prctl(libc::PR_GET_DUMPABLE), 1);
            becomes_65534().apply().unwrap();
            line.pause("changed");
        })
        .needs(undumpable)
        .check(|child| {
            child.inspect("changed", |child| assert_eq!(owner(child), 0));
        }),
        Case::new("ids::dumpability_is_kept", |line| {
            start_idlers(2);
            let batch = becomes_65534().keep_dumpable();
            let lenient = Broadcast::new().coverage(Coverage::Registered);
            let error = batch.apply_with(lenient).unwrap_err();
            assert!(error.to_string().contains("keep_dumpable"), "{error}");
            line.pause("refused");
            batch.apply().unwrap();
            line.pause("changed");
        })
        .needs(undumpable)
        .check(|child| {
            child.inspect("refused", |child| child.assert_all("Uid", "0 0 0 0"));
            child.inspect("changed", |child| assert_eq!(owner(child), 65534));
        }),
        // psx restores what the last thread has set before it was stopped.
        Case::new("ids::dumpability_set_while_the_round_waits", |line| {
            let (ready, is_ready) = mpsc::channel();
            thread::spawn(move || {
                set_mask(!0);
                ready.send(()).unwrap();
                // When the round's signal is pending, the batch has made its checks.
                while !is_stop_pending() {
                    thread::yield_now();
                }
                raw::prctl(libc::PR_SET_DUMPABLE, 0);
                set_mask(0);
                idle()
            });
            is_ready.recv().unwrap();
            assert_eq!(prctl(libc::PR_GET_DUMPABLE), 1);
            becomes_65534().keep_dumpable().apply().unwrap();
            assert_eq!(prctl(libc::PR_GET_DUMPABLE), 0);
            line.pause("changed");
        })
        .needs(undumpable)
        .check(|child| {
            child.inspect("changed", |child| assert_eq!(owner(child), 0));
            assert_eq!(child.end(), Ending::Exited(0));
        }),
        // Not between the first thread's change and the last one's.
        Case::new("ids::dumpability_is_kept_last", |line| {
            static LISTENER: AtomicI32 = AtomicI32::new(-1);
            start_named("late", || {
                LISTENER.store(hold_here(libc::SYS_setresuid), Ordering::Relaxed);
            });
            line.send(format_args!("listener {}", LISTENER.load(Ordering::Relaxed)));
            line.pause("held");
            // A change of gid would make the process undumpable once more.
            let batch = Privileges::new().groups(&[]).keep_gid().uid(65534);
            batch.keep_dumpable().apply().unwrap();
            line.pause("changed");
        })
        .needs(undumpable)
        .check(|child| {
            let listener = child.expect("listener").parse().unwrap();
            let listener = Listener::of(child.pid(), listener);
            child.inspect("held", |_| ());
            listener.look_then_resume(|| {
                let uids: Vec<_> =
                    child.tasks().iter().map(|t| t.field("Uid").to_owned()).collect();
                assert_eq!(uids, ["65534 65534 65534 65534", "0 0 0 0"]);
                assert_eq!(owner(child), 0);
            });
            child.inspect("changed", |child| assert_eq!(owner(child), 65534));
            assert_eq!(child.end(), Ending::Exited(0));
        }),
        // A process of that user could write into the memory of a thread that is still root.
        Case::new("ids::dumpability_is_not_restored_beside_root", |line| {
            start_named("root", || refuse_here(libc::SYS_setresuid));
            let lenient = Broadcast::new().divergence(Divergence::Report);
            let report = becomes_65534().keep_dumpable().apply_with(lenient).unwrap();
            assert_eq!(report.divergent().len(), 1);
            line.pause("changed");
        })
        .needs(undumpable)
        .check(|child| {
            child.inspect("changed", |child| assert_eq!(owner(child), 0));
        }),
        Case::new("ids::beyond_the_limit_of_processes", |line| {
            // A uid that no other process has.
            const CROWDED: u32 = 1_234_567;
            let exec = || Command::new("/proc/self/exe").exec().raw_os_error();
            let target = Probe::start();
            start_idlers(2);
            set_limit(libc::RLIMIT_NPROC, [0, 0]);
            Privileges::new().groups(&[]).gid(7).uid(CROWDED).apply().unwrap();
            line.pause("changed");
            let again = |error: io::Error| assert_eq!(error.raw_os_error(), Some(libc::EAGAIN));
            again(thread::Builder::new().spawn(|| ()).unwrap_err());
            again(Command::new("/proc/self/exe").spawn().unwrap_err());
            // On a thread whose user was beyond the limit when it changed.
            assert_eq!(target.ask(exec), Some(libc::EAGAIN));
        })
        .needs(root)
        .check(|child| {
            child.inspect("changed", |child| {
                assert_eq!(child.tasks().len(), 4);
                child.assert_all("Uid", "1234567 1234567 1234567 1234567");
            });
            assert_eq!(child.end(), Ending::Exited(0));
        }),
    ]
}

fn becomes_65534() -> Privileges {
    Privileges::new().groups(&[]).gid(65534).uid(65534)
}

fn what_root_leaves_is_named(line: &Line) {
    start_idlers(2);
    let new = Privileges::new;
    let gid = |gids| Precondition::GidKept { gids };
    let groups = || Precondition::GroupsKept { groups: vec![4, 27] };
    for (unmet, batch) in [
        (gid([0; 3]), new().uid(65534)),
        (gid([0; 3]), new().groups(&[]).uid(65534)),
        (gid([0; 3]), new().real_uid(1).effective_uid(2).saved_uid(3).keep_groups()),
        (gid([0, 7, 0]), new().groups(&[]).effective_gid(7).uid(65534)),
        (groups(), new().gid(65534).uid(65534)),
        (groups(), new().gid(65534).uid(65534).capabilities(CapabilitySets::empty())),
        (groups(), new().keep_gid().uid(65534)),
    ] {
        expect(Step::Uid, &unmet, &batch);
    }
    line.pause("refused");
    new().keep_gid().keep_groups().uid(65534).apply().unwrap();
    line.pause("kept");
}

/// One thread with a signal, one without, the caller with another.
fn parent_death_signals(_: &Line) {
    set_parent_death_signal(libc::SIGUSR1);
    let [with, without] = [Probe::start(), Probe::start()];
    with.ask(|| set_parent_death_signal(libc::SIGUSR2));
    let of = |probe: &Probe| probe.ask(parent_death_signal);
    let seen = || (parent_death_signal(), of(&with), of(&without));
    Privileges::new().effective_gid(7).keep_parent_death_signal().apply().unwrap();
    assert_eq!(seen(), (libc::SIGUSR1, libc::SIGUSR2, 0));
    becomes_65534().keep_parent_death_signal().apply().unwrap();
    assert_eq!(seen(), (libc::SIGUSR1, libc::SIGUSR2, 0));
    Privileges::new().effective_gid(65534).no_new_privs().apply().unwrap();
    assert_eq!(seen(), (libc::SIGUSR1, libc::SIGUSR2, 0), "no id has changed");
}

/// A case that needs two processes starts itself again, with the same line to the test.
fn is_second() -> bool {
    env::var_os("PSX_TEST_SECOND").is_some()
}

fn run_second_and_wait() -> ! {
    let args: Vec<_> = env::args().skip(1).collect();
    let second = Command::new("/proc/self/exe").args(args).env("PSX_TEST_SECOND", "1").spawn();
    // Its parent is this thread, which lives until the test kills the process.
    let ended = second.unwrap().wait();
    panic!("the second process has ended: {ended:?}");
}

/// Becomes user 1000, and executes a copy of this program that is set-user-ID-root.
fn run_set_user_id() -> ! {
    let copy = env::temp_dir().join(format!("psx-set-user-id-{}", process::id()));
    fs::copy("/proc/self/exe", &copy).unwrap();
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o4755)).unwrap();
    for nr in [libc::SYS_setresgid, libc::SYS_setresuid] {
        must(nr, [1000, 1000, 1000, 0, 0, 0]);
    }
    let error = Command::new(copy).args(env::args().skip(1)).env("PSX_TEST_SECOND", "1").exec();
    panic!("{error}");
}

fn kill_parent(child: &Child) {
    signal::send(child.pid(), None, libc::SIGKILL).unwrap();
}

/// It may still be a zombie.
fn has_ended(pid: u32) -> bool {
    procfs::tasks(pid).is_empty()
}

/// The owner of the files in `/proc/PID`: root where the process is not dumpable.
fn owner(child: &Child) -> u32 {
    fs::metadata(format!("/proc/{}/maps", child.pid())).unwrap().uid()
}

/// For `Case::needs`: a change of uid makes a process undumpable.
fn undumpable() -> Result<(), String> {
    root()?;
    match fs::read_to_string("/proc/sys/fs/suid_dumpable").as_deref().map(str::trim) {
        Ok("0" | "2") => Ok(()),
        _ => Err("needs /proc/sys/fs/suid_dumpable of 0 or 2".into()),
    }
}
