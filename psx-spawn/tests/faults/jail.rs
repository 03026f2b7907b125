//! Processes that have confined themselves after their first use of psx: does the proof still hold, what does
//! it report, and does psx leave a way out (P4, P10)?

use std::ffi::CString;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::Ordering;

use psx_test_support::raw::{must, owned, syscall};
use psx_test_support::{Ring, landlock, seccomp};

use crate::LEAVE_MAIN;
use crate::context::Context;
use crate::landlock::{LANDLOCK, has_landlock};
use crate::raw;
use crate::row::Expected::{Clean, Ok};
use crate::row::{Row, Start};
use crate::supervisor::path;
use crate::uring::{IO_URING, blocked_ring};

/// The error for a thread that psx can count and not inspect.
const UNNAMED: &str = "1 thread that cannot be named: /proc is out of reach";

/// The rows of one kind of jail: no other thread, an unregistered one, a main thread that has ended.
macro_rules! rows {
    ($name:literal, $fault:literal, $enter:expr, $start:expr, $foreign:expr) => {
        [
            Row::new($name, $fault, &[Ok], |context| alone(context, $enter)).start($start),
            Row::new(
                concat!($name, "-foreign"),
                concat!($fault, ", an unregistered thread"),
                &[Clean("Uncovered", $foreign)],
                |context| beside_foreign(context, $enter),
            )
            .start($start),
            Row::new(
                concat!($name, "-without-main"),
                concat!($fault, ", main has ended"),
                &[Ok],
                |context| without_main(context, $enter),
            )
            .start($start),
        ]
    };
}

const CHROOT: [Row; 3] =
    rows!("jail-chroot", "jail: chroot to an empty folder", enter_empty, Start::Root, UNNAMED);
const PIVOT: [Row; 3] = rows!(
    "jail-pivot",
    "jail: pivot_root, the old root detached",
    pivot_to_empty,
    Start::Root,
    UNNAMED
);
const UNMOUNT: [Row; 3] =
    rows!("jail-unmount", "jail: /proc unmounted", raw::unmount_proc, Start::Root, UNNAMED);
const IN_LANDLOCK: [Row; 3] =
    rows!("jail-landlock", "jail: Landlock over all files", deny_files, Start::AsIs, UNNAMED);
const SETUID: [Row; 3] =
    rows!("jail-setuid", "jail: another user", become_plain, Start::Root, "(raw-clone)");

pub(crate) const ROWS: &[Row] = &[
    CHROOT[0],
    CHROOT[1],
    CHROOT[2],
    PIVOT[0],
    PIVOT[1],
    PIVOT[2],
    UNMOUNT[0],
    UNMOUNT[1],
    UNMOUNT[2],
    IN_LANDLOCK[0].needs(has_landlock, LANDLOCK),
    IN_LANDLOCK[1].needs(has_landlock, LANDLOCK),
    IN_LANDLOCK[2].needs(has_landlock, LANDLOCK),
    SETUID[0],
    SETUID[1],
    SETUID[2],
    // Without /proc it cannot be distinguished from another thread.
    Row::new(
        "jail-chroot-worker",
        "jail: chroot to an empty folder, an io_uring worker",
        &[Clean("Uncovered", UNNAMED)],
        |context| {
            context.adopt();
            let _ring = blocked_ring("fifo-of-the-jail");
            enter_empty();
            let _probes = context.probes();
            context.change_soon();
        },
    )
    .needs(Ring::is_available, IO_URING)
    .start(Start::Root),
    Row::new(
        "jail-proc-mounted-over",
        "another process's /proc folder mounted over ours: Require, Registered",
        &[Clean("ThreadCountUnavailable", "Registered"), Ok],
        |context| {
            mount_over_proc_self();
            let _probes = context.probes();
            context.change_soon();
            context.change_registered();
        },
    )
    .start(Start::Root),
    Row::new(
        "own-table",
        "callers with separate descriptor tables, other files at psx's number",
        &[Ok],
        with_own_tables,
    ),
    Row::new(
        "many-groups",
        "65,536 groups, whose text in /proc/self/status is 700 KB long",
        &[Ok],
        |context| {
            context.adopt();
            let groups: Vec<u32> = (0..65_536).map(|i| 4_000_000_000 + i).collect();
            let args = [groups.len(), groups.as_ptr().addr(), 0, 0, 0, 0];
            must(libc::SYS_setgroups, args);
            let _probes = context.probes();
            assert_no_way_out();
            context.change();
        },
    )
    .start(Start::Root),
];

fn alone(context: &Context, enter: fn()) {
    context.adopt();
    enter();
    let _probes = context.probes();
    assert_no_way_out();
    context.change();
    assert_no_way_out();
}

fn beside_foreign(context: &Context, enter: fn()) {
    context.adopt();
    enter();
    let _probes = context.probes();
    raw::start_raw_thread();
    context.change_soon();
    assert_no_way_out();
}

