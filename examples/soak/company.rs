//! Threads that rounds have to stop in awkward places: with a lock of the program's, or libc's, in
//! their hands.

use std::env;
use std::ffi::CStr;
use std::hint::black_box;
use std::io::{Write, stdout};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use psx::thread;

use crate::births::LOADER;
use crate::count;
use crate::random::Random;
use crate::tally::{self, Event};
use crate::uring::Ring;

/// A few milliseconds with one lock or another, most of them inside it.
pub(crate) fn hold(random: &mut Random) {
    static LOCK: Mutex<u64> = Mutex::new(0);
    let work: fn() = match random.below(5) {
        // Large enough to pass by the threads' own caches.
        0 => || drop(black_box(vec![0_u8; 8 << 10])),
        // Standard output is /dev/null here.
        1 => || drop(writeln!(stdout().lock(), "no news")),
        // SAFETY: whatever reads the environment in this process does so through std.
        2 => || unsafe { env::set_var("PSX_SOAK", "here") },
        3 => || *LOCK.lock().unwrap_or_else(PoisonError::into_inner) += 1,
        _ => return load_library(),
    };
    let end = Instant::now() + Duration::from_millis(random.below(20));
    while Instant::now() < end {
        work();
    }
    count::check("a holder of locks");
    tally::count(Event::Lock);
    thread::sleep(Duration::from_millis(random.below(10)));
}

/// The loader has a lock of its own.
fn load_library() {
    // Parts of the C library that nothing here is linked with.
    const LIBRARIES: [&CStr; 3] = [c"libresolv.so.2", c"libanl.so.1", c"libnss_compat.so.2"];
    for library in LIBRARIES {
        let _no_fork = LOADER.lock();
        // SAFETY: libraries of the system's, whose constructors do nothing to us.
        let library = unsafe { libc::dlopen(library.as_ptr(), libc::RTLD_NOW) };
        if !library.is_null() {
            // SAFETY: what dlopen returned.
            unsafe { libc::dlclose(library) };
            tally::count(Event::Library);
        }
    }
    count::check("a loader");
}

/// Has all threads contend for malloc's one lock, where there would be one for each.
pub(crate) fn share_one_arena() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no other thread has allocated yet.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1)
    };
}

/// An io_uring ring with a kernel worker, for a moment.
pub(crate) fn ring(random: &mut Random) {
    let pause = Duration::from_millis(100 + random.below(400));
    // Where io_uring is forbidden, or not there, there is nothing to be tried.
    if let Ok(ring) = Ring::with_worker() {
        tally::count(Event::Ring);
        thread::sleep(pause);
        drop(ring);
    } else {
        thread::sleep(pause);
    }
    count::check("a user of io_uring");
}
