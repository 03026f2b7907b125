//! What a change of ids leaves behind, and what it takes away that is no privilege.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::mpsc;
use std::{env, fs, io, process};

use psx::privileges::{Precondition, SecureBits, Step};
use psx::{Broadcast, CapabilitySet, CapabilitySets, Coverage, Divergence, Privileges, thread};

use crate::kernel::{
    Held, Teller, hold_here, parent_death_signal, prctl, refuse_here, set_parent_death_signal,
    start_idlers, start_named,
};
use crate::preconditions::{expect, mask, with_groups};
use crate::support::{Case, Ending, Line, Supervised, procfs, root};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("ids::what_root_leaves_is_named", what_root_leaves_is_named)
            .prepare(|command| with_groups(command, &[4, 27]))
            .needs(root)
            .judge(|child| {
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
            line.show("aside");
            Privileges::new().effective_uid(0).apply().unwrap();
            line.show("back");
        })
        .prepare(|command| with_groups(command, &[4]))
        .needs(root)
        .judge(|child| {
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
            line.show("refused");
        })
        .prepare(|command| with_groups(command, &[0, 4, 27]))
        .needs(root)
        .judge(|child| {
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
            line.show("back");
        })
        .prepare(|command| with_groups(command, &[1000, 27]))
        .needs(root)
        .judge(|child| {
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
            line.show("left");
        })
        .prepare(|command| with_groups(command, &[0, 27]))
        .needs(root)
        .judge(|child| {
            child.inspect("left", |child| {
                child.assert_all("Gid", "1000 1000 1000 1000");
                child.assert_all("Groups", "27");
            });
            assert_eq!(child.end(), Ending::Exited(0));
        }),
        Case::new("ids::capabilities_kept_by_an_earlier_bit", |line| {
            let earlier = SecureBits::NO_SETUID_FIXUP.bits();
            // SAFETY: the call takes numbers.
            unsafe { libc::prctl(libc::PR_SET_SECUREBITS, earlier, 0, 0, 0) };
            start_idlers(2);
            let capabilities = mask(rustix::thread::capabilities(None).unwrap().permitted);
            let nobody = || Privileges::new().groups(&[]).gid(7).uid(7);
            expect(Step::Uid, &Precondition::CapabilitiesKept { capabilities }, &nobody());
            line.show("refused");
            nobody().capabilities(CapabilitySets::empty()).apply().unwrap();
            line.show("none");
        })
        .needs(root)
        .judge(|child| {
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
            nobody().keep_parent_death_signal().apply().unwrap();
            line.say(format_args!("second {}", process::id()));
            loop {
                thread::park();
            }
        })
        .needs(root)
        .judge(|child| {
            let second: u32 = child.hear("second").parse().unwrap();
            assert_eq!(procfs::tids(second).len(), 3);
            kill_parent(child);
            child.await_that(|_| has_ended(second));
        }),
        Case::new("ids::outlives_its_parent", |line| {
            if !is_second() {
                run_second_and_wait();
            }
            set_parent_death_signal(libc::SIGKILL);
            nobody().apply().unwrap();
            line.say(format_args!("second {}", process::id()));
            line.show("alive");
        })
        .needs(root)
        .judge(|child| {
            let second: u32 = child.hear("second").parse().unwrap();
            child.hear("alive");
            kill_parent(child);
            assert_eq!(child.end(), Ending::Killed(libc::SIGKILL));
            assert!(!has_ended(second));
        }),
        Case::new("ids::dumpability_is_lost", |line| {
            start_idlers(2);
            assert_eq!(prctl(libc::PR_GET_DUMPABLE), 1);
            nobody().apply().unwrap();
            line.show("changed");
        })
        .needs(undumpable)
        .judge(|child| {
            child.inspect("changed", |child| assert_eq!(owner(child), 0));
        }),
        Case::new("ids::dumpability_is_kept", |line| {
            start_idlers(2);
            let batch = nobody().keep_dumpable();
            let lenient = Broadcast::new().coverage(Coverage::Registered);
            let error = batch.apply_with(lenient).unwrap_err();
            assert!(error.to_string().contains("keep_dumpable"), "{error}");
            line.show("refused");
            batch.apply().unwrap();
            line.show("changed");
        })
        .needs(undumpable)
        .judge(|child| {
            child.inspect("refused", |child| child.assert_all("Uid", "0 0 0 0"));
            child.inspect("changed", |child| assert_eq!(owner(child), 65534));
        }),
        // What is given back is what the last thread has set before it was stopped.
        Case::new("ids::dumpability_set_while_the_round_waits", |line| {
            let (ready, is_ready) = mpsc::channel();
            thread::spawn(move || {
                let all = !0_u64;
                let mask = |how: i32| {
                    // SAFETY: the kernel reads eight bytes.
                    let set = unsafe {
                        libc::syscall(libc::SYS_rt_sigprocmask, how, &raw const all, 0, 8)
                    };
                    assert_eq!(set, 0);
                };
                mask(libc::SIG_BLOCK);
                ready.send(()).unwrap();
                // Until the round's signal is there: the batch has made its checks.
                loop {
                    let mut pending = 0_u64;
                    // SAFETY: the kernel writes eight bytes.
                    unsafe { libc::syscall(libc::SYS_rt_sigpending, &raw mut pending, 8) };
                    if pending & 1 << 32 != 0 {
                        break;
                    }
                    std::thread::yield_now();
                }
                // SAFETY: numbers only.
                assert_eq!(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) }, 0);
                mask(libc::SIG_UNBLOCK);
                loop {
                    thread::park();
                }
            });
            is_ready.recv().unwrap();
            assert_eq!(prctl(libc::PR_GET_DUMPABLE), 1);
            nobody().keep_dumpable().apply().unwrap();
            assert_eq!(prctl(libc::PR_GET_DUMPABLE), 0);
            line.show("changed");
        })
        .needs(undumpable)
        .judge(|child| {
            child.inspect("changed", |child| assert_eq!(owner(child), 0));
            assert_eq!(child.end(), Ending::Exited(0));
        }),
        // Not while one thread has changed and another has not.
        Case::new("ids::dumpability_is_kept_last", |line| {
            static LISTENER: AtomicI32 = AtomicI32::new(-1);
            start_named("late", || {
                LISTENER.store(hold_here(libc::SYS_setresuid), Ordering::Relaxed);
            });
            line.say(format_args!("listener {}", LISTENER.load(Ordering::Relaxed)));
            line.show("held");
            // A change of gid would make the process undumpable once more.
            let batch = Privileges::new().groups(&[]).keep_gid().uid(65534);
            batch.keep_dumpable().apply().unwrap();
            line.show("changed");
        })
        .needs(undumpable)
        .judge(|child| {
            let listener = child.hear("listener").parse().unwrap();
            let held = Held::of(child.pid(), listener);
            child.inspect("held", |_| ());
            held.look_then_let_go(|| {
                let uids: Vec<_> =
                    child.tasks().iter().map(|t| t.field("Uid").to_owned()).collect();
                assert_eq!(uids, ["65534 65534 65534 65534", "0 0 0 0"]);
                assert_eq!(owner(child), 0);
            });
            child.inspect("changed", |child| assert_eq!(owner(child), 65534));
            assert_eq!(child.end(), Ending::Exited(0));
        }),
        // A process of that user could write into the memory of a thread that is still root.
        Case::new("ids::dumpability_is_not_given_back_beside_root", |line| {
            start_named("root", || refuse_here(libc::SYS_setresuid));
            let lenient = Broadcast::new().divergence(Divergence::Report);
            let report = nobody().keep_dumpable().apply_with(lenient).unwrap();
            assert_eq!(report.divergent().len(), 1);
            line.show("changed");
        })
        .needs(undumpable)
        .judge(|child| {
            child.inspect("changed", |child| assert_eq!(owner(child), 0));
        }),
        Case::new("ids::beyond_the_limit_of_processes", |line| {
            // A uid that nothing else runs as.
            const CROWDED: u32 = 1_234_567;
            let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
            let exec = || Command::new("/proc/self/exe").exec().raw_os_error();
            let target = Teller::start(exec);
            start_idlers(2);
            // SAFETY: the kernel reads the limit.
            assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NPROC, &none) }, 0);
            Privileges::new().groups(&[]).gid(7).uid(CROWDED).apply().unwrap();
            line.show("changed");
            let again = |error: io::Error| assert_eq!(error.raw_os_error(), Some(libc::EAGAIN));
            again(thread::Builder::new().spawn(|| ()).unwrap_err());
            again(Command::new("/proc/self/exe").spawn().unwrap_err());
            // On a thread that has found the user beyond the limit when it changed.
            assert_eq!(target.tell(), Some(libc::EAGAIN));
        })
        .needs(root)
        .judge(|child| {
            child.inspect("changed", |child| {
                assert_eq!(child.tasks().len(), 4);
                child.assert_all("Uid", "1234567 1234567 1234567 1234567");
            });
            assert_eq!(child.end(), Ending::Exited(0));
        }),
    ]
}

