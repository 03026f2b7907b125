//! Another process that sends signal 33: stray ones, and forged summonses.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use psx_examples::raw;
use psx_examples::status::tids;

use crate::random::Random;

const SIGNAL: usize = 33;
/// What psx itself says when it summons.
const SUMMONS: i32 = -0x0070_7378;

/// Sends bursts to the process `pid` until it is over.
pub(crate) fn disturb(pid: u32, count: &AtomicU64, is_over: &AtomicBool) {
    let mut random = Random::new(u64::from(pid), 0);
    while !is_over.load(Ordering::Relaxed) {
        let Ok(tids) = tids(pid) else { return };
        if tids.is_empty() {
            return;
        }
        for _ in 0..random.below(100) {
            send(pid, random.pick(&tids), &mut random);
            count.fetch_add(1, Ordering::Relaxed);
        }
        thread::sleep(Duration::from_millis(random.below(20)));
    }
}

fn send(pid: u32, tid: u32, random: &mut Random) {
    let (pid, tid) = (pid as usize, tid as usize);
    let code = random.pick(&[SUMMONS, libc::SI_QUEUE, libc::SI_TIMER, -1, -33, i32::MIN]);
    // A siginfo_t that says no more than signal and code.
    let mut info = [0_i32; 32];
    (info[0], info[2]) = (SIGNAL as i32, code);
    let (nr, args) = match random.below(3) {
        0 => (libc::SYS_kill, [pid, SIGNAL, 0, 0, 0]),
        1 => (libc::SYS_tgkill, [pid, tid, SIGNAL, 0, 0]),
        _ => (libc::SYS_rt_tgsigqueueinfo, [pid, tid, SIGNAL, info.as_ptr() as usize, 0]),
    };
    // A thread that has gone, or a full queue, is no affair of the sender's.
    // SAFETY: `info` outlives the call; the process sets out to survive the signal.
    let _ = unsafe { raw::syscall(nr, args) };
}
