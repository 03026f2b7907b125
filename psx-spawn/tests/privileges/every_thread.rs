//! What psx reports about the process covers every thread, registered or not, or is an error (P10).

use std::ffi::CStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use std::{fs, process, thread as std_thread};

use psx::privileges::{ApplyError, Step, ThreadKind, VerifyError};
use psx::{Broadcast, Coverage, Error, Privileges, thread};
use psx_test_support::landlock::{self, deny_reading};
use psx_test_support::process::{exit_now, exit_thread, fork, wait};
use psx_test_support::raw::must;
use psx_test_support::threads::{start_idlers, start_named, start_unregistered, tid};
use psx_test_support::{Case, Ending, Line, Probe, TempDir, procfs, root};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("every_thread::verify_judges_the_unregistered", unregistered_is_judged).check(
            |child| {
                let foreign: u32 = child.expect("foreign").parse().unwrap();
                child.inspect("applied", |child| {
                    for task in child.tasks() {
                        let expected = if task.tid == foreign { "0" } else { "1" };
                        assert_eq!(task.field("NoNewPrivs"), expected, "{}", task.name());
                    }
                });
                assert_eq!(child.end(), Ending::Exited(0));
            },
        ),
        Case::new("every_thread::nothing_is_confirmed_after_a_chroot", |_| {
            let step = applied();
            let _root = change_root();
            expect_unreadable(&step, "there is no /proc");
        })
        .needs(root),
        Case::new("every_thread::a_forged_proc_confirms_nothing", |_| {
            let step = applied();
            let status = fs::read_to_string("/proc/self/status").unwrap();
            let _root = change_root();
            let task = format!("/proc/self/task/{}", process::id());
            fs::create_dir_all(&task).unwrap();
            for file in ["/proc/self/status".into(), format!("{task}/status")] {
                fs::write(file, &status).unwrap();
            }
            expect_unreadable(&step, "not the kernel's");
            // This case has made the folder: the root has been changed.
            fs::remove_dir_all("/proc").unwrap();
        })
        .needs(root),
        Case::new("every_thread::nothing_is_confirmed_under_landlock", |_| {
            let step = applied();
            let ruleset = deny_reading(true);
            let flags = psx::privileges::LandlockFlags::NONE;
            Privileges::new().no_new_privs().landlock(ruleset, flags).apply().unwrap();
            expect_unreadable(&step, "Permission denied");
        })
        .needs(landlock::available),
        Case::new("every_thread::nothing_is_confirmed_by_another_namespaces_proc", |line| {
            let step = applied();
            mount_childs_proc(line);
            expect_unreadable(&step, "another pid namespace");
            // The count is read from the file that psx has opened before.
            assert_eq!(step.apply().unwrap().threads(), 3);
        })
        .needs(root)
        .check(|child| {
            child.expect("mounted");
            child.send("go");
            assert_eq!(child.end(), Ending::Exited(0));
        }),
        Case::new("every_thread::left_out_is_reported_or_an_error", |_| {
            let lenient = Broadcast::new().coverage(Coverage::Registered);
            start_idlers(1);
            let none = applied_with(lenient);
            assert!(none.left_out().unwrap().is_empty(), "{none:?}");
            let foreign = start_foreign();
            let one = applied_with(lenient);
            let left_out = one.left_out().unwrap();
            assert_eq!((left_out.len(), left_out[0].tid()), (1, foreign.tid));
            assert_eq!(left_out[0].name(), "foreign");
            let _root = change_root();
            let one = applied_with(lenient);
            let left_out = one.left_out().unwrap();
            assert!(!left_out.is_empty(), "{left_out}");
            assert_eq!((left_out.len(), left_out.unnamed()), (1, 1), "{left_out}");
            println!("{left_out}");
        })
        .needs(root),
        Case::new("every_thread::left_out_without_a_count_is_an_error", |_| {
            let _root = change_root();
            start_idlers(1);
            let report = applied_with(Broadcast::new().coverage(Coverage::Registered));
            assert_eq!(report.left_out().unwrap_err().raw(), libc::ENOENT);
        })
        .needs(root),
        Case::new("every_thread::left_out_are_more_than_was_prepared", |_| {
            let mut foreign: Vec<_> =
                (0..200).map(|_| start_unregistered("foreign", || ())).collect();
            let report = applied_with(Broadcast::new().coverage(Coverage::Registered));
            let mut left_out: Vec<_> =
                report.left_out().unwrap().iter().map(psx::NamedThread::tid).collect();
            left_out.sort_unstable();
            foreign.sort_unstable();
            assert_eq!(left_out, foreign);
        }),
        Case::new("every_thread::none_is_hidden_by_starts_and_ends", none_is_hidden),
        Case::new("every_thread::ids_are_the_namespaces_own", |line| {
            in_pid_namespace(line, ids_are_our_own);
        })
        .needs(root)
        .check(|child| {
            let init: u32 = child.expect("init").parse().unwrap();
            child.send("start");
            child.inspect("refused", |_| assert_all(init, "0"));
            child.inspect("applied", |_| assert_all(init, "1"));
            assert_eq!(child.end(), Ending::Exited(0));
        }),
        Case::new("every_thread::without_main_in_another_namespace", |line| {
            in_pid_namespace(line, without_main);
        })
        .needs(root)
        .check(|child| {
            let init: u32 = child.expect("init").parse().unwrap();
            child.send("start");
            child.expect("leaving");
            child.wait_until(|_| procfs::is_main_ended(init));
            child.send("go");
            child.inspect("applied", |_| assert_all(init, "1"));
            assert_eq!(child.end(), Ending::Exited(0));
        }),
    ]
}

