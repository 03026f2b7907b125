//! Which thread is which: ids that are given away again, and what finds a thread's entry.

use std::ffi::{CStr, CString, c_int, c_void};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::{fs, mem, process, thread};

use crate::case::Expected::Ok;
use crate::case::{Case, Start};
use crate::raw;
use crate::stage::Stage;
use crate::supervisor::workshop;

/// The id after which the kernel goes on in this pid namespace (`CONFIG_CHECKPOINT_RESTORE`).
const LAST_ID: &str = "/proc/sys/kernel/ns_last_pid";

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
        "handler-jumps",
        "a handler for 33 that leaves by siglongjmp, five times",
        &[Ok],
        |stage| {
            let _crew = stage.crew();
            stage.count().expect("a first round");
            let library = load("jump.so");
            raw::handle_33(unsafe {
                // SAFETY: a function of this type in the C source.
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
