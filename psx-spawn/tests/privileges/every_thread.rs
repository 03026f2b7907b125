//! What psx says of the process covers every thread, registered or not, or is an error (P10).

use std::ffi::{CString, OsStr};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;
use std::{fs, io, process, thread as std_thread};

use psx::privileges::{ApplyError, Step, ThreadKind, VerifyError};
use psx::{Broadcast, Coverage, Error, Privileges, thread};

use crate::kernel::{landlock, ruleset, start_idlers};
use crate::support::{Case, Ending, Line, procfs, root};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("every_thread::verify_judges_the_unregistered", unregistered_is_judged).judge(
            |child| {
                let foreign: u32 = child.hear("foreign").parse().unwrap();
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
            // The folder of this case's own making: the root has been changed.
            fs::remove_dir_all("/proc").unwrap();
        })
        .needs(root),
        Case::new("every_thread::nothing_is_confirmed_under_landlock", |_| {
            let step = applied();
            let ruleset = ruleset(true);
            let flags = psx::privileges::LandlockFlags::NONE;
            Privileges::new().no_new_privs().landlock(ruleset, flags).apply().unwrap();
            expect_unreadable(&step, "Permission denied");
        })
        .needs(landlock),
        Case::new("every_thread::nothing_is_confirmed_by_another_namespaces_proc", |line| {
            let step = applied();
            mount_childs_proc(line);
            expect_unreadable(&step, "another pid namespace");
            // The count is read from the file of before.
            assert_eq!(step.apply().unwrap().threads(), 3);
        })
        .needs(root)
        .judge(|child| {
            child.hear("mounted");
            child.say("go");
            assert_eq!(child.end(), Ending::Exited(0));
        }),
        Case::new("every_thread::left_out_is_told_or_an_error", |_| {
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
        Case::new("every_thread::left_out_are_more_than_was_laid_out", |_| {
            let mut foreign: Vec<_> = (0..200).map(|_| start_foreign().tid).collect();
            let report = applied_with(Broadcast::new().coverage(Coverage::Registered));
            let mut left_out: Vec<_> =
                report.left_out().unwrap().iter().map(psx::NamedThread::tid).collect();
            left_out.sort_unstable();
            foreign.sort_unstable();
            assert_eq!(left_out, foreign);
        }),
        Case::new("every_thread::none_is_hidden_by_births_and_deaths", none_is_hidden),
        Case::new("every_thread::ids_are_the_namespaces_own", |line| {
            in_pid_namespace(line, ids_are_our_own);
        })
        .needs(root)
        .judge(|child| {
            let init: u32 = child.hear("init").parse().unwrap();
            child.say("start");
            child.inspect("refused", |_| assert_all(init, "0"));
            child.inspect("applied", |_| assert_all(init, "1"));
            assert_eq!(child.end(), Ending::Exited(0));
        }),
        Case::new("every_thread::without_main_in_another_namespace", |line| {
            in_pid_namespace(line, without_main);
        })
        .needs(root)
        .judge(|child| {
            let init: u32 = child.hear("init").parse().unwrap();
            child.say("start");
            child.hear("leaving");
            child.await_that(|_| is_zombie(init));
            child.say("go");
            child.inspect("applied", |_| assert_all(init, "1"));
            assert_eq!(child.end(), Ending::Exited(0));
        }),
    ]
}

/// A thread that is not registered, and does nothing until the process ends.
struct Foreign {
    tid: u32,
    adopt: mpsc::Sender<()>,
    adopted: mpsc::Receiver<()>,
}

impl Foreign {
    fn adopt(&self) {
        self.adopt.send(()).unwrap();
        self.adopted.recv().unwrap();
    }
}

