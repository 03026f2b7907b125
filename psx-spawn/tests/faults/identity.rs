//! The identity of threads: ids that the kernel reuses, and how psx finds a thread's entry (P4, P5, P7).

use std::ffi::{CStr, CString, c_int, c_void};
use std::path::Path;
use std::sync::mpsc;
use std::{fs, mem};

use psx::{Broadcast, Divergence, Errno, Error, Outcome};
use psx_test_support::process::exit_thread;
use psx_test_support::procfs::{self, wait_for_end, wait_for_thread};
use psx_test_support::seccomp;
use psx_test_support::threads::{self, idle, tid};

use crate::context::Context;
use crate::raw;
use crate::row::Expected::{Clean, Ok};
use crate::row::{Row, Start};
use crate::supervisor::path;
use crate::threads::start_idle;

/// The id after which the kernel continues in this pid namespace (`CONFIG_CHECKPOINT_RESTORE`).
pub(crate) const LAST_ID: &str = "/proc/sys/kernel/ns_last_pid";

pub(crate) const ROWS: &[Row] = &[
    Row::new(
        "id-again",
        "threads end by raw SYS_exit; a later thread gets their id",
        &[Ok],
        |context| {
            let _probes = context.probes();
            context.count().expect("a first round");
            let id = exit_behind(context);
            for _ in 0..3 {
                spawn_with_id(context, id, "exiting", || exit_thread());
                wait_for_end(id);
            }
            spawn_with_id(context, id, "next", || idle());
            context.change_soon();
        },
    )
    .start(Start::Root)
    .needs(|| Path::new(LAST_ID).exists(), "ns_last_pid"),
    Row::new(
        "id-again-foreign",
        "the same; an unregistered thread gets the id, which must not be signalled",
        &[Clean("Uncovered", "raw-clone")],
        |context| {
            let _probes = context.probes();
            context.count().expect("a first round");
            let id = exit_behind(context);
            foreign_with_id(id);
            context.change_soon();
            assert_eq!(procfs::task(id).mask("SigPnd"), 0, "signals sent to it");
        },
    )
    .start(Start::Root)
    .needs(|| Path::new(LAST_ID).exists(), "ns_last_pid"),
    Row::new(
        "id-again-in-call",
        "a thread dies in its call; another process gets its id before the caller looks",
        &[Ok],
        |context| {
            let _probes = context.probes();
            let dying = start_idle(context, "dying");
            let shared = context.clone();
            let caller = tid();
            let op = move || {
                if tid() == dying {
                    // The caller is stopped until another process has this id.
                    shared.ask(format_args!("replace {dying} {caller}"));
                    exit_thread();
                }
                Result::Ok(0)
            };
            dies_in_call(dying, op);
            context.change();
        },
    )
    .start(Start::Root)
    .needs(|| Path::new(LAST_ID).exists(), "ns_last_pid"),
    Row::new(
        "death-no-trylock",
        "a thread dies in its call, under a filter against FUTEX_TRYLOCK_PI",
        &[Ok],
        |context| {
            let _probes = context.probes();
            let dying = start_idle(context, "dying");
            context.count().expect("a first round");
            seccomp::no_new_privs();
            seccomp::install_on_all(&seccomp::deny_futex(&[libc::FUTEX_TRYLOCK_PI]));
            let op = move || if tid() == dying { exit_thread() } else { Result::Ok(0) };
            dies_in_call(dying, op);
            context.change();
        },
    ),
    Row::new(
        "vfork-child-calls",
        "a child as by vfork of an unregistered main registers, and calls",
        &[Ok],
        |context| {
            threads::start_unregistered("worker", || psx::thread::adopt().expect("the first use"));
            raw::borrow_thread_locals(
                || {
                    let refused = psx::thread::adopt().map_err(|error| format!("{error:?}"));
                    assert!(refused.is_err_and(|text| text.starts_with("OtherProcess")));
                    // SAFETY: nothing is done.
                    let refused = unsafe { Broadcast::new().run(|| Result::Ok(0)) };
                    assert!(matches!(refused, Err(Error::OtherProcess)), "{refused:?}");
                },
                false,
            );
            context.adopt();
            context.change_soon();
        },
    ),
    Row::new(
        "raw-clone-adopts",
        "a raw clone(CLONE_THREAD) thread on main's thread-locals adopts itself",
        &[Ok],
        |context| {
            let adopt = || {
                let refused = psx::thread::adopt();
                assert!(matches!(refused, Err(Error::SharedThreadLocals)), "{refused:?}");
            };
            raw::borrow_thread_locals(adopt, true);
            context.adopt();
            raw::borrow_thread_locals(adopt, true);
            let _probes = context.probes();
            context.change_soon();
        },
    ),
    Row::new(
        "handler-jumps",
        "a handler for 33 that exits by siglongjmp, five times",
        &[Ok],
        |context| {
            let _probes = context.probes();
            context.count().expect("a first round");
            let library = load("jump.so");
            // SAFETY: a function of this type in the C source.
            raw::handle_33(unsafe {
                mem::transmute::<*mut c_void, extern "C" fn(c_int)>(find(library, c"jump"))
            });
            context.count().expect("a round under another handler");
            // SAFETY: as above.
            let arrivals = unsafe {
                mem::transmute::<*mut c_void, extern "C" fn(c_int) -> c_int>(find(
                    library,
                    c"arrivals",
                ))
            };
            assert_eq!(arrivals(5), 5, "signals 33 that reached the program's handler");
            context.change();
        },
    ),
];

