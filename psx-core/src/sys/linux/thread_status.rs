//! What `/proc/PID/task/TID/status` and `wchan` show of a thread that does not take its signal; see
//! `proc_pid_status(5)` and `proc_pid_wchan(5)`.
//!
//! wchan is the innermost function of the sleeping thread that is not in the kernel's scheduler section
//! (`get_wchan` in kernel/sched/core.c), or `0`. Two are known here:
//!
//! - in `vfork`: the caller of `wait_for_vfork_done` (kernel/fork.c, static and in practice inlined), which
//!   is `kernel_clone` since Linux 5.10, `_do_fork` since 4.2, `do_fork` before.
//! - in a page fault that userfaultfd serves: `handle_userfault` (fs/userfaultfd.c).
//!
//! Both sleep in state D if a signal cannot interrupt them. A system call that may be interrupted, but not in
//! its page fault, repeats the fault while a signal is pending: such a thread is in state R and has no wchan.

use super::procfs::parse;
use super::signal::SUMMONS;
use crate::Obstacle;

/// The most bytes of a wchan: the kernel's `KSYM_NAME_LEN`.
pub(super) const WCHAN_SIZE: usize = 512;

const VFORK: [&str; 4] = ["kernel_clone", "_do_fork", "do_fork", "wait_for_vfork_done"];
const USERFAULT: &str = "handle_userfault";

/// The obstacle that a status shows. `read_wchan` is called if that depends on the wchan.
///
/// A thread that has taken its signal may wait for a core or a disk as any other. So what it waits for is
/// an obstacle only while its signal is queued, by the same read.
pub(super) fn obstacle<'b>(
    status: &[u8],
    read_wchan: impl FnOnce() -> Option<&'b [u8]>,
) -> Option<Obstacle> {
    let state = *field(status, b"State:\t")?.first()?;
    let is_pending = signal_set(status, b"SigPnd:\t")?;
    let is_blocked = signal_set(status, b"SigBlk:\t")?;
    match state {
        b't' => {
            let tracer = field(status, b"TracerPid:\t").and_then(parse).filter(|&pid| pid != 0);
            return Some(Obstacle::Traced { tracer });
        }
        b'T' => return Some(Obstacle::Stopped),
        b'Z' | b'X' => return None,
        _ => {}
    }
    let wchan = if state == b'D' && is_pending { read_wchan().and_then(function) } else { None };
    // Compilers append to the name of a function that they have changed: `.isra.0`, `.constprop.0`.
    let waits_in = wchan.map(|name| name.split('.').next().unwrap_or(name));
    if waits_in.is_some_and(|name| VFORK.contains(&name)) {
        // posix_spawn blocks all signals for the length of its vfork.
        Some(Obstacle::Vfork)
    } else if is_blocked {
        Some(Obstacle::SignalBlocked)
    } else if !is_pending {
        is_queue_full(status)?.then_some(Obstacle::SignalQueueFull)
    } else if waits_in == Some(USERFAULT) {
        Some(Obstacle::PageFault)
    } else if state == b'D' {
        Some(Obstacle::Uninterruptible { wchan: wchan.and_then(try_boxed) })
    } else {
        (state == b'R').then_some(Obstacle::Runnable)
    }
}

/// The rest of the line that starts with `key`. A line break in the thread's name is escaped.
fn field<'t>(status: &'t [u8], key: &[u8]) -> Option<&'t [u8]> {
    status.split(|&byte| byte == b'\n').find_map(|line| line.strip_prefix(key))
}

/// Whether the set in this line contains signal 33.
fn signal_set(status: &[u8], key: &[u8]) -> Option<bool> {
    let digits = core::str::from_utf8(field(status, key)?).ok()?;
    let set = u64::from_str_radix(digits, 16).ok()?;
    Some(set >> (SUMMONS - 1) & 1 != 0)
}

/// Whether the queued signals of the user are as many as the limit.
fn is_queue_full(status: &[u8]) -> Option<bool> {
    let (queued, limit) = core::str::from_utf8(field(status, b"SigQ:\t")?).ok()?.split_once('/')?;
    Some(queued.parse::<u64>().ok()? >= limit.parse().ok()?)
}

/// The function in a wchan; `None` if the kernel has no name for it.
fn function(wchan: &[u8]) -> Option<&str> {
    core::str::from_utf8(wchan).ok().filter(|&name| !matches!(name, "" | "0"))
}

