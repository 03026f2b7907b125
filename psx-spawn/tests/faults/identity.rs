//! Which thread is which: ids that are given away again, and what finds a thread's entry.

use std::ffi::{CStr, CString, c_int, c_void};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::{fs, mem, process, thread};

use psx::{Broadcast, Divergence, Errno, Error, Outcome};

use crate::case::Expected::{Clean, Ok};
use crate::case::{Case, Start};
use crate::confine;
use crate::raw;
use crate::stage::Stage;
use crate::supervisor::workshop;
use crate::support::procfs;
use crate::threads::{await_thread, idle};

/// The id after which the kernel goes on in this pid namespace (`CONFIG_CHECKPOINT_RESTORE`).
pub(crate) const LAST_ID: &str = "/proc/sys/kernel/ns_last_pid";

pub(crate) const CASES: &[Case] = &[
    Case::new(
        "id-again",
        "threads leave by raw SYS_exit; a later thread gets their id",
        &[Ok],
        |stage| {
            let _crew = stage.crew();
            stage.count().expect("a first round");
            let mut id = leave_behind(stage);
            for _ in 0..3 {
                id = leave_with_id(stage, id);
            }
            stay_with_id(stage, id);
            stage.change_soon();
        },
    )
    .start(Start::Root)
    .needs(|| Path::new(LAST_ID).exists(), "ns_last_pid"),
    Case::new(
        "id-again-foreign",
        "the same; an unregistered thread gets the id, which must not be signalled",
        &[Clean("Uncovered", "raw-clone")],
        |stage| {
            let _crew = stage.crew();
            stage.count().expect("a first round");
            let id = leave_behind(stage);
            foreign_with_id(id);
            stage.change_soon();
            let pending = procfs::tasks(process::id());
            let task = pending.iter().find(|task| task.name() == "raw-clone").expect("the thread");
            assert_eq!(task.field("SigPnd"), "0000000000000000", "signals sent to it");
        },
    )
    .start(Start::Root)
    .needs(|| Path::new(LAST_ID).exists(), "ns_last_pid"),
    Case::new(
        "id-again-in-call",
        "a thread dies in its call; another process gets its id before the caller looks",
        &[Ok],
        |stage| {
            let _crew = stage.crew();
            let mortal = idle(stage, "mortal");
            let shared = stage.clone();
            let caller = raw::tid();
            let op = move || {
                if raw::tid() == mortal {
                    // The caller stands still until there is another process with this id.
                    shared.ask(format_args!("replace {mortal} {caller}"));
                    raw::leave();
                }
                Result::Ok(0)
            };
            dies_in_call(mortal, op);
            stage.change();
        },
    )
    .start(Start::Root)
    .needs(|| Path::new(LAST_ID).exists(), "ns_last_pid"),
    Case::new(
        "death-no-trylock",
        "a thread dies in its call, under a filter against FUTEX_TRYLOCK_PI",
        &[Ok],
        |stage| {
            let _crew = stage.crew();
            let mortal = idle(stage, "mortal");
            stage.count().expect("a first round");
            confine::no_new_privs();
            confine::filter_all(&confine::deny_futex(&[libc::FUTEX_TRYLOCK_PI]));
            let op = move || if raw::tid() == mortal { raw::leave() } else { Result::Ok(0) };
            dies_in_call(mortal, op);
            stage.change();
        },
    ),
    Case::new(
        "vfork-child-calls",
        "a child as of vfork of an unregistered main registers, and calls",
        &[Ok],
        |stage| {
            adopt_in_a_worker();
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
            stage.adopt();
            stage.change_soon();
        },
    ),
    Case::new(
        "raw-clone-adopts",
        "a raw clone(CLONE_THREAD) thread on main's thread-locals adopts itself",
        &[Ok],
        |stage| {
            let adopt = || {
                let refused = psx::thread::adopt();
                assert!(matches!(refused, Err(Error::SharedThreadLocals)), "{refused:?}");
            };
            raw::borrow_thread_locals(adopt, true);
            stage.adopt();
            raw::borrow_thread_locals(adopt, true);
            let _crew = stage.crew();
            stage.change_soon();
        },
    ),
    Case::new(
        "handler-jumps",
        "a handler for 33 that leaves by siglongjmp, five times",
        &[Ok],
        |stage| {
            let _crew = stage.crew();
            stage.count().expect("a first round");
            let library = load("jump.so");
            // SAFETY: a function of this type in the C source.
            raw::handle_33(unsafe {
                mem::transmute::<*mut c_void, extern "C" fn(c_int)>(find(library, c"jump"))
            });
            stage.count().expect("a round with another handler in first place");
            // SAFETY: as above.
            let arrivals = unsafe {
                mem::transmute::<*mut c_void, extern "C" fn(c_int) -> c_int>(find(
                    library,
                    c"arrivals",
                ))
            };
            assert_eq!(arrivals(5), 5, "signals 33 that reached the program's handler");
            stage.change();
        },
    ),
];

