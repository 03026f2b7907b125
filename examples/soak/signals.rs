//! Another process that sends signal 33: plain ones, and forged ones.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use psx_test_support::Random;
use psx_test_support::procfs::tids;
use psx_test_support::signal::{STOP, queue, send};

/// The code of psx's own signals.
const PSX: i32 = -0x0070_7378;

/// Sends bursts to the process `pid` until `is_over`.
pub(crate) fn disturb(pid: u32, count: &AtomicU64, is_over: &AtomicBool) {
    let mut random = Random::new(u64::from(pid));
    while !is_over.load(Ordering::Relaxed) {
        let tids = tids(pid);
        if tids.is_empty() {
            return;
        }
        for _ in 0..random.below(100) {
            disturb_once(pid, random.of(&tids), &mut random);
            count.fetch_add(1, Ordering::Relaxed);
        }
        thread::sleep(Duration::from_millis(random.below(20)));
    }
}

fn disturb_once(pid: u32, tid: u32, random: &mut Random) {
    let code = random.of(&[PSX, libc::SI_QUEUE, libc::SI_TIMER, -1, -33, i32::MIN]);
    // A thread that has ended, or a full queue, does not matter.
    let _ = match random.below(3) {
        0 => send(pid, None, STOP),
        1 => send(pid, Some(tid), STOP),
        _ => queue(pid, tid, STOP, code),
    };
}