/// Main ends; another thread continues in the jail.
fn without_main(context: &Context, enter: fn()) {
    context.adopt();
    enter();
    let successor = context.clone();
    let _ = context.spawn("successor", move || {
        let _probes = successor.probes();
        successor.ask("await-main's-end");
        assert_no_way_out();
        successor.change();
        assert_no_way_out();
        successor.ask("done");
    });
    LEAVE_MAIN.store(true, Ordering::Relaxed);
}

/// Tries to open other files from, and to change to, every descriptor of this process.
fn assert_no_way_out() {
    for fd in 0..4096_usize {
        for path in [c".", c"..", c"../../../etc/passwd", c"../../../../etc/passwd", c"task", c"1"]
        {
            let args = [fd, path.as_ptr().addr(), libc::O_PATH as usize, 0, 0, 0];
            // SAFETY: the path outlives the call.
            let opened = unsafe { syscall(libc::SYS_openat, args) };
            assert!(opened.is_err(), "descriptor {fd} leads to {path:?}");
        }
        // SAFETY: numbers.
        let entered = unsafe { syscall(libc::SYS_fchdir, [fd, 0, 0, 0, 0, 0]) };
        assert!(entered.is_err(), "descriptor {fd} is a folder");
    }
}

fn enter_empty() {
    raw::change_root(&path("empty"));
}

/// Makes a new file system the root, and detaches the old one.
fn pivot_to_empty() {
    raw::unshare_mounts();
    let root = path("empty");
    raw::mount(Path::new("none"), &root, Some("tmpfs"), 0);
    let old = root.join("old");
    std::fs::create_dir(&old).expect("a folder in the new root");
    let [root, old] = [root, old].map(|path| {
        CString::new(path.into_os_string().into_encoded_bytes()).expect("a path without NUL")
    });
    let args = [root.as_ptr().addr(), old.as_ptr().addr(), 0, 0, 0, 0];
    must(libc::SYS_pivot_root, args);
    must(libc::SYS_chdir, [c"/".as_ptr().addr(), 0, 0, 0, 0, 0]);
    let detach = libc::MNT_DETACH as usize;
    must(libc::SYS_umount2, [c"/old".as_ptr().addr(), detach, 0, 0, 0, 0]);
}

fn deny_files() {
    const EXECUTE_TO_MAKE_SYM: u64 = (1 << 13) - 1;
    seccomp::no_new_privs();
    landlock::restrict(&landlock::ruleset([EXECUTE_TO_MAKE_SYM, 0, 0]));
}

fn become_plain() {
    raw::become_user(1000, 1000);
}

/// `/proc/self` leads to this process's folder, over which this mounts that of the parent, which has other
/// threads.
fn mount_over_proc_self() {
    raw::unshare_mounts();
    let ours = format!("/proc/{}", std::process::id());
    let parents = format!("/proc/{}", std::os::unix::process::parent_id());
    raw::mount(Path::new(&parents), Path::new(&ours), None, libc::MS_BIND);
}

/// Two threads that broadcast have separate descriptor tables, in which every number that psx could use is a
/// file by which the process has one thread.
fn with_own_tables(context: &Context) {
    const CALLS: usize = 20;
    context.adopt();
    let probes = context.probes_that(crate::context::is_level);
    let before = open_files();
    let mut callers = Vec::new();
    for name in ["separate-1", "separate-2"] {
        let caller = context.clone();
        callers.push(context.spawn(name, move || {
            let flags = libc::CLONE_FILES as usize;
            must(libc::SYS_unshare, [flags, 0, 0, 0, 0, 0]);
            let forged = forged_stat();
            let from = |first: usize| [first, u32::MAX as usize, 0, 0, 0, 0];
            let forged_number = forged.as_raw_fd() as usize;
            for fd in 3..forged_number {
                raw::replace(fd as i32, forged.as_raw_fd());
            }
            must(libc::SYS_close_range, from(forged_number + 1));
            let open = open_files();
            for _ in 0..CALLS {
                caller.count().expect("a call from a separate table");
            }
            for fd in 3..forged_number {
                assert!(is_same(fd, forged_number), "descriptor {fd} is another file now");
            }
            // psx has opened one file for this table.
            assert_eq!(open_files(), open + 1, "descriptors after {CALLS} calls");
            // The table ends with the thread.
            std::mem::forget(forged);
        }));
    }
    let counted = context.count_to(CALLS);
    callers.into_iter().for_each(|join| join());
    assert_eq!(open_files(), before, "descriptors of the process after the calls");
    context.conclude(counted, probes.in_old_state());
}

/// A file that reads like a thread count: one thread, and a main thread that has ended.
fn forged_stat() -> OwnedFd {
    let name = c"stat".as_ptr().addr();
    let mut file = File::from(owned(must(libc::SYS_memfd_create, [name, 1, 0, 0, 0, 0])));
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
