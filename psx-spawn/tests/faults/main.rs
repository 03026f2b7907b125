//! What happens to a broadcast when the machine, the program or an attacker misbehaves.
//!
//! `cargo test -p psx-spawn --test faults` applies one fault after another to psx, each in a child process,
//! compares the outcome with what another process reads about every thread in /proc (or with each
//! thread's own attempt, where /proc does not show it), and prints a table at the end: the fault, the
//! expected outcome, the outcome, and how long the calls took. docs/comparison.md uses the same words:
//!
//! - OK: the call succeeded and every live thread has the new state;
//! - CLEAN: it failed within its timeout, named the cause, and nothing changed;
//! - PARTIAL: it reported success and some thread kept the old state, or failure and some thread
//!   changed;
//! - HANG: no result within the row's limit; KILLED: the process died;
//! - ENDED: the process ended, as expected.
//!
//! As root, a second table (`[glibc]`) applies the faults to glibc's setresuid, which must fail under each:
//! that shows that the fault is effective, and that the oracle sees a failure.
//!
//! `--subject psx` and `--subject glibc` select one table, one or more names or parts of names select rows;
//! the other options are those of Rust's own harness. Rows that need root are ignored without it.
//!
//! docs/promises.md lists the rows that test each promise. `row`, `table`: the rows and how they run;
//! `context`: what a row's process uses; `supervisor`, `oracle`: the other side; `raw`, `servers`,
//! `cgroup`: the kernel's interfaces; all other modules: rows.

// main must be C's, so that a row can leave it by pthread_exit: Rust's has a frame that no forced
// unwinding may pass.
#![no_main]

mod cgroup;
mod context;
mod oracle;
mod raw;
mod row;
mod servers;
mod supervisor;
mod table;

mod caller;
mod churn;
mod diverge;
mod flood;
mod fork;
mod fuse;
mod identity;
mod jail;
mod kvm;
mod landlock;
mod lock_holders;
mod memory;
mod proc;
mod refused;
mod seccomp;
mod signals;
mod threads;
mod traps;
mod uring;
mod waits;

use std::env;
use std::ffi::{c_char, c_int, c_void};
use std::sync::atomic::{AtomicBool, Ordering};

/// Set by a row that continues without its main thread.
static LEAVE_MAIN: AtomicBool = AtomicBool::new(false);

#[unsafe(no_mangle)]
extern "C-unwind" fn main(_: c_int, _: *const *const c_char) -> c_int {
    let status = run();
    if LEAVE_MAIN.load(Ordering::Relaxed) {
        unsafe extern "C-unwind" {
            fn pthread_exit(value: *mut c_void) -> !;
        }
        // SAFETY: no frame of this thread has anything left to drop.
        unsafe { pthread_exit(std::ptr::null_mut()) }
    }
    status
}

/// One of this program's three parts.
fn run() -> c_int {
    // As Rust's main does: a write to a closed socket is an error, and does not end the process.
    // SAFETY: no other thread runs yet.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    let args: Vec<_> = env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--helper", kind, pid] => flood::help(kind, pid.parse().expect("a process id")),
        _ => table::run(args),
    }
}