fn start_foreign() -> Foreign {
    let (tell, told) = mpsc::channel();
    let (adopt, adopts) = mpsc::channel();
    let (answer, adopted) = mpsc::channel();
    let body = move || {
        tell.send(tid()).unwrap();
        for () in adopts {
            thread::adopt().unwrap();
            answer.send(()).unwrap();
        }
        loop {
            std_thread::park();
        }
    };
    std_thread::Builder::new().name("foreign".into()).spawn(body).unwrap();
    Foreign { tid: told.recv().unwrap(), adopt, adopted }
}

fn tid() -> u32 {
    // SAFETY: the call only reads.
    unsafe { libc::gettid() as u32 }
}

/// Three threads that have made a step, and that are confirmed to have.
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
    line.say(format_args!("foreign {}", foreign.tid));
    let step = Privileges::new().no_new_privs();
    let report = step.apply_with(Broadcast::new().coverage(Coverage::Registered)).unwrap();
    assert_eq!(report.threads(), 3);
    line.show("applied");

    let VerifyError::Different(different) = step.verify().unwrap_err() else { panic!("readable") };
    let [one] = &different[..] else { panic!("{different:?}") };
    assert_eq!((one.thread.tid(), one.kind), (foreign.tid, ThreadKind::Unregistered));
    assert_eq!(one.step, Step::NoNewPrivs);
    assert!(one.to_string().contains("which is not registered"), "{one}");
    let text = step.verify().unwrap_err().to_string();
    assert!(text.contains("adopt()") && !text.contains("one by one"), "{text}");

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

/// The kernel ends a listing early when the thread that it has come to ends; those that were started
/// after it are there all the same.
fn none_is_hidden(_: &Line) {
    let mut stay = Vec::new();
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
        stay.push(start_foreign().tid);
        go.store(true, Ordering::Relaxed);
        let threads = psx::threads().unwrap();
        for tid in &stay {
            assert!(threads.iter().any(|state| state.tid() == *tid), "{tid} in turn {turn}");
        }
        leavers.into_iter().for_each(|leaver| leaver.join().unwrap());
    }
}

/// A root directory of this process's own. Removed in the end, by its parent's descriptor, if it is empty
/// then.
struct NewRoot {
    parent: fs::File,
    name: CString,
}

/// Makes an empty folder the root.
fn change_root() -> NewRoot {
    let parent = std::env::temp_dir();
    let template =
        CString::new(parent.join("psx-root-XXXXXX").into_os_string().into_vec()).unwrap();
    let folder = template.into_raw();
    // SAFETY: a string of this function's, which the call writes to.
    let folder = unsafe {
        assert_eq!(libc::mkdtemp(folder), folder, "{}", io::Error::last_os_error());
        CString::from_raw(folder)
    };
    let folder = Path::new(OsStr::from_bytes(folder.as_bytes()));
    let name = CString::new(folder.file_name().unwrap().as_bytes()).unwrap();
    let root = NewRoot { parent: fs::File::open(parent).unwrap(), name };
    std::os::unix::fs::chroot(folder).unwrap();
    std::env::set_current_dir("/").unwrap();
    root
}

impl Drop for NewRoot {
    fn drop(&mut self) {
        let flags = libc::AT_REMOVEDIR;
        // SAFETY: a descriptor and a name that outlive the call.
        let removed = unsafe { libc::unlinkat(self.parent.as_raw_fd(), self.name.as_ptr(), flags) };
        assert!(removed == 0 || std_thread::panicking(), "{}", io::Error::last_os_error());
    }
}

fn succeed(result: libc::c_int) -> libc::c_int {
    assert_ne!(result, -1, "{}", io::Error::last_os_error());
    result
}

