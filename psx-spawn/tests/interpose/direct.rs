//! Threads that the program starts by the libc's functions, as C code that is linked into it does.

use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;
use std::ptr;

use psx_test_support::threads::idle;

unsafe extern "C" {
    fn thrd_create(
        thread: *mut libc::pthread_t,
        start: extern "C" fn(*mut c_void) -> c_int,
        argument: *mut c_void,
    ) -> c_int;
}

extern "C" fn idle_pthread(_: *mut c_void) -> *mut c_void {
    idle()
}

extern "C" fn idle_c11(_: *mut c_void) -> c_int {
    idle()
}

pub(crate) fn start_pthread() {
    let mut thread = MaybeUninit::uninit();
    let none = ptr::null_mut();
    // SAFETY: room for the new thread's name; no attributes, no argument.
    let error =
        unsafe { libc::pthread_create(thread.as_mut_ptr(), ptr::null(), idle_pthread, none) };
    assert_eq!(error, 0);
}

pub(crate) fn start_c11() {
    let mut thread = MaybeUninit::uninit();
    // SAFETY: as above; a `thrd_t` is a `pthread_t`.
    let error = unsafe { thrd_create(thread.as_mut_ptr(), idle_c11, ptr::null_mut()) };
    assert_eq!(error, 0);
}
