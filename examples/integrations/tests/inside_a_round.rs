//! Which calls of other crates are fit for `Broadcast::run`, where nothing may be allocated and no
//! lock be taken: docs/integration.md lists what is tried here. Each case in a process of its own.

#[path = "../../../psx-spawn/tests/support/mod.rs"]
mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use psx::{Broadcast, Divergence, Errno, thread};
use rustix::thread as rustix_thread;
use rustix::thread::{CapabilitySet, CapabilitySets};
use support::{Case, Ending, root};

/// Counts the program's allocations. In a round only the thread whose turn it is allocates at all.
struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: it is std's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(memory, layout) }
    }
}

fn main() -> ExitCode {
    support::main(vec![
        Case::new("rustix::thread", rustix_calls).needs(root),
        Case::new("capctl", capctl_calls).needs(root),
        Case::new("nix::prctl", |_| {
            assert_fit(&|| nix::sys::prctl::set_no_new_privs().map_err(|e| e as i32));
        }),
        // On the caller alone, where it does no harm: nobody else is stopped.
        Case::new("caps::allocates", |_| {
            use caps::CapSet::Permitted;
            let all = caps::read(None, Permitted).unwrap();
            assert_ne!(allocations_of(&|| caps::read(None, Permitted).map(drop).map_err(|_| 0)), 0);
            let set = || caps::set(None, Permitted, &all).map_err(|_| 0);
            assert_eq!(set(), Ok(()));
            caps::clear(None, caps::CapSet::Effective).unwrap();
            caps::clear(None, Permitted).unwrap();
            assert_eq!(set(), Err(0));
            // The text of its error.
            assert_ne!(allocations_of(&set), 0);
        })
        .needs(root),
        Case::new("nix::setgroups_never_returns", |line| {
            start_idlers();
            line.say("going in");
            // SAFETY: not async-signal-safe, which is what this shows.
            let _ = unsafe {
                Broadcast::new().run(|| {
                    nix::unistd::setgroups(&[]).map_err(|e| Errno::from_raw(e as i32))?;
                    Ok(0)
                })
            };
        })
        .needs(|| root().and_then(|()| glibc()))
        .limit(Duration::from_secs(2))
        .judge(|child| {
            child.hear("going in");
            assert_eq!(child.end(), Ending::Hung);
        }),
    ])
}

fn glibc() -> Result<(), String> {
    if cfg!(target_env = "gnu") { Ok(()) } else { Err("is about glibc".into()) }
}

fn rustix_calls(_: &support::Line) {
    let raw = |result: rustix::io::Result<()>| result.map_err(|e| e.raw_os_error());
    let all = rustix_thread::capabilities(None).unwrap();
    let bind = CapabilitySet::NET_BIND_SERVICE;
    let none = CapabilitySet::empty();
    let secure_bits = rustix_thread::CapabilitiesSecureBits::NO_ROOT;
    let gid = rustix_thread::Gid::from_raw(7);
    let uid = rustix_thread::Uid::from_raw(7);
    assert_fit(&|| raw(rustix_thread::set_no_new_privs(true)));
    assert_fit(&|| raw(rustix_thread::set_capabilities_secure_bits(secure_bits)));
    assert_fit(&|| raw(rustix_thread::set_keep_capabilities(true)));
    assert_fit(&|| raw(rustix_thread::remove_capability_from_bounding_set(CapabilitySet::KILL)));
    let inheritable = CapabilitySets { inheritable: bind, ..all };
    assert_fit(&|| raw(rustix_thread::set_capabilities(None, inheritable)));
    assert_fit(&|| raw(rustix_thread::configure_capability_in_ambient_set(bind, true)));
    assert_fit(&|| raw(rustix_thread::clear_ambient_capability_set()));
    assert_fit(&|| raw(rustix_thread::set_thread_groups(&[gid; 40])));
    assert_fit(&|| raw(rustix_thread::set_thread_gid(gid)));
    assert_fit(&|| raw(rustix_thread::set_thread_res_gid(gid, gid, gid)));
    assert_fit(&|| raw(rustix_thread::set_thread_uid(uid)));
    assert_fit(&|| raw(rustix_thread::set_thread_res_uid(None, uid, None)));
    let nothing = CapabilitySets { effective: none, permitted: none, inheritable: none };
    assert_fit(&|| raw(rustix_thread::set_capabilities(None, nothing)));
    // A call that is refused: neither allocates nor touches errno.
    assert_eq!(allocations_of(&|| raw(rustix_thread::set_capabilities(None, all))), 0);
    assert_eq!(errno_after(&|| raw(rustix_thread::set_capabilities(None, all))), UNTOUCHED);
}

fn capctl_calls(_: &support::Line) {
    let raw = |result: capctl::Result<()>| result.map_err(|e| e.code());
    let all = capctl::CapState::get_current().unwrap();
    let mut inheritable = all;
    inheritable.inheritable.add(capctl::Cap::KILL);
    assert_fit(&|| raw(capctl::prctl::set_no_new_privs()));
    assert_fit(&|| raw(capctl::prctl::set_keepcaps(true)));
    assert_fit(&|| raw(capctl::prctl::set_securebits(capctl::Secbits::NOROOT)));
    assert_fit(&|| raw(inheritable.set_current()));
    assert_fit(&|| raw(capctl::ambient::raise(capctl::Cap::KILL)));
    assert_fit(&|| raw(capctl::ambient::clear()));
    assert_fit(&|| raw(capctl::bounding::drop(capctl::Cap::KILL)));
    let nothing = capctl::CapState::empty();
    assert_fit(&|| raw(nothing.set_current()));
    // A call that is refused does not allocate either, but writes errno.
    assert_eq!(allocations_of(&|| raw(all.set_current())), 0);
    assert_eq!(errno_after(&|| raw(all.set_current())), libc::EPERM);
}

/// Runs `call` on every thread: it must succeed there, and allocate nothing.
fn assert_fit(call: &(impl Fn() -> Result<(), i32> + Sync)) {
    start_idlers();
    let reporting = Broadcast::new().divergence(Divergence::Report);
    // SAFETY: no worse than the call, which is what is tried.
    let report = unsafe {
        reporting.run(|| {
            let before = ALLOCATIONS.load(Ordering::Relaxed);
            call().map_err(Errno::from_raw)?;
            Ok(ALLOCATIONS.load(Ordering::Relaxed) - before)
        })
    };
    let report = report.unwrap();
    assert!(report.threads() > 3);
    assert!(report.is_unanimous(), "{report:?}");
    assert_eq!(report.value(), 0, "allocations");
}

fn allocations_of(call: &dyn Fn() -> Result<(), i32>) -> usize {
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    let _ = call();
    ALLOCATIONS.load(Ordering::Relaxed) - before
}

const UNTOUCHED: i32 = 77;

fn errno_after(call: &dyn Fn() -> Result<(), i32>) -> i32 {
    // SAFETY: the location is the calling thread's own; so below.
    unsafe { *libc::__errno_location() = UNTOUCHED };
    let _ = call();
    // SAFETY: as above.
    unsafe { *libc::__errno_location() }
}

fn start_idlers() {
    for _ in 0..3 {
        let (ready, is_ready) = mpsc::channel();
        thread::spawn(move || {
            ready.send(()).unwrap();
            loop {
                thread::park();
            }
        });
        is_ready.recv().unwrap();
    }
}