fn nobody() -> Privileges {
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
    line.show("refused");
    new().keep_gid().keep_groups().uid(65534).apply().unwrap();
    line.show("kept");
}

/// Of each thread: one with a signal, one without, the caller with another.
fn parent_death_signals(_: &Line) {
    set_parent_death_signal(libc::SIGUSR1);
    let with = Teller::start(|| {
        if parent_death_signal() == 0 && env::var_os("PSX_TEST_SET").is_none() {
            // The first look.
            set_parent_death_signal(libc::SIGUSR2);
        }
        parent_death_signal()
    });
    let without = Teller::start(parent_death_signal);
    assert_eq!(with.tell(), libc::SIGUSR2);
    // SAFETY: the threads wait, and read no variable.
    unsafe { env::set_var("PSX_TEST_SET", "1") };
    let seen = || (parent_death_signal(), with.tell(), without.tell());
    Privileges::new().effective_gid(7).keep_parent_death_signal().apply().unwrap();
    assert_eq!(seen(), (libc::SIGUSR1, libc::SIGUSR2, 0));
    nobody().keep_parent_death_signal().apply().unwrap();
    assert_eq!(seen(), (libc::SIGUSR1, libc::SIGUSR2, 0));
    Privileges::new().effective_gid(65534).no_new_privs().apply().unwrap();
    assert_eq!(seen(), (libc::SIGUSR1, libc::SIGUSR2, 0), "no id has changed");
}

