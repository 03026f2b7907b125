//! Which calls of other crates may be made in `Broadcast::run`, which must neither allocate nor lock, as
//! listed in docs/integration.md. Each case runs in a child process.

use std::alloc::{GlobalAlloc, Layout, System};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use psx::{Broadcast, Divergence, Errno};
use psx_test_support::raw::{errno, set_errno};
use psx_test_support::threads::start_named;
use psx_test_support::{Case, Ending, Line, root};
use rustix::thread as rustix_thread;
use rustix::thread::{CapabilitySet, CapabilitySets};

/// Counts the program's allocations. In a round only the threads that make the call can allocate.
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
    psx_test_support::main(vec![
        Case::new("rustix::thread", rustix_calls).needs(root),
        Case::new("capctl", capctl_calls).needs(root),
        Case::new("nix::prctl", |_| {
            assert_fit(&|| nix::sys::prctl::set_no_new_privs().map_err(|e| e as i32));
        }),
        // On the caller alone, where it does no harm: no other thread is stopped.
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
            line.send("begins");
            // SAFETY: none: that it is not async-signal-safe is what this shows.
            let _ = unsafe {
                Broadcast::new().run(|| {
                    nix::unistd::setgroups(&[]).map_err(|e| Errno::from_raw(e as i32))?;
                    Ok(0)
                })
            };
        })
        .needs(|| root().and_then(|()| glibc()))
        .limit(Duration::from_secs(2))
        .check(|child| {
            child.expect("begins");
            assert_eq!(child.end(), Ending::Hung);
        }),
    ])
}

fn glibc() -> Result<(), String> {
    if cfg!(target_env = "gnu") { Ok(()) } else { Err("needs glibc".into()) }
}

fn rustix_calls(_: &Line) {
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
    // A refused call neither allocates nor writes errno.
    assert_eq!(allocations_of(&|| raw(rustix_thread::set_capabilities(None, all))), 0);
    assert_eq!(errno_after(&|| raw(rustix_thread::set_capabilities(None, all))), UNTOUCHED);
}

fn capctl_calls(_: &Line) {
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
    // A refused call does not allocate either, but writes errno.
    assert_eq!(allocations_of(&|| raw(all.set_current())), 0);
    assert_eq!(errno_after(&|| raw(all.set_current())), libc::EPERM);
}

/// Asserts that `call` succeeds on every thread, and allocates nothing.
fn assert_fit(call: &(impl Fn() -> Result<(), i32> + Sync)) {
    start_idlers();
    let reporting = Broadcast::new().divergence(Divergence::Report);
    // SAFETY: that of the call, which is what is tested.
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
    set_errno(UNTOUCHED);
    let _ = call();
    errno()
}

fn start_idlers() {
    for _ in 0..3 {
        start_named("idler", || ());
    }
}
