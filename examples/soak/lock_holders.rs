//! Threads that rounds stop while they hold a lock of the program or the libc; and a ring with a kernel worker.

use std::env;
use std::ffi::CStr;
use std::hint::black_box;
use std::io::{Write, stdout};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use psx::thread;
use psx_test_support::{Random, Ring};

use crate::count;
use crate::spawn::LOADER;
use crate::tally::{self, Event};

/// Holds one of several locks most of the time, for some milliseconds.
pub(crate) fn hold(random: &mut Random) {
    static LOCK: Mutex<u64> = Mutex::new(0);
    let work: fn() = match random.below(5) {
        // Too large for malloc's caches of each thread.
        0 => || drop(black_box(vec![0_u8; 8 << 10])),
        // Standard output is /dev/null here.
        1 => || drop(writeln!(stdout().lock(), "no news")),
        // SAFETY: only std reads the environment in this process.
        2 => || unsafe { env::set_var("PSX_SOAK", "set") },
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

/// Takes the loader's lock.
fn load_library() {
    // Parts of the C library that this program is not linked with.
    const LIBRARIES: [&CStr; 3] = [c"libresolv.so.2", c"libanl.so.1", c"libnss_compat.so.2"];
    for library in LIBRARIES {
        let _no_fork = LOADER.lock();
        // SAFETY: the system's libraries, whose constructors do not affect this program.
        let library = unsafe { libc::dlopen(library.as_ptr(), libc::RTLD_NOW) };
        if !library.is_null() {
            // SAFETY: what dlopen returned.
            unsafe { libc::dlclose(library) };
            tally::count(Event::Library);
        }
    }
    count::check("a loader");
}

/// Makes all threads use one malloc arena, and so one lock.
pub(crate) fn share_one_arena() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no other thread has allocated yet.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1)
    };
}

/// An io_uring ring with a kernel worker, for a short time.
pub(crate) fn ring(random: &mut Random) {
    let pause = Duration::from_millis(100 + random.below(400));
    // io_uring may be missing or forbidden.
    if let Ok(ring) = Ring::with_worker() {
        tally::count(Event::Ring);
        thread::sleep(pause);
        drop(ring);
    } else {
        thread::sleep(pause);
    }
    count::check("a user of io_uring");
}
