//! A plug-in that uses psx, for a host that is written in C and loads it by `dlopen`.
//!
//! Every function returns a status, since a panic must not unwind into the host. psx keeps the plug-in loaded from
//! its first use on, also after `dlclose`, since registered threads call it at their end.

use std::ffi::{c_char, c_int};
use std::time::Duration;

use psx::{Broadcast, Coverage, Errno};

/// Registers the calling thread. 0, or -1 on failure.
#[unsafe(no_mangle)]
pub extern "C" fn plugin_adopt() -> c_int {
    if psx::thread::adopt().is_ok() { 0 } else { -1 }
}

/// Adds one to the timer slack of all threads if `require`, else of the registered ones, with this timeout in
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
    // SAFETY: two system calls that touch no memory; this program does not need the slack.
    match unsafe { broadcast.run(add_one) } {
        Ok(report) => report.threads() as c_int,
        Err(error) => {
            let message = error.to_string();
            let length = message.len().min(size.saturating_sub(1));
            // SAFETY: as many bytes as there is room for, by the caller's promise.
            unsafe {
                text.cast::<u8>().copy_from_nonoverlapping(message.as_ptr(), length);
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
