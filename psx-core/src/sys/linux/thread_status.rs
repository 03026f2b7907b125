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

use super::mask::BLOCKED;
use super::procfs::parse;
use super::signal::SUMMONS;
use crate::Obstacle;

/// The most bytes of a wchan: the kernel's `KSYM_NAME_LEN`.
pub(super) const WCHAN_SIZE: usize = 512;

const VFORK: [&str; 4] = ["kernel_clone", "_do_fork", "do_fork", "wait_for_vfork_done"];
const SIGNAL: u64 = 1 << (SUMMONS - 1);
/// The signals that psx's handler blocks, as the kernel shows them: SIGKILL and SIGSTOP are never blocked.
const HANDLER: u64 = BLOCKED & !(1 << (libc::SIGKILL - 1) | 1 << (libc::SIGSTOP - 1));

const USERFAULT: &str = "handle_userfault";

/// The obstacle that a status shows. `read_wchan` is called if that depends on the wchan.
///
/// A thread that has taken its signal may wait for a core or a disk as any other. So a block or a wait is an
/// obstacle only while the signal is queued, by the same read.
///
/// psx's handler blocks signals as well. A thread that has no core may still be in it from an earlier round, so
/// in state R a block is the program's own only if it differs from the handler's.
pub(super) fn obstacle<'b>(
    status: &[u8],
    read_wchan: impl FnOnce() -> Option<&'b [u8]>,
) -> Option<Obstacle> {
    let state = *field(status, b"State:\t")?.first()?;
    let is_pending = signal_set(status, b"SigPnd:\t")? & SIGNAL != 0;
    let blocked = signal_set(status, b"SigBlk:\t")?;
    let is_blocked = blocked & SIGNAL != 0;
    let may_be_in_handler = state != b'S' && blocked & HANDLER == HANDLER;
    match state {
        b't' => {
            let tracer = field(status, b"TracerPid:\t").and_then(parse).filter(|&pid| pid != 0);
            return Some(Obstacle::Traced { tracer });
        }
        b'T' => return Some(Obstacle::Stopped),
        b'Z' | b'X' => return None,
        _ => {}
    }
    if !is_pending {
        return (!is_blocked && is_queue_full(status)?).then_some(Obstacle::SignalQueueFull);
    }
    let wchan = if state == b'D' { read_wchan().and_then(function) } else { None };
    // Compilers append to the name of a function that they have changed: `.isra.0`, `.constprop.0`.
    let waits_in = wchan.map(|name| name.split('.').next().unwrap_or(name));
    match waits_in {
        // posix_spawn blocks all signals for the length of its vfork.
        Some(name) if VFORK.contains(&name) => Some(Obstacle::Vfork),
        _ if is_blocked && !may_be_in_handler => Some(Obstacle::SignalBlocked),
        Some(USERFAULT) => Some(Obstacle::PageFault),
        _ if state == b'D' => Some(Obstacle::Uninterruptible { wchan: wchan.and_then(try_boxed) }),
        _ => (state == b'R' && !is_blocked).then_some(Obstacle::Runnable),
    }
}

/// The rest of the line that starts with `key`. A line break in the thread's name is escaped.
fn field<'t>(status: &'t [u8], key: &[u8]) -> Option<&'t [u8]> {
    status.split(|&byte| byte == b'\n').find_map(|line| line.strip_prefix(key))
}

/// The set of signals in this line: bit `n - 1` is signal `n`.
fn signal_set(status: &[u8], key: &[u8]) -> Option<u64> {
    u64::from_str_radix(core::str::from_utf8(field(status, key)?).ok()?, 16).ok()
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
    /// What the kernel shows of a thread that is in psx's handler.
    const IN_HANDLER: u64 = 0xffff_ffff_bffb_fa27;

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
            for blocked in [NONE, ALL] {
                assert_eq!(seen(state, NONE, blocked, "kernel_clone"), None, "{state}");
            }
        }
        assert_eq!(seen("R (running)", OURS, NONE, "0"), Some(Obstacle::Runnable));
        for state in ["Z (zombie)", "X (dead)"] {
            assert_eq!(seen(state, OURS, ALL, "0"), None);
        }
    }

    #[test]
    fn a_block_is_an_obstacle_unless_it_may_be_the_handlers() {
        let blocks = Some(Obstacle::SignalBlocked);
        for state in [SLEEPS, "R (running)", DISK] {
            for blocked in [OURS, ALL & !1] {
                assert_eq!(seen(state, OURS, blocked, "handle_userfault"), blocks);
            }
            // All but 33.
            assert_ne!(seen(state, OURS, ALL & !OURS, "x"), blocks);
        }
        for blocked in [ALL, IN_HANDLER] {
            assert_eq!(seen(SLEEPS, OURS, blocked, "0"), blocks);
            assert_eq!(seen("R (running)", OURS, blocked, "0"), None);
            assert_eq!(seen(DISK, OURS, blocked, "x"), uninterruptible(Some("x")));
        }
    }

    #[test]
    fn a_full_queue_is_one_only_without_the_signal() {
        let seen = |queue: &str, pending| {
            obstacle(status(SLEEPS, 0, queue, pending, NONE).as_bytes(), || unreachable!())
        };
        let in_handler = status(SLEEPS, 0, "5/5", NONE, ALL);
        assert_eq!(obstacle(in_handler.as_bytes(), || unreachable!()), None);
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
