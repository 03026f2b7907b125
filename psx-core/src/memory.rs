//! Allocation that may fail. A round begun in a program that has used up its memory is refused, not
//! the end of the program. Contains `unsafe`: std's own fallible box is not stable yet.

use std::alloc::{Layout, alloc};
use std::ptr::NonNull;

use crate::Errno;

/// There was no memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoMemory;

impl NoMemory {
    /// `ENOMEM`.
    pub(crate) fn errno(self) -> Errno {
        Errno::from_raw(libc::ENOMEM)
    }
}

/// `Box::new`, for values of a nonzero size.
pub(crate) fn try_box<T>(value: T) -> Result<Box<T>, NoMemory> {
    const { assert!(size_of::<T>() != 0) };
    // SAFETY: the layout is not zero-sized.
    let place = NonNull::new(unsafe { alloc(Layout::new::<T>()) }.cast::<T>()).ok_or(NoMemory)?;
    // SAFETY: allocated just now with the layout of a T, by the allocator that Box frees with, and
    // written before the Box takes it.
    Ok(unsafe {
        place.write(value);
        Box::from_raw(place.as_ptr())
    })
}

/// A vector that takes `capacity` elements without allocating.
pub(crate) fn try_vec<T>(capacity: usize) -> Result<Vec<T>, NoMemory> {
    let mut vec = Vec::new();
    vec.try_reserve_exact(capacity).map_err(|_| NoMemory)?;
    Ok(vec)
}