/// A copy; `None` without memory.
fn try_boxed(text: &str) -> Option<Box<str>> {
    let mut copy = String::new();
    copy.try_reserve_exact(text.len()).ok()?;
    copy.push_str(text);
    Some(copy.into_boxed_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: u64 = 0;
    const OURS: u64 = 1 << 32;
    const ALL: u64 = 0xffff_ffff_fffb_feff;

    /// As Linux 6.18 writes it, without most of the lines.
    fn status(state: &str, tracer: u32, queue: &str, pending: u64, blocked: u64) -> String {
        format!(
            "Name:\tSigBlk:\\nx\nUmask:\t0022\nState:\t{state}\nTgid:\t7\nNgid:\t0\nPid:\t8\n\
             PPid:\t1\nTracerPid:\t{tracer}\nUid:\t0\t0\t0\t0\nThreads:\t3\nSigQ:\t{queue}\n\
             SigPnd:\t{pending:016x}\nShdPnd:\t0000000000000000\nSigBlk:\t{blocked:016x}\n\
             SigIgn:\t0000000000001000\n"
        )
    }

    fn seen(state: &str, pending: u64, blocked: u64, wchan: &str) -> Option<Obstacle> {
        let status = status(state, 0, "3/96365", pending, blocked);
        obstacle(status.as_bytes(), || Some(wchan.as_bytes()))
    }

    const DISK: &str = "D (disk sleep)";
    const SLEEPS: &str = "S (sleeping)";

    fn uninterruptible(wchan: Option<&str>) -> Option<Obstacle> {
        Some(Obstacle::Uninterruptible { wchan: wchan.map(Into::into) })
    }

    #[test]
    fn stops_come_first() {
        for pending in [NONE, OURS] {
            let traced = status("t (tracing stop)", 4321, "3/96365", pending, ALL);
            let by = Some(Obstacle::Traced { tracer: Some(4321) });
            assert_eq!(obstacle(traced.as_bytes(), || unreachable!()), by);
            let unknown = Some(Obstacle::Traced { tracer: None });
            assert_eq!(seen("t (tracing stop)", pending, NONE, "0"), unknown);
            assert_eq!(seen("T (stopped)", pending, NONE, "0"), Some(Obstacle::Stopped));
        }
        // A tracer that has not stopped the thread is no obstacle.
        let runs = status(SLEEPS, 4321, "3/96365", OURS, NONE);
        assert_eq!(obstacle(runs.as_bytes(), || unreachable!()), None);
    }

    #[test]
    fn wchan_tells_what_it_waits_for() {
        for vfork in ["kernel_clone", "_do_fork", "do_fork", "kernel_clone.isra.0"] {
            for blocked in [NONE, ALL] {
                assert_eq!(seen(DISK, OURS, blocked, vfork), Some(Obstacle::Vfork), "{vfork}");
            }
        }
        assert_eq!(seen(DISK, OURS, NONE, "handle_userfault"), Some(Obstacle::PageFault));
        let fanotify = uninterruptible(Some("fanotify_handle_event"));
        assert_eq!(seen(DISK, OURS, NONE, "fanotify_handle_event"), fanotify);
        for unnamed in ["0", ""] {
            assert_eq!(seen(DISK, OURS, NONE, unnamed), uninterruptible(None));
        }
        let status = status(DISK, 0, "3/96365", OURS, NONE);
        assert_eq!(obstacle(status.as_bytes(), || None), uninterruptible(None));
        assert_eq!(obstacle(status.as_bytes(), || Some(b"\xff")), uninterruptible(None));
        // Its signal will interrupt it.
        assert_eq!(seen(SLEEPS, OURS, NONE, "handle_userfault"), None);
    }

    #[test]
    fn without_its_signal_a_thread_waits_for_its_own_reasons() {
        for state in [DISK, "R (running)", SLEEPS] {
            assert_eq!(seen(state, NONE, NONE, "kernel_clone"), None, "{state}");
        }
        assert_eq!(seen("R (running)", OURS, NONE, "0"), Some(Obstacle::Runnable));
        for state in ["Z (zombie)", "X (dead)"] {
            assert_eq!(seen(state, OURS, ALL, "0"), None);
        }
    }

    #[test]
    fn a_block_is_an_obstacle_in_any_other_state() {
        for state in [SLEEPS, "R (running)", DISK] {
            for pending in [NONE, OURS] {
                let blocks = Some(Obstacle::SignalBlocked);
                assert_eq!(seen(state, pending, ALL, "handle_userfault"), blocks);
                // All but 33.
                assert_ne!(seen(state, pending, ALL & !OURS, "x"), blocks);
            }
        }
    }

    #[test]
    fn a_full_queue_is_one_only_without_the_signal() {
        let seen = |queue: &str, pending| {
            obstacle(status(SLEEPS, 0, queue, pending, NONE).as_bytes(), || unreachable!())
        };
        for (queue, is_full) in [("0/0", true), ("3/0", true), ("5/5", true), ("4/5", false)] {
            assert_eq!(seen(queue, NONE), is_full.then_some(Obstacle::SignalQueueFull), "{queue}");
            assert_eq!(seen(queue, OURS), None, "{queue}");
        }
    }

    #[test]
    fn nothing_is_said_of_what_cannot_be_read() {
        for cut in ["", "Name:\tx\n", "Name:\tx\nState:\t\nSigPnd:\t0\nSigBlk:\t0\n"] {
            assert_eq!(obstacle(cut.as_bytes(), || unreachable!()), None, "{cut:?}");
        }
        let whole = status("R (running)", 0, "x", OURS, NONE);
        let no_set = whole.replace("SigBlk:\t0", "SigBlk:\tx");
        assert_eq!(obstacle(no_set.as_bytes(), || unreachable!()), None);
        let no_queue = whole.replace(&format!("SigPnd:\t{OURS:016x}"), "SigPnd:\t0");
        assert_eq!(obstacle(no_queue.as_bytes(), || unreachable!()), None);
    }
}