/// A thread that is not registered, until it is asked to adopt itself.
struct Foreign {
    tid: u32,
    probe: Probe,
}

impl Foreign {
    fn adopt(&self) {
        self.probe.ask(|| thread::adopt().unwrap());
    }
}

fn start_foreign() -> Foreign {
    let probe = Probe::start_by(|body| {
        std_thread::Builder::new().name("foreign".into()).spawn(body).unwrap();
    });
    Foreign { tid: probe.ask(tid), probe }
}

/// Three threads that have made a step, which psx confirms.
fn applied() -> Privileges {
    let step = Privileges::new().no_new_privs();
    start_idlers(2);
    assert_eq!(step.apply().unwrap().threads(), 3);
    step.verify().unwrap();
    assert_eq!(psx::threads().unwrap().len(), 3);
    step
}

fn applied_with(broadcast: Broadcast) -> psx::Report {
    Privileges::new().no_new_privs().apply_with(broadcast).unwrap()
}

#[track_caller]
fn expect_unreadable(step: &Privileges, part: &str) {
    let VerifyError::Unreadable(error) = step.verify().unwrap_err() else { panic!("unreadable") };
    println!("{error}");
    assert!(error.to_string().contains(part), "{error}");
    assert!(psx::threads().is_err());
}

fn unregistered_is_judged(line: &Line) {
    start_idlers(2);
    let foreign = start_foreign();
    line.send(format_args!("foreign {}", foreign.tid));
    let step = Privileges::new().no_new_privs();
    let report = step.apply_with(Broadcast::new().coverage(Coverage::Registered)).unwrap();
    assert_eq!(report.threads(), 3);
    line.pause("applied");

    let VerifyError::Different(different) = step.verify().unwrap_err() else { panic!("readable") };
    let [one] = &different[..] else { panic!("{different:?}") };
    assert_eq!((one.thread.tid(), one.kind), (foreign.tid, ThreadKind::Unregistered));
    assert_eq!(one.step, Step::NoNewPrivs);
    assert!(one.to_string().contains("which is not registered"), "{one}");
    let text = step.verify().unwrap_err().to_string();
    assert!(text.contains("adopt()") && !text.contains("changed alone"), "{text}");

    let kind_of = |tid| {
        let threads = psx::threads().unwrap();
        assert_eq!(threads.len(), 4);
        threads.iter().find(|state| state.tid() == tid).unwrap().kind
    };
    assert_eq!(kind_of(foreign.tid), ThreadKind::Unregistered);
    foreign.adopt();
    assert_eq!(kind_of(foreign.tid), ThreadKind::Registered);
    step.apply().unwrap();
    step.verify().unwrap();
}

/// The kernel ends a listing early when the thread that it has come to ends; those that were started after
/// it must be reported nevertheless.
fn none_is_hidden(_: &Line) {
    let mut stay: Vec<Foreign> = Vec::new();
    for turn in 0..60 {
        let go = Arc::new(AtomicBool::new(false));
        let leavers: Vec<_> = (0..16)
            .map(|_| {
                let go = Arc::clone(&go);
                std_thread::spawn(move || {
                    while !go.load(Ordering::Relaxed) {
                        std_thread::yield_now();
                    }
                })
            })
            .collect();
        stay.push(start_foreign());
        go.store(true, Ordering::Relaxed);
        let threads = psx::threads().unwrap();
        for Foreign { tid, .. } in &stay {
            assert!(threads.iter().any(|state| state.tid() == *tid), "{tid} in turn {turn}");
        }
        leavers.into_iter().for_each(|leaver| leaver.join().unwrap());
    }
}

