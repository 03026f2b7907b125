//! A plug-in that uses psx, for a host that is written in C and loads it by `dlopen`.
//!
//! Nothing is special about it but that every function returns a status: a panic must not leave into
//! the host. psx keeps the plug-in loaded from its first use on, whatever `dlclose` is called for, since
//! threads that it has registered tell it of their ends.

use std::ffi::{c_char, c_int};
use std::time::Duration;

use psx::{Broadcast, Coverage, Errno};

/// Registers the calling thread. 0, or -1 on failure.
#[unsafe(no_mangle)]
pub extern "C" fn plugin_adopt() -> c_int {
    if psx::thread::adopt().is_ok() { 0 } else { -1 }
}

/// Adds one to the timer slack of all threads if `require`, else of the registered ones, within so many
/// milliseconds. Returns how many threads that were, or -1 after it has written the error to `text`.
///
/// # Safety
///
/// `text` has room for `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn plugin_round(
    require: c_int,
    milliseconds: u32,
    text: *mut c_char,
    size: usize,
) -> c_int {
    let coverage = if require != 0 { Coverage::Require } else { Coverage::Registered };
    let timeout = Duration::from_millis(milliseconds.into());
    let broadcast = Broadcast::new().coverage(coverage).timeout(timeout);
    // SAFETY: two system calls that touch no memory; the slack is a number that nothing here needs.
    match unsafe { broadcast.run(add_one) } {
        Ok(report) => report.threads() as c_int,
        Err(error) => {
            let said = error.to_string();
            let length = said.len().min(size.saturating_sub(1));
            // SAFETY: as many bytes as there is room for, by our caller's promise.
            unsafe {
                text.cast::<u8>().copy_from_nonoverlapping(said.as_ptr(), length);
                if size > 0 {
                    text.add(length).write(0);
                }
            }
            -1
        }
    }
}

fn add_one() -> Result<usize, Errno> {
    // SAFETY: neither touches memory.
    unsafe {
        let slack = libc::prctl(libc::PR_GET_TIMERSLACK, 0, 0, 0, 0);
        libc::prctl(libc::PR_SET_TIMERSLACK, slack + 1, 0, 0, 0);
    }
    Ok(0)
}