/// Mounts the /proc of a child's new pid namespace over ours, in mounts of our own.
fn mount_childs_proc(line: &Line) {
    // SAFETY: the threads so far use no path.
    succeed(unsafe { libc::unshare(libc::CLONE_NEWNS | libc::CLONE_NEWPID) });
    // SAFETY: the child makes system calls only.
    match succeed(unsafe { libc::fork() }) {
        0 => {
            let [none, root, proc] = [c"none", c"/", c"/proc"].map(|path| path.as_ptr());
            let private = libc::MS_REC | libc::MS_PRIVATE;
            // SAFETY: paths that outlive the calls.
            unsafe {
                let mounted = libc::mount(none, root, std::ptr::null(), private, std::ptr::null())
                    == 0
                    && libc::mount(proc, proc, c"proc".as_ptr(), 0, std::ptr::null()) == 0;
                libc::write(libc::STDIN_FILENO, c"mounted\n".as_ptr().cast(), 8);
                if !mounted {
                    libc::_exit(1);
                }
                loop {
                    libc::pause();
                }
            }
        }
        child => {
            // The line is the child's as well.
            line.hear("go");
            let status = fs::read_to_string("/proc/1/status").unwrap();
            assert!(status.contains("\nNSpid:\t1\n"), "the child's /proc: {status}");
            assert!(fs::metadata("/proc/self").is_err());
            assert!(child > 0);
        }
    }
}

/// Runs `body` as the first process of a pid namespace that has its parent's /proc.
fn in_pid_namespace(line: &Line, body: fn(&Line)) {
    // SAFETY: this thread is the only one.
    succeed(unsafe { libc::unshare(libc::CLONE_NEWPID) });
    // SAFETY: this thread is the only one, so the child is whole.
    match succeed(unsafe { libc::fork() }) {
        0 => {
            assert_eq!(process::id(), 1);
            line.hear("start");
            body(line);
            process::exit(0);
        }
        child => {
            line.say(format_args!("init {child}"));
            let mut status = 0;
            // SAFETY: a status that outlives the call.
            succeed(unsafe { libc::waitpid(child, &raw mut status, 0) });
            assert_eq!(status, 0, "the end of the namespace's first process");
        }
    }
}

fn ids_are_our_own(line: &Line) {
    let (tell, told) = mpsc::channel();
    for name in ["one", "two"] {
        let tell = tell.clone();
        let body = move || {
            tell.send((tid(), name.to_owned())).unwrap();
            loop {
                thread::park();
            }
        };
        thread::Builder::new().name(name.into()).spawn(body).unwrap();
    }
    let foreign = start_foreign();
    let mut expected: Vec<_> = told.iter().take(2).collect();
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
    line.show("refused");
    foreign.adopt();
    step.apply().unwrap();
    step.verify().unwrap();
    line.show("applied");
}

fn without_main(line: &Line) {
    let ours = Line::of_child();
    let _ = line;
    thread::spawn(move || {
        ours.hear("go");
        let step = Privileges::new().no_new_privs();
        assert_eq!(step.apply().unwrap().threads(), 1);
        step.verify().unwrap();
        let threads = psx::threads().unwrap();
        assert_eq!((threads.len(), threads[0].tid()), (1, tid()));
        ours.show("applied");
        let foreign = start_foreign();
        let refused = step.apply_with(Broadcast::new().timeout(Duration::from_secs(30)));
        let ApplyError::Broadcast(Error::Uncovered(missed)) = refused.unwrap_err() else {
            panic!("Uncovered")
        };
        assert_eq!((missed.len(), missed[0].tid()), (1, foreign.tid));
        // SAFETY: _exit(2) has no precondition.
        unsafe { libc::_exit(0) }
    });
    line.say("leaving");
    // SAFETY: this thread's end: it has nothing that other threads use.
    unsafe { libc::syscall(libc::SYS_exit, 0) };
}

fn is_zombie(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, state)| state.starts_with('Z'))
}

#[track_caller]
fn assert_all(pid: u32, no_new_privs: &str) {
    let tasks = procfs::tasks(pid);
    assert!(!tasks.is_empty());
    for task in tasks {
        assert_eq!(task.field("NoNewPrivs"), no_new_privs, "{} ({})", task.tid, task.name());
    }
}