/// A case that takes two processes starts itself again, with the same line to the judge.
fn is_second() -> bool {
    env::var_os("PSX_TEST_SECOND").is_some()
}

fn run_second_and_wait() -> ! {
    let args: Vec<_> = env::args().skip(1).collect();
    let second = Command::new("/proc/self/exe").args(args).env("PSX_TEST_SECOND", "1").spawn();
    // Its parent is this thread, which lives until the judge ends the process.
    let ended = second.unwrap().wait();
    panic!("the second process has ended: {ended:?}");
}

/// Becomes user 1000, who starts a copy of this program that is set-user-ID-root.
fn run_set_user_id() -> ! {
    let copy = env::temp_dir().join(format!("psx-set-user-id-{}", process::id()));
    fs::copy("/proc/self/exe", &copy).unwrap();
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o4755)).unwrap();
    // SAFETY: numbers only, and no other thread yet.
    unsafe {
        assert_eq!(libc::setresgid(1000, 1000, 1000), 0);
        assert_eq!(libc::setresuid(1000, 1000, 1000), 0);
    }
    let error = Command::new(copy).args(env::args().skip(1)).env("PSX_TEST_SECOND", "1").exec();
    panic!("{error}");
}

fn kill_parent(child: &Supervised) {
    // SAFETY: the child has not been waited for.
    assert_eq!(unsafe { libc::kill(child.pid() as i32, libc::SIGKILL) }, 0);
}

/// Perhaps nobody waits for it.
fn has_ended(pid: u32) -> bool {
    procfs::tasks(pid).is_empty()
}

/// To whom the kernel gives the files in `/proc/PID`: to root where the process is not dumpable.
fn owner(child: &Supervised) -> u32 {
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