/// Starts a registered thread that leaves by raw `SYS_exit`; returns its id once it is gone.
fn leave_behind(stage: &Stage) -> u32 {
    let (mut told, mut tell) = UnixStream::pair().expect("a socket pair");
    let _ = stage.spawn("leaver", move || {
        tell.write_all(&raw::tid().to_ne_bytes()).expect("main waits");
        // Open for as long as the thread is.
        mem::forget(tell);
        raw::leave();
    });
    let id = read_id(&mut told);
    await_end(id);
    id
}

/// Starts registered threads until one has this id, which leaves by raw `SYS_exit` as well.
fn leave_with_id(stage: &Stage, id: u32) -> u32 {
    spawn_with_id(stage, id, "leaver", || raw::leave());
    await_end(id);
    id
}

/// The same with a thread that stays.
fn stay_with_id(stage: &Stage, id: u32) {
    spawn_with_id(stage, id, "heir", || {
        loop {
            thread::park();
        }
    });
}

/// An unregistered thread with this id.
fn foreign_with_id(id: u32) {
    loop {
        fs::write(LAST_ID, (id - 1).to_string()).expect("root may say which id comes next");
        let got = raw::start_raw_thread_with(id);
        if got == id {
            await_thread(|name, _| name == "raw-clone", &id.to_string());
            return;
        }
        await_end(got);
    }
}

/// A call in which `mortal` dies, and which must tell so.
fn dies_in_call(mortal: u32, op: impl Fn() -> Result<usize, Errno> + Sync) {
    let broadcast = Broadcast::new().divergence(Divergence::Report);
    // SAFETY: the closure makes plain system calls, and talks to the supervisor on a thread that was
    // parked and holds nothing.
    let report = unsafe { broadcast.run(op) }.expect("a report");
    let [divergent] = report.divergent() else { panic!("{report:?}") };
    assert_eq!((divergent.thread().tid(), divergent.outcome()), (mortal, Outcome::Died));
}

/// psx is in use, and main is not registered.
fn adopt_in_a_worker() {
    let (mut told, mut tell) = UnixStream::pair().expect("a socket pair");
    let worker = thread::Builder::new().name("worker".into());
    let started = worker.spawn(move || {
        psx::thread::adopt().expect("the first use of psx");
        tell.write_all(&[0]).expect("main waits");
        loop {
            thread::park();
        }
    });
    started.expect("a thread");
    told.read_exact(&mut [0]).expect("a word from the worker");
}

/// Other processes of the machine may get the id first, so this tries until a thread has it.
fn spawn_with_id(stage: &Stage, id: u32, name: &str, body: fn()) {
    loop {
        fs::write(LAST_ID, (id - 1).to_string()).expect("root may say which id comes next");
        let (mut told, mut tell) = UnixStream::pair().expect("a socket pair");
        let _ = stage.spawn(name, move || {
            let own = raw::tid();
            tell.write_all(&own.to_ne_bytes()).expect("main waits");
            if own == id {
                mem::forget(tell);
                body();
            }
        });
        let got = read_id(&mut told);
        if got == id {
            return;
        }
        await_end(got);
    }
}

fn read_id(told: &mut UnixStream) -> u32 {
    let mut id = [0; 4];
    told.read_exact(&mut id).expect("a thread's id");
    u32::from_ne_bytes(id)
}

/// Waits until this process has no thread of this id.
fn await_end(id: u32) {
    while Path::new(&format!("/proc/{}/task/{id}", process::id())).exists() {
        thread::yield_now();
    }
}

/// Loads one of the C libraries that the supervisor has compiled.
fn load(name: &str) -> *mut c_void {
    let path = CString::new(workshop(name).into_os_string().into_encoded_bytes()).expect("no NUL");
    // SAFETY: a library of ours, which does nothing as it is loaded.
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
