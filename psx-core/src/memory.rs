//! Fallible allocation: in a program without free memory a broadcast returns an error instead of ending
//! the process. Contains `unsafe`: std's own fallible box is not stable yet.

use std::alloc::{Layout, alloc};
use std::ptr::NonNull;

use crate::Errno;

/// An allocation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoMemory;

impl NoMemory {
    /// `ENOMEM`.
    pub(crate) fn errno(self) -> Errno {
        Errno::from_raw(libc::ENOMEM)
    }
}

/// `Box::new` for types that are not zero-sized.
pub(crate) fn try_box<T>(value: T) -> Result<Box<T>, NoMemory> {
    const { assert!(size_of::<T>() != 0) };
    // SAFETY: the layout is not zero-sized.
    let place = NonNull::new(unsafe { alloc(Layout::new::<T>()) }.cast::<T>()).ok_or(NoMemory)?;
    // SAFETY: allocated just now with the layout of T, by the allocator that Box frees with, and written
    // before the Box takes it.
    Ok(unsafe {
        place.write(value);
        Box::from_raw(place.as_ptr())
    })
}

/// An empty vector with room for `capacity` elements.
pub(crate) fn try_vec<T>(capacity: usize) -> Result<Vec<T>, NoMemory> {
    let mut vec = Vec::new();
    vec.try_reserve_exact(capacity).map_err(|_| NoMemory)?;
    Ok(vec)
}
