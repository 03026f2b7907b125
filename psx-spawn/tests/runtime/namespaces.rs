//! Namespaces and keyrings, which each thread has for itself: how all get the same, and where they cannot.

use std::ffi::{CString, c_int, c_void};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::{fs, process};

use psx::{Divergence, Errno, Error, Outcome, thread};
use psx_test_support::process::{exit_now, fork, wait};
use psx_test_support::raw::{must, syscall};
use psx_test_support::threads::{start_idlers, tid};
use psx_test_support::{Case, Child, Ending, Line, Probe, root};

use crate::kernel::{STRICT, broadcast_slack};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("namespaces::one_for_all_threads", |line| {
            start_idlers(3);
            for (flag, name) in SIMPLE {
                unshare_here(flag);
                let own = own_namespace(name);
                // SAFETY: a descriptor and a flag; nothing here uses what is in the namespace.
                unsafe {
                    psx::syscall3(libc::SYS_setns, own.as_raw_fd() as usize, flag as usize, 0)
                }
                .unwrap();
            }
            line.pause("moved");
        })
        .needs(root)
        .check(|child| {
            child.inspect("moved", |child| {
                for (_, name) in SIMPLE {
                    let of_threads = namespaces(child, name);
                    assert_eq!(of_threads.len(), 4);
                    assert!(of_threads.iter().all(|of| *of == of_threads[0]), "{name}");
                    assert_ne!(
                        of_threads[0],
                        fs::read_link(format!("/proc/self/ns/{name}")).unwrap()
                    );
                }
            });
            assert_eq!(child.end(), Ending::Exited(0));
        }),
        Case::new("namespaces::unshare_gives_each_its_own", |line| {
            start_idlers(3);
            // SAFETY: a flag.
            unsafe { psx::syscall3(libc::SYS_unshare, libc::CLONE_NEWUTS as usize, 0, 0) }.unwrap();
            line.pause("unshared");
        })
        .needs(root)
        .check(|child| {
            child.inspect("unshared", |child| {
                let mut of_threads = namespaces(child, "uts");
                of_threads.sort();
                of_threads.dedup();
                assert_eq!(of_threads.len(), 4);
            });
            assert_eq!(child.end(), Ending::Exited(0));
        }),
        Case::new("namespaces::users_and_time_are_refused", |_| {
            start_idlers(2);
            let refused = |nr, args: [usize; 2]| {
                // SAFETY: numbers only.
                match unsafe { psx::syscall3(nr, args[0], args[1], 0) } {
                    Err(Error::Os(errno)) => errno.raw(),
                    other => panic!("{other:?}"),
                }
            };
            let [user, time] = [libc::CLONE_NEWUSER as usize, libc::CLONE_NEWTIME as usize];
            assert_eq!(refused(libc::SYS_unshare, [user, 0]), libc::EINVAL);
            let own = own_namespace("user");
            assert_eq!(refused(libc::SYS_setns, [own.as_raw_fd() as usize, user]), libc::EINVAL);
            let own = own_namespace("time");
            assert_eq!(refused(libc::SYS_setns, [own.as_raw_fd() as usize, time]), libc::EUSERS);
        })
        .needs(root),
        Case::new("namespaces::no_new_thread_after_pid", |_| {
            start_idlers(2);
            // SAFETY: a flag.
            unsafe { psx::syscall3(libc::SYS_unshare, libc::CLONE_NEWPID as usize, 0, 0) }.unwrap();
            let refused = thread::Builder::new().spawn(|| ()).unwrap_err();
            assert_eq!(refused.raw_os_error(), Some(libc::EINVAL));
        })
        .needs(root),
        Case::new("namespaces::first_process_and_a_child_with_its_ids", |_| {
            unshare_here(libc::CLONE_NEWPID);
            let status = wait(fork(|| {
                refuse_child_with_own_ids();
                0
            }));
            assert!(status.success(), "the namespace's first process: {status}");
        })
        .needs(root),
        // It applies to children alone.
        Case::new("namespaces::time_of_no_thread", |line| {
            // SAFETY: a flag.
            unsafe { psx::syscall3(libc::SYS_unshare, libc::CLONE_NEWTIME as usize, 0, 0) }
                .unwrap();
            start_idlers(2);
            line.pause("unshared");
        })
        .needs(root)
        .check(|child| {
            child.inspect("unshared", |child| {
                let outside = fs::read_link("/proc/self/ns/time").unwrap();
                assert!(namespaces(child, "time").iter().all(|of| *of == outside));
            });
            assert_eq!(child.end(), Ending::Exited(0));
        }),
        Case::new("namespaces::mounts_need_folders_of_their_own", mounts).needs(root).check(
            |child| {
                child.inspect("refused", |child| {
                    let all = namespaces(child, "mnt");
                    assert!(all.iter().all(|of| *of == all[0]));
                });
                child.inspect("moved", |child| {
                    let all = namespaces(child, "mnt");
                    assert_eq!(all.len(), 4);
                    assert!(all.iter().all(|of| *of == all[0]));
                    assert_ne!(all[0], fs::read_link("/proc/self/ns/mnt").unwrap());
                });
                assert_eq!(child.end(), Ending::Exited(0));
            },
        ),
        // The caller has left the folder that the others share.
        Case::new("namespaces::mounts_of_the_caller_alone", |_| {
            start_idlers(3);
            unshare_here(libc::CLONE_NEWNS);
            let own = own_namespace("mnt");
            let args = [own.as_raw_fd() as usize, libc::CLONE_NEWNS as usize, 0, 0, 0, 0];
            // SAFETY: a descriptor and a flag.
            let report =
                unsafe { STRICT.divergence(Divergence::Report).syscall(libc::SYS_setns, args) };
            let refused = Outcome::Failed(Errno::from_raw(libc::EINVAL));
            let report = report.unwrap();
            assert_eq!(report.divergent().len(), 3);
            assert!(report.divergent().iter().all(|thread| thread.outcome() == refused));
        })
        .needs(root),
        Case::new("keyrings::each_thread_joins_another", |_| {
            let [joined, other] = join_session_keyring(0);
            assert_ne!(joined, other);
        })
        .needs(keyrings),
        Case::new("keyrings::a_name_does_not_help", |_| {
            let name = CString::new(format!("psx-test-{}", process::id())).unwrap();
            let [joined, other] = join_session_keyring(name.as_ptr() as usize);
            assert_ne!(joined, other);
        })
        .needs(keyrings),
        Case::new("keyrings::the_default_ends_the_process", |_| {
            start_idlers(1);
            // SAFETY: numbers only.
            let _ = unsafe { psx::syscall3(libc::SYS_keyctl, JOIN_SESSION_KEYRING, 0, 0) };
        })
        .needs(keyrings)
        .check(|child| assert_eq!(child.end(), Ending::Killed(libc::SIGABRT))),
        Case::new("keyrings::one_for_all_threads", one_keyring).needs(keyrings),
    ]
}

