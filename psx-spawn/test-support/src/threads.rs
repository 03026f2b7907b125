//! Threads to broadcast to, started through psx.

use std::sync::mpsc;
use std::time::Duration;

use psx::thread;

use crate::raw::must;

/// The calling thread's kernel id.
pub fn tid() -> u32 {
    must(libc::SYS_gettid, [0; 6]) as u32
}

/// Parks the calling thread until the process ends.
pub fn idle() -> ! {
    loop {
        thread::park();
    }
}

/// Starts threads that do nothing until the process ends. They need not have run yet.
pub fn start_idlers(count: usize) {
    for _ in 0..count {
        thread::spawn(idle);
    }
}

/// Starts a thread that runs `first`, then does nothing until the process ends. Returns its id when
/// `first` has run.
pub fn start_named<T>(name: &str, first: impl FnOnce() -> T + Send + 'static) -> u32 {
    start_by(first, |body| {
        thread::Builder::new().name(name.into()).spawn(body).expect("a thread");
    })
}

/// The same for a thread that is not registered.
pub fn start_unregistered<T>(name: &str, first: impl FnOnce() -> T + Send + 'static) -> u32 {
    start_by(first, |body| {
        std::thread::Builder::new().name(name.into()).spawn(body).expect("a thread");
    })
}

fn start_by<T>(first: impl FnOnce() -> T + Send + 'static, spawn: impl FnOnce(crate::Job)) -> u32 {
    let (ready, is_ready) = mpsc::channel();
    spawn(Box::new(move || {
        first();
        ready.send(tid()).expect("the starter waits");
        idle()
    }));
    is_ready.recv().expect("the thread's id")
}

/// A pause between the rounds of a loop. On a busy machine, rounds without a pause would leave thread
/// starts, forks and execs next to no time: a gate that is open for a microsecond is closed again before
/// the threads that it has woken get a core.
pub fn breathe() {
    thread::sleep(Duration::from_micros(100));
}
