//! Processes that have locked themselves in after their first use of psx: is the proof still there,
//! what does it still tell, and is there a way out?

use std::ffi::CString;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::Ordering;

use crate::LEAVE_MAIN;
use crate::case::Expected::{Clean, Ok};
use crate::case::{Case, Start};
use crate::confine;
use crate::raw;
use crate::stage::Stage;
use crate::supervisor::workshop;
use crate::uring::{IO_URING, Ring, blocked_ring};

/// What psx says of a thread that it can count and not look at.
const UNNAMED: &str = "1 thread that cannot be named: /proc is out of reach";

/// The rows of one kind of jail: no other thread, an unregistered one, a main thread that has left.
macro_rules! rows {
    ($name:literal, $fault:literal, $enter:expr, $start:expr, $foreign:expr) => {
        [
            Case::new($name, $fault, &[Ok], |stage| alone(stage, $enter)).start($start),
            Case::new(
                concat!($name, "-foreign"),
                concat!($fault, ", an unregistered thread"),
                &[Clean("Uncovered", $foreign)],
                |stage| beside_foreign(stage, $enter),
            )
            .start($start),
            Case::new(
                concat!($name, "-without-main"),
                concat!($fault, ", main has left"),
                &[Ok],
                |stage| without_main(stage, $enter),
            )
            .start($start),
        ]
    };
}

const CHROOT: [Case; 3] =
    rows!("jail-chroot", "jail: chroot to an empty folder", enter_empty, Start::Root, UNNAMED);
const PIVOT: [Case; 3] = rows!(
    "jail-pivot",
    "jail: pivot_root, the old root detached",
    pivot_to_empty,
    Start::Root,
    UNNAMED
);
const UNMOUNT: [Case; 3] =
    rows!("jail-unmount", "jail: /proc unmounted", raw::unmount_proc, Start::Root, UNNAMED);
const LANDLOCK: [Case; 3] =
    rows!("jail-landlock", "jail: Landlock over all files", deny_files, Start::AsIs, UNNAMED);
const SETUID: [Case; 3] =
    rows!("jail-setuid", "jail: another user", become_plain, Start::Root, "(raw-clone)");

pub(crate) const CASES: &[Case] = &[
    CHROOT[0],
    CHROOT[1],
    CHROOT[2],
    PIVOT[0],
    PIVOT[1],
    PIVOT[2],
    UNMOUNT[0],
    UNMOUNT[1],
    UNMOUNT[2],
    LANDLOCK[0].needs(has_landlock, "Landlock: Linux 5.13"),
    LANDLOCK[1].needs(has_landlock, "Landlock: Linux 5.13"),
    LANDLOCK[2].needs(has_landlock, "Landlock: Linux 5.13"),
    SETUID[0],
    SETUID[1],
    SETUID[2],
    // Without /proc it looks like any other thread.
    Case::new(
        "jail-chroot-worker",
        "jail: chroot to an empty folder, an io_uring worker",
        &[Clean("Uncovered", UNNAMED)],
        |stage| {
            stage.adopt();
            let _ring = blocked_ring("fifo-of-the-jail");
            enter_empty();
            let _crew = stage.crew();
            stage.change_soon();
        },
    )
    .needs(Ring::can_be_had, IO_URING)
    .start(Start::Root),
    Case::new(
        "jail-proc-mounted-over",
        "another process's /proc folder mounted over ours: Require, Registered",
        &[Clean("ThreadCountUnavailable", "Registered"), Ok],
        |stage| {
            mount_over_proc_self();
            let _crew = stage.crew();
            stage.change_soon();
            stage.change_registered();
        },
    )
    .start(Start::Root),
    Case::new(
        "own-table",
        "callers with descriptor tables of their own, other files at psx's number",
        &[Ok],
        with_own_tables,
    ),
    Case::new(
        "many-groups",
        "65,536 groups, whose text in /proc/self/status is 700 KB long",
        &[Ok],
        |stage| {
            stage.adopt();
            let groups: Vec<u32> = (0..65_536).map(|i| 4_000_000_000 + i).collect();
            let args = [groups.len(), groups.as_ptr().addr(), 0, 0, 0, 0];
            raw::must("setgroups", libc::SYS_setgroups, args);
            let _crew = stage.crew();
            assert_no_way_out();
            stage.change();
        },
    )
    .start(Start::Root),
];

fn alone(stage: &Stage, enter: fn()) {
    stage.adopt();
    enter();
    let _crew = stage.crew();
    assert_no_way_out();
    stage.change();
    assert_no_way_out();
}

fn beside_foreign(stage: &Stage, enter: fn()) {
    stage.adopt();
    enter();
    let _crew = stage.crew();
    raw::start_raw_thread();
    stage.change_soon();
    assert_no_way_out();
}

/// Main leaves; another thread goes on in the jail.
fn without_main(stage: &Stage, enter: fn()) {
    stage.adopt();
    enter();
    let successor = stage.clone();
    let _ = stage.spawn("successor", move || {
        let _crew = successor.crew();
        successor.ask("await-main's-end");
        assert_no_way_out();
        successor.change();
        assert_no_way_out();
        successor.ask("done");
    });
    LEAVE_MAIN.store(true, Ordering::Relaxed);
}

