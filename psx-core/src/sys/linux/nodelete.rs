//! Keeps the library that psx is part of loaded. A program may load it by `dlopen` and close it again,
//! but then the signal handler, the destructor of the exit hook's key and the fork hooks would point
//! into nothing: the next thread's end, or the libc's next own signal 33, would be the end of the
//! program. Contains `unsafe`: it asks the dynamic loader.

use crate::Errno;

/// Keeps the object that `address` is in loaded until the end of the process. Does nothing for the
/// program itself, which stays anyway, and in a static program.
///
/// Takes the dynamic loader's lock, and may allocate. Fails with `ENOTSUP` where the loader cannot do
/// it.
#[cfg(all(target_env = "gnu", not(target_feature = "crt-static")))]
pub(crate) fn keep_loaded(address: *const ()) -> Result<(), Errno> {
    use core::ffi::{c_char, c_int, c_void};
    use core::mem::MaybeUninit;
    use core::ptr;

    /// The beginning of what the loader has for each object; see `dladdr(3)`.
    #[repr(C)]
    struct LinkMap {
        base: usize,
        name: *const c_char,
    }

    /// Asks for the [`LinkMap`].
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
    // SAFETY: places for the answers, both ours.
    let found =
        unsafe { dladdr1(address.cast(), info.as_mut_ptr(), &raw mut map, RTLD_DL_LINKMAP) };
    if found == 0 || map.is_null() {
        // Not the loader's, which cannot unload it then.
        return Ok(());
    }
    // SAFETY: the object that we run in has a map for as long as it is loaded, with a C string for its
    // name.
    let name = unsafe { (*map.cast::<LinkMap>()).name };
    // SAFETY: as above. The program itself has no name.
    if name.is_null() || unsafe { *name } == 0 {
        return Ok(());
    }
    let flags = libc::RTLD_NOW | libc::RTLD_NODELETE | libc::RTLD_NOLOAD;
    // SAFETY: the name of an object that is loaded, so that nothing is run. What this returns is never
    // closed.
    if unsafe { libc::dlopen(name, flags) }.is_null() {
        // SAFETY: takes the message away, which is not the program's.
        unsafe { libc::dlerror() };
        return Err(Errno::from_raw(libc::ENOTSUP));
    }
    Ok(())
}

/// Does nothing: musl unloads nothing, and a static program has nothing to unload.
#[cfg(not(all(target_env = "gnu", not(target_feature = "crt-static"))))]
pub(crate) fn keep_loaded(_: *const ()) -> Result<(), Errno> {
    Ok(())
}
