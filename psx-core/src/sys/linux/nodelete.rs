//! Keeps the library that psx is part of loaded.
//!
//! A program may load it by `dlopen` and close it again. Then the signal handler, the destructor of the
//! exit hook's key and the fork hooks would be dangling pointers: the end of a thread, or the libc's own
//! signal 33, would crash the program. Contains `unsafe`: it calls the dynamic loader.

use crate::Errno;

/// Keeps the object that contains `address` loaded until the process ends (`RTLD_NODELETE`). Does nothing
/// for the main program, which stays loaded, and in a static program.
///
/// Takes the dynamic loader's lock, and may allocate. Fails with `ENOTSUP` if the loader cannot do it.
#[cfg(all(target_env = "gnu", not(target_feature = "crt-static")))]
pub(crate) fn keep_loaded(address: *const ()) -> Result<(), Errno> {
    use core::ffi::{c_char, c_int, c_void};
    use core::mem::MaybeUninit;
    use core::ptr;

    /// The beginning of the loader's `struct link_map`; see `dladdr(3)`.
    #[repr(C)]
    struct LinkMap {
        base: usize,
        name: *const c_char,
    }

    /// Makes `dladdr1` return the [`LinkMap`].
    const RTLD_DL_LINKMAP: c_int = 2;

    unsafe extern "C" {
        fn dladdr1(
            address: *const c_void,
            info: *mut libc::Dl_info,
            extra: *mut *mut c_void,
            flags: c_int,
        ) -> c_int;
    }

    let mut info = MaybeUninit::uninit();
    let mut map = ptr::null_mut();
    // SAFETY: the loader writes to two places of ours.
    let found =
        unsafe { dladdr1(address.cast(), info.as_mut_ptr(), &raw mut map, RTLD_DL_LINKMAP) };
    if found == 0 || map.is_null() {
        // The loader did not load it, so it cannot unload it.
        return Ok(());
    }
    // SAFETY: the object that this code is in has a map while it is loaded, with a C string as its name.
    let name = unsafe { (*map.cast::<LinkMap>()).name };
    // SAFETY: as above. The main program's name is empty.
    if name.is_null() || unsafe { *name } == 0 {
        return Ok(());
    }
    let flags = libc::RTLD_NOW | libc::RTLD_NODELETE | libc::RTLD_NOLOAD;
    // SAFETY: the object is loaded already, so its initialisers do not run. The result is never closed.
    if unsafe { libc::dlopen(name, flags) }.is_null() {
        // SAFETY: discards the message, so that the program does not find it.
        unsafe { libc::dlerror() };
        return Err(Errno::from_raw(libc::ENOTSUP));
    }
    Ok(())
}

/// Does nothing: musl unloads no library, and a static program has none.
#[cfg(not(all(target_env = "gnu", not(target_feature = "crt-static"))))]
pub(crate) fn keep_loaded(_: *const ()) -> Result<(), Errno> {
    Ok(())
}
