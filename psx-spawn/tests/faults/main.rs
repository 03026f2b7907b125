//! What becomes of a call on every thread when the machine, the program or an attacker misbehaves.
//!
//! `cargo test -p psx-spawn --test faults` puts one fault after another to psx, each in a process
//! of its own, judged by what another process reads of every thread in /proc (or by each thread's
//! own attempt, where /proc does not tell), and prints a table: the fault, what must come out, what
//! came out, and how long the calls took. The words are docs/comparison.md's:
//!
//! - OK: the call succeeded and every live thread has the new state;
//! - CLEAN: it failed within its timeout, named the cause, and nothing changed;
//! - PARTIAL: it reported success and some thread kept the old state, or failure and some thread
//!   changed;
//! - HANG: no answer within the case's limit; KILLED: the process died;
//! - ENDED: the process ended, as it should.
//!
//! As root, a second table puts the faults to glibc's own setresuid, which must fail under each:
//! that shows that the fault is there, and that the judge sees a failure.
//!
//! `--list`, `--exact`, `--skip TEXT`, and one or more TEXTs to filter by work as usual;
//! `--subject psx` and `--subject glibc` print one table only. Rows that need root are left out,
//! and named, where the run is not root.

// main must be C's own, so that a case can leave it by pthread_exit: Rust's has a frame that no
// forced unwinding may pass.
#![no_main]

#[path = "../support/mod.rs"]
mod support;

mod case;
mod confine;
mod judge;
mod raw;
mod servers;
mod stage;
mod supervisor;
mod table;

mod caller;
mod churn;
mod company;
mod diverge;
mod flood;
mod fork;
mod fuse;
mod identity;
mod jail;
mod kvm;
mod landlock;
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

/// Set by a case that goes on without its main thread.
static LEAVE_MAIN: AtomicBool = AtomicBool::new(false);

#[unsafe(no_mangle)]
extern "C-unwind" fn main(_: c_int, _: *const *const c_char) -> c_int {
    let status = play();
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
fn play() -> c_int {
    // Rust's own main would do this: a peer that has died is an error, not an end.
    // SAFETY: no other thread is there to be surprised.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    let args: Vec<_> = env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--child", name] => table::child(name),
        ["--helper", kind, pid] => flood::help(kind, pid.parse().expect("a process id")),
        _ => return table::run(&args),
    }
    0
}