/// Starts a registered thread that ends by raw `SYS_exit`; returns its id once it has ended.
fn exit_behind(context: &Context) -> u32 {
    let (send, ids) = mpsc::channel();
    let _ = context.spawn("exiting", move || {
        send.send(tid()).expect("main waits");
        exit_thread()
    });
    let id = ids.recv().expect("a thread's id");
    wait_for_end(id);
    id
}

/// Starts an unregistered thread with this id.
fn foreign_with_id(id: u32) {
    loop {
        fs::write(LAST_ID, (id - 1).to_string()).expect("root sets the next id");
        let got = raw::start_raw_thread_with(id);
        if got == id {
            return wait_for_thread(|of, name, _| of == id && name == "raw-clone");
        }
        wait_for_end(got);
    }
}

/// A call in which the thread `dying` dies, and which must report it.
fn dies_in_call(dying: u32, op: impl Fn() -> Result<usize, Errno> + Sync) {
    let broadcast = Broadcast::new().divergence(Divergence::Report);
    // SAFETY: the closure makes plain system calls, and writes to the supervisor on a thread that was parked
    // and holds no lock.
    let report = unsafe { broadcast.run(op) }.expect("a report");
    let [divergent] = report.divergent() else { panic!("{report:?}") };
    assert_eq!((divergent.thread().tid(), divergent.outcome()), (dying, Outcome::Died));
}

/// Starts registered threads until one has this id, which then runs `body`: other processes of the machine may
/// get the id first.
fn spawn_with_id(context: &Context, id: u32, name: &str, body: fn()) {
    loop {
        fs::write(LAST_ID, (id - 1).to_string()).expect("root sets the next id");
        let (send, ids) = mpsc::channel();
        let _ = context.spawn(name, move || {
            send.send(tid()).expect("main waits");
            if tid() == id {
                mem::forget(send);
                body();
            }
        });
        let got = ids.recv().expect("a thread's id");
        if got == id {
            return;
        }
        wait_for_end(got);
    }
}

/// Loads one of the C libraries that the supervisor has compiled.
pub(crate) fn load(name: &str) -> *mut c_void {
    let path = CString::new(path(name).into_os_string().into_encoded_bytes()).expect("no NUL");
    // SAFETY: one of two libraries, of which one starts two threads in its constructor.
    let library = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW) };
    assert!(!library.is_null(), "{name}: is there a C compiler?");
    library
}

fn find(library: *mut c_void, name: &CStr) -> *mut c_void {
    // SAFETY: a library that is loaded, and a C string.
    let found = unsafe { libc::dlsym(library, name.as_ptr()) };
    assert!(!found.is_null(), "{name:?}");
    found
}