/// Tries every descriptor that this process has as a place to open other files from, and to go to.
fn assert_no_way_out() {
    for fd in 0..4096_usize {
        for path in [c".", c"..", c"../../../etc/passwd", c"../../../../etc/passwd", c"task", c"1"]
        {
            let args = [fd, path.as_ptr().addr(), libc::O_PATH as usize, 0, 0, 0];
            // SAFETY: the path outlives the call.
            let opened = unsafe { raw::call(libc::SYS_openat, args) };
            assert!(opened.is_err(), "descriptor {fd} leads to {path:?}");
        }
        // SAFETY: at worst this thread is elsewhere.
        let gone = unsafe { raw::call(libc::SYS_fchdir, [fd, 0, 0, 0, 0, 0]) };
        assert!(gone.is_err(), "descriptor {fd} is a folder to go to");
    }
}

fn enter_empty() {
    raw::change_root(&workshop("empty"));
}

/// A file system of its own as root, and the old one out of reach.
fn pivot_to_empty() {
    raw::own_mounts();
    let root = workshop("empty");
    raw::mount(Path::new("none"), &root, Some("tmpfs"), 0);
    let old = root.join("old");
    std::fs::create_dir(&old).expect("a folder in the new root");
    let [root, old] = [root, old].map(|path| {
        CString::new(path.into_os_string().into_encoded_bytes()).expect("a path without NUL")
    });
    let args = [root.as_ptr().addr(), old.as_ptr().addr(), 0, 0, 0, 0];
    raw::must("pivot_root", libc::SYS_pivot_root, args);
    raw::must("chdir", libc::SYS_chdir, [c"/".as_ptr().addr(), 0, 0, 0, 0, 0]);
    let detach = libc::MNT_DETACH as usize;
    raw::must("umount2", libc::SYS_umount2, [c"/old".as_ptr().addr(), detach, 0, 0, 0, 0]);
}

fn deny_files() {
    const EXECUTE_TO_MAKE_SYM: u64 = (1 << 13) - 1;
    confine::no_new_privs();
    confine::restrict(confine::ruleset([EXECUTE_TO_MAKE_SYM, 0, 0]));
}

fn has_landlock() -> bool {
    confine::landlock_version() >= 1
}

fn become_plain() {
    raw::become_user(1000, 1000);
}

/// What whoever makes the mounts can do: `/proc/self` leads to our own folder, and on that lies the
/// one of our parent, which has other threads.
fn mount_over_proc_self() {
    raw::own_mounts();
    let ours = format!("/proc/{}", std::process::id());
    let parents = format!("/proc/{}", std::os::unix::process::parent_id());
    raw::mount(Path::new(&parents), Path::new(&ours), None, libc::MS_BIND);
}

/// Two threads that broadcast have left the process's descriptor table. In theirs every number that
/// psx could have is a file which says that the process has one thread.
fn with_own_tables(stage: &Stage) {
    const CALLS: usize = 20;
    stage.adopt();
    let crew = stage.crew_that(crate::stage::is_level);
    let before = open_files();
    let mut callers = Vec::new();
    for name in ["loner-1", "loner-2"] {
        let caller = stage.clone();
        callers.push(stage.spawn(name, move || {
            let flags = libc::CLONE_FILES as usize;
            raw::must("unshare", libc::SYS_unshare, [flags, 0, 0, 0, 0, 0]);
            let forged = forged_stat();
            let from = |first: usize| [first, u32::MAX as usize, 0, 0, 0, 0];
            let forged_number = forged.as_raw_fd() as usize;
            for fd in 3..forged_number {
                raw::replace(fd as i32, forged.as_raw_fd());
            }
            raw::must("close_range", libc::SYS_close_range, from(forged_number + 1));
            let open = open_files();
            for _ in 0..CALLS {
                caller.count().expect("a call from a table of its own");
            }
            for fd in 3..forged_number {
                assert!(is_same(fd, forged_number), "descriptor {fd} is another file now");
            }
            // What psx has opened, once, for this table.
            assert_eq!(open_files(), open + 1, "descriptors after {CALLS} calls");
            // Its thread ends with the table: nothing is left to drop.
            std::mem::forget(forged);
        }));
    }
    let counted = stage.count_to(CALLS);
    callers.into_iter().for_each(|join| join());
    assert_eq!(open_files(), before, "descriptors of the process after the calls");
    stage.conclude(counted, crew.strays());
}

/// A file that is no thread count, and reads like one: one thread, and a main thread that has ended.
fn forged_stat() -> OwnedFd {
    let fd =
        raw::must("memfd_create", libc::SYS_memfd_create, [c"stat".as_ptr().addr(), 1, 0, 0, 0, 0]);
    // SAFETY: the new descriptor belongs to this function alone.
    let mut file = unsafe { File::from_raw_fd(fd as i32) };
    file.write_all(b"1 (x) Z 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 0 0\n").expect("memory");
    file.into()
}

fn open_files() -> usize {
    std::fs::read_dir("/proc/thread-self/fd").expect("/proc").count()
}

fn is_same(one: usize, other: usize) -> bool {
    let file =
        |fd: usize| std::fs::read_link(format!("/proc/thread-self/fd/{fd}")).expect("a file");
    file(one) == file(other)
}