/// Makes an empty folder the root; its drop removes it.
fn change_root() -> TempDir {
    let root = TempDir::new("psx-root");
    std::os::unix::fs::chroot(root.path()).unwrap();
    std::env::set_current_dir("/").unwrap();
    root
}

/// Mounts the /proc of a child's new pid namespace over ours, in another mount namespace.
fn mount_childs_proc(line: &Line) {
    unshare(libc::CLONE_NEWNS | libc::CLONE_NEWPID);
    fork(|| {
        let mount = |what: &CStr, on: &CStr, flags: libc::c_ulong| {
            let [what, on] = [what, on].map(|text| text.as_ptr().addr());
            must(libc::SYS_mount, [what, on, c"proc".as_ptr().addr(), flags as usize, 0, 0]);
        };
        mount(c"none", c"/", libc::MS_REC | libc::MS_PRIVATE);
        mount(c"proc", c"/proc", 0);
        line.send("mounted");
        loop {
            // SAFETY: waits.
            unsafe { libc::pause() };
        }
    });
    // The line is the child's as well.
    line.expect("go");
    let status = fs::read_to_string("/proc/1/status").unwrap();
    assert!(
        status.contains(
            "
NSpid:	1
"
        ),
        "the child's /proc: {status}"
    );
    assert!(fs::metadata("/proc/self").is_err());
}

/// Runs `body` as the first process of a pid namespace that has its parent's /proc.
fn in_pid_namespace(line: &Line, body: fn(&Line)) {
    unshare(libc::CLONE_NEWPID);
    let init = fork(|| {
        assert_eq!(process::id(), 1);
        line.expect("start");
        body(line);
        0
    });
    line.send(format_args!("init {init}"));
    let status = wait(init);
    assert!(status.success(), "the namespace's first process: {status}");
}

fn unshare(flags: libc::c_int) {
    must(libc::SYS_unshare, [flags as usize, 0, 0, 0, 0, 0]);
}

fn ids_are_our_own(line: &Line) {
    let named = |name| (start_named(name, || ()), name.to_owned());
    let mut expected = vec![named("one"), named("two")];
    let foreign = start_foreign();
    expected.extend([
        (1, fs::read_to_string("/proc/self/comm").unwrap().trim().to_owned()),
        (foreign.tid, "foreign".to_owned()),
    ]);
    let mut listed: Vec<_> =
        psx::threads().unwrap().iter().map(|s| (s.tid(), s.name().to_owned())).collect();
    listed.sort();
    expected.sort();
    assert_eq!(listed, expected);

    let step = Privileges::new().no_new_privs();
    let refused = step.apply_with(Broadcast::new().timeout(Duration::from_secs(30)));
    let ApplyError::Broadcast(Error::Uncovered(missed)) = refused.unwrap_err() else {
        panic!("Uncovered")
    };
    assert_eq!((missed.len(), missed[0].tid(), missed[0].name()), (1, foreign.tid, "foreign"));
    line.pause("refused");
    foreign.adopt();
    step.apply().unwrap();
    step.verify().unwrap();
    line.pause("applied");
}

fn without_main(line: &Line) {
    let ours = Line::of_child();
    thread::spawn(move || {
        ours.expect("go");
        let step = Privileges::new().no_new_privs();
        assert_eq!(step.apply().unwrap().threads(), 1);
        step.verify().unwrap();
        let threads = psx::threads().unwrap();
        assert_eq!((threads.len(), threads[0].tid()), (1, tid()));
        ours.pause("applied");
        let foreign = start_foreign();
        let refused = step.apply_with(Broadcast::new().timeout(Duration::from_secs(30)));
        let ApplyError::Broadcast(Error::Uncovered(missed)) = refused.unwrap_err() else {
            panic!("Uncovered")
        };
        assert_eq!((missed.len(), missed[0].tid()), (1, foreign.tid));
        exit_now(0)
    });
    line.send("leaving");
    exit_thread()
}

#[track_caller]
fn assert_all(pid: u32, no_new_privs: &str) {
    assert!(!procfs::tasks(pid).is_empty());
    procfs::assert_all(pid, "NoNewPrivs", no_new_privs);
}
