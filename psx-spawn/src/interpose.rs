//! Feature `interpose`: the program's `pthread_create`, so that every thread is registered without
//! a change to the code that starts it.
//!
//! A program's own definition of a libc function comes before the libc's, for the program and for
//! every shared library that it loads. What the libc calls within itself (a timer's helper thread)
//! and threads made by `clone` do not pass here: the coverage proof finds those.
//!
//! The parent's side of a birth is the same as in [`thread::spawn`](crate::thread::spawn). A thread
//! that is started there passes here too: it enters a second time without waiting, and its second
//! ticket is spent without effect.
//!
//! Nothing of this needs an initialisation, so that a library's constructor may start threads
//! before `main`. It allocates, in the parent and before the thread exists; an allocator that starts
//! its first thread in the middle of that gets one that is not registered, and no second loop.
//!
//! Contains `unsafe`: it stands between a C function and its callers.

use std::alloc::{Layout, alloc};
use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::mem;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicPtr, Ordering};

use psx_core::{Passage, Ticket};

use crate::Error;

#[cfg(target_feature = "crt-static")]
compile_error!(
    "feature `interpose` needs a shared libc: there is no pthread_create behind another in a static one"
);

/// What a thread begins with. It may unwind: that is how glibc ends a thread in `pthread_exit` and
/// on cancellation.
type Start = unsafe extern "C-unwind" fn(*mut c_void) -> *mut c_void;
type PthreadCreate = unsafe extern "C" fn(
    *mut libc::pthread_t,
    *const libc::pthread_attr_t,
    Start,
    *mut c_void,
) -> c_int;

/// A thread that is about to be born.
struct Birth {
    ticket: Ticket,
    start: Start,
    argument: *mut c_void,
}

thread_local! {
    /// Whether this thread is laying out a birth. Initialised by a constant and without a
    /// destructor: it can be read before and after everything else.
    static LAYING_OUT: Cell<bool> = const { Cell::new(false) };
}

/// Starts a registered thread: `pthread_create(3)` otherwise.
///
/// # Safety
///
/// As `pthread_create(3)`.
#[unsafe(no_mangle)]
unsafe extern "C" fn pthread_create(
    thread: *mut libc::pthread_t,
    attributes: *const libc::pthread_attr_t,
    start: Start,
    argument: *mut c_void,
) -> c_int {
    let Some(create) = libcs_own() else { return libc::ENOSYS };
    // SAFETY: the arguments are our caller's, for whom the libc's own function is meant.
    let create_as_it_is = || unsafe { create(thread, attributes, start, argument) };
    if LAYING_OUT.replace(true) {
        return create_as_it_is();
    }
    let laid_out = lay_out(start, argument);
    LAYING_OUT.set(false);
    let (_passage, birth) = match laid_out {
        Ok(laid_out) => laid_out,
        Err(Error::OutOfMemory | Error::Reentrant) => return libc::EAGAIN,
        // What keeps psx from registering threads is no reason for the program not to have them.
        Err(_) => return create_as_it_is(),
    };
    let birth = Box::into_raw(birth);
    // SAFETY: `begin` takes the box that it is given, once.
    let result = unsafe { create(thread, attributes, begin, birth.cast()) };
    if result != 0 {
        // SAFETY: no thread has taken the box.
        drop(unsafe { Box::from_raw(birth) });
    }
    result
}

fn lay_out(start: Start, argument: *mut c_void) -> Result<(Passage, Box<Birth>), Error> {
    let passage = Passage::enter()?;
    let ticket = passage.ticket()?;
    let layout = Layout::new::<Birth>();
    // SAFETY: a birth has a size.
    let birth = NonNull::new(unsafe { alloc(layout) }).ok_or(Error::OutOfMemory)?.cast::<Birth>();
    // SAFETY: memory of a birth's layout, which is nobody else's; so it makes a box.
    let birth = unsafe {
        birth.write(Birth { ticket, start, argument });
        Box::from_raw(birth.as_ptr())
    };
    Ok((passage, birth))
}

/// The first function of a registered thread. Whatever it owns is gone before `start` is called, so
/// that `start` may end the thread by unwinding past it.
unsafe extern "C-unwind" fn begin(birth: *mut c_void) -> *mut c_void {
    // SAFETY: `pthread_create` has made it, and hands it to this thread alone.
    let Birth { ticket, start, argument } = *unsafe { Box::from_raw(birth.cast::<Birth>()) };
    ticket.redeem();
    // SAFETY: what the thread was started for.
    unsafe { start(argument) }
}

/// The libc's `pthread_create`, behind ours.
fn libcs_own() -> Option<PthreadCreate> {
    /// Relaxed: every thread finds the same.
    static FOUND: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());
    let mut found = FOUND.load(Ordering::Relaxed);
    if found.is_null() {
        // SAFETY: the name is a C string.
        found = unsafe { libc::dlsym(libc::RTLD_NEXT, c"pthread_create".as_ptr()) };
        FOUND.store(found, Ordering::Relaxed);
    }
    // SAFETY: null, or a function of that type; its `start` may unwind in every libc that has
    // `pthread_exit` unwind.
    unsafe { mem::transmute::<*mut c_void, Option<PthreadCreate>>(found) }
}