/// Those that one thread of several may enter.
const SIMPLE: [(i32, &str); 4] = [
    (libc::CLONE_NEWUTS, "uts"),
    (libc::CLONE_NEWNET, "net"),
    (libc::CLONE_NEWIPC, "ipc"),
    (libc::CLONE_NEWCGROUP, "cgroup"),
];

fn mounts(line: &Line) {
    start_idlers(2);
    let other = Probe::start();
    // On a thread that ends: the descriptor keeps the namespace.
    let own = thread::spawn(|| {
        unshare_here(libc::CLONE_NEWNS);
        own_namespace("mnt")
    });
    let own = own.join().unwrap();
    let (fd, flag) = (own.as_raw_fd() as usize, libc::CLONE_NEWNS as usize);
    let invalid = Error::Os(Errno::from_raw(libc::EINVAL));
    // SAFETY: a descriptor and a flag.
    assert_eq!(unsafe { psx::syscall3(libc::SYS_setns, fd, flag, 0) }, Err(invalid));
    line.pause("refused");
    // SAFETY: two system calls; no thread needs the others' working folder.
    let report = unsafe {
        STRICT.run(|| {
            syscall(libc::SYS_unshare, [libc::CLONE_FS as usize, 0, 0, 0, 0, 0])?;
            syscall(libc::SYS_setns, [fd, flag, 0, 0, 0, 0])
        })
    };
    assert_eq!(report.unwrap().threads(), 4);
    line.pause("moved");
    // From then on `chdir` changes the calling thread alone.
    let folder = || fs::metadata(".").unwrap().ino();
    let before = other.ask(folder);
    std::env::set_current_dir("/usr").unwrap();
    assert_eq!(other.ask(folder), before);
}

const JOIN_SESSION_KEYRING: usize = 1; // KEYCTL_JOIN_SESSION_KEYRING
const SETPERM: usize = 5; // KEYCTL_SETPERM

/// The session keyring of the calling thread, as its serial number.
fn session_keyring() -> usize {
    const GET_KEYRING_ID: usize = 0;
    const SESSION: usize = -3_isize as usize; // KEY_SPEC_SESSION_KEYRING
    must(libc::SYS_keyctl, [GET_KEYRING_ID, SESSION, 0, 0, 0, 0])
}

/// Broadcasts, and returns the keyrings that the caller and another thread have then.
fn join_session_keyring(name: usize) -> [usize; 2] {
    let other = Probe::start();
    let lenient = STRICT.divergence(Divergence::Report);
    let args = [JOIN_SESSION_KEYRING, name, 0, 0, 0, 0];
    // SAFETY: a name that outlives the call, or none.
    let report = unsafe { lenient.syscall(libc::SYS_keyctl, args) }.unwrap();
    assert_eq!(report.divergent().len(), 1);
    [session_keyring(), other.ask(session_keyring)]
}

/// The caller, which comes first, makes the keyring and lets its user search it by name.
fn one_keyring(_: &Line) {
    /// `KEY_POS_ALL | KEY_USR_VIEW | KEY_USR_READ | KEY_USR_SEARCH | KEY_USR_LINK`
    const SEARCHABLE: usize = 0x3f00_0000 | 0x1b_0000;
    let others = [Probe::start(), Probe::start()];
    let before = session_keyring();
    let name = CString::new(format!("psx-test-{}", process::id())).unwrap();
    let name = name.as_ptr() as usize;
    // SAFETY: system calls alone, and a name that outlives them.
    let report = unsafe {
        STRICT.run(|| {
            let keyring = syscall(libc::SYS_keyctl, [JOIN_SESSION_KEYRING, name, 0, 0, 0, 0])?;
            syscall(libc::SYS_keyctl, [SETPERM, keyring, SEARCHABLE, 0, 0, 0])?;
            Ok(keyring)
        })
    };
    let keyring = report.unwrap().value();
    assert_ne!(keyring, before);
    assert_eq!(session_keyring(), keyring);
    assert!(others.iter().all(|other| other.ask(session_keyring) == keyring));
}

/// For `Case::needs`.
fn keyrings() -> Result<(), String> {
    // SAFETY: asks for an existing keyring.
    match unsafe { syscall(libc::SYS_keyctl, [0, -3_isize as usize, 0, 0, 0, 0]) } {
        Err(errno) if [libc::ENOSYS, libc::EPERM].contains(&errno.raw()) => {
            Err("needs keyrings".into())
        }
        _ => Ok(()),
    }
}

fn unshare_here(flag: i32) {
    must(libc::SYS_unshare, [flag as usize, 0, 0, 0, 0, 0]);
}

fn own_namespace(name: &str) -> File {
    File::open(format!("/proc/thread-self/ns/{name}")).unwrap()
}

/// The namespace of each of the child's threads.
fn namespaces(child: &Child, name: &str) -> Vec<std::path::PathBuf> {
    let of = |tid| fs::read_link(format!("/proc/{}/task/{tid}/ns/{name}", child.pid())).unwrap();
    child.tasks().iter().map(|task| of(task.tid)).collect()
}

/// In the first process of a pid namespace: starts a child that shares its memory and thread-locals, and
/// is the first process of another namespace, so that it has the same ids.
fn refuse_child_with_own_ids() {
    extern "C" fn child(refused: *mut c_void) -> c_int {
        let ids = (process::id(), tid());
        let is_refused = matches!(thread::adopt(), Err(Error::SharedThreadLocals));
        // SAFETY: the parent's flag; it waits for this process.
        unsafe { *refused.cast::<bool>() = ids == (1, 1) && is_refused };
        // Not by return, by which the libc would exit.
        exit_now(0)
    }
    assert_eq!(process::id(), 1);
    start_idlers(1);
    thread::adopt().unwrap();
    let (mut stack, mut refused) = (vec![0_u128; 1 << 14], false);
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_NEWPID | libc::SIGCHLD;
    // SAFETY: the child has a stack of its own, and this thread waits for its end.
    let pid = unsafe {
        let top = stack.as_mut_ptr_range().end.cast();
        libc::clone(child, top, flags, (&raw mut refused).cast())
    };
    assert!(pid > 0 && refused, "the child registered as its parent");
    assert_eq!(broadcast_slack(STRICT, 77), Ok(2), "the parent's threads are registered");
}
