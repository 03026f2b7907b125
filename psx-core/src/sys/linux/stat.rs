//! The text of `/proc/PID/stat` and `/proc/PID/task/TID/stat`; see `proc_pid_stat(5)`.

use core::str::FromStr;

use super::super::{Activity, ThreadCount, ThreadInfo, UnregisteredKind};
use super::procfs::parse;
use crate::report::Comm;

/// How many bytes to read: enough for the fields up to the thread count, with all numbers as long as they
/// can be: 10 digits of the id, a name of 15 bytes (which old kernels escape, to 60 at most), 5 ids of 11,
/// 9 numbers of 20 digits and a sign, and blanks and parentheses: fewer than 400 bytes.
pub(super) const SIZE: usize = 512;

// Fields, by their numbers in the man page.
const STATE: usize = 3;
const FLAGS: usize = 9;
const UTIME: usize = 14;
const STIME: usize = 15;
const NUM_THREADS: usize = 20;
const STARTTIME: usize = 22;

/// The beginning of such a text.
pub(super) struct Stat<'t> {
    /// The id in the pid namespace of this `/proc`.
    pub(super) id: u32,
    name: &'t [u8],
    /// From the blank behind the name on.
    rest: &'t [u8],
}

impl<'t> Stat<'t> {
    pub(super) fn parse(text: &'t [u8]) -> Option<Self> {
        let id = parse(text.split(|&byte| byte == b' ').next()?)?;
        // The name may contain any byte, parentheses and blanks too: it ends at the last parenthesis.
        let start = text.iter().position(|&byte| byte == b'(')?;
        let end = text.iter().rposition(|&byte| byte == b')')?;
        Some(Self { id, name: text.get(start + 1..end)?, rest: &text[end + 1..] })
    }

    /// A field behind the name; `None` unless a blank follows, so that it is whole.
    fn field(&self, number: usize) -> Option<&'t [u8]> {
        let mut fields = self.rest.split(|&byte| byte == b' ').skip(number - STATE + 1);
        let field = fields.next()?;
        fields.next().map(|_| field)
    }

    fn number<N: FromStr>(&self, number: usize) -> Option<N> {
        core::str::from_utf8(self.field(number)?).ok()?.parse().ok()
    }

    /// The thread count, and whether the main thread has ended, both from the same read.
    ///
    /// The kernel (`do_task_stat` in fs/proc/array.c) reads the state before it takes the lock under which
    /// it counts: a main thread in state Z or X had ended before the count.
    pub(super) fn thread_count(&self) -> Option<ThreadCount> {
        let main_has_ended = has_ended(self.field(STATE)?);
        let threads: u32 = self.number(NUM_THREADS)?;
        Some(ThreadCount { threads: threads as usize, main_has_ended })
    }

    pub(super) fn activity(&self) -> Option<Activity> {
        let cpu_time = self.number::<u64>(UTIME)?.saturating_add(self.number(STIME)?);
        let is_active = matches!(self.field(STATE)?, b"R" | b"D");
        Some(Activity { start_time: self.number(STARTTIME)?, cpu_time, is_active })
    }

    pub(super) fn info(&self) -> ThreadInfo {
        let mut name = Comm::default();
        let length = self.name.len().min(name.0.len());
        name.0[..length].copy_from_slice(&self.name[..length]);
        let flags = self.number(FLAGS).unwrap_or(0);
        let kind = if self.field(STATE).is_some_and(has_ended) {
            UnregisteredKind::Dead
        } else if is_harmless_worker(flags, self.name) {
            UnregisteredKind::KernelWorker
        } else {
            UnregisteredKind::Missed
        };
        ThreadInfo { kind, name, made_by_kernel: flags & (IO_WORKER | USER_WORKER) != 0 }
    }
}

/// Whether a state is that of a thread that runs nothing any more.
pub(super) fn has_ended(state: &[u8]) -> bool {
    matches!(state, b"Z" | b"X")
}

/// `PF_IO_WORKER` and `PF_USER_WORKER` in the kernel's include/linux/sched.h.
const IO_WORKER: u32 = 0x10;
const USER_WORKER: u32 = 0x4000;

/// Whether the kernel created this thread in the process for itself, and it does nothing with the
/// credentials that it was created with (docs/threat-model.md gives the reason for each kind).
///
/// A program cannot set the flags on its own threads. It can change a kernel thread's name
/// (`/proc/self/task/TID/comm`), so the name only tells one kind of kernel thread from another.
fn is_harmless_worker(flags: u32, name: &[u8]) -> bool {
    if flags & IO_WORKER != 0 {
        // A ring's poller has the flag too, but keeps the credentials of the ring's creation.
        name.starts_with(b"iou-wrk-")
    } else if flags & USER_WORKER != 0 {
        // From kernel/vhost_task.c. KVM's is "kvm-nx-lpage-recovery" in 15 bytes.
        name.starts_with(b"vhost-") || name.starts_with(b"kvm-nx-lpage-re")
    } else {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(text: &str) -> Option<(usize, bool)> {
        let count = Stat::parse(text.as_bytes())?.thread_count()?;
        Some((count.threads, count.main_has_ended))
    }

    #[test]
    fn fields_count_from_the_end_of_the_name() {
        const BEFORE: &str = "1 2 3 4 -1 4210764 7 8 9 10 11 12 13 14 20 0";
        for (name, state, has_ended) in [
            ("main", 'R', false),
            ("main", 'Z', true),
            ("main", 'X', true),
            ("a) Z 1 1 1 (", 'S', false),
            (") Z 1 2 3) R", 'D', false),
            ("two\nlines", 'Z', true),
            ("", 't', false),
        ] {
            let text = format!("4711 ({name}) {state} {BEFORE} 1234 0 5678 0\n");
            assert_eq!(counted(&text), Some((1234, has_ended)), "{text}");
        }
        for nonsense in ["", "4711", "4711 (main", "4711 (main)", "4711 (main) ", "4711 (main) R 1"]
        {
            assert_eq!(counted(nonsense), None, "{nonsense:?}");
        }
        let text = format!("4711 (main) R {BEFORE} 12");
        assert_eq!(counted(&text), None, "the number may go on");
        assert_eq!(counted(&format!("{text}x 0")), None);
    }

    /// The longest text that the kernel can write before the count, with the name escaped as old kernels
    /// do.
    #[test]
    fn the_count_is_in_the_first_read() {
        let name = "\\\\\\n)".repeat(15);
        let ids = [i32::MIN; 5].map(|id| id.to_string()).join(" ");
        let numbers = [i64::MIN; 10].map(|number| number.to_string()).join(" ");
        let text = format!("{} ({name}) Z {ids} {} {numbers} {} 0 ", u32::MAX, u32::MAX, i32::MAX);
        assert!(text.len() <= SIZE, "{} bytes", text.len());
        assert_eq!(counted(&text), Some((i32::MAX as usize, true)));
    }

    /// A status whose groups read like the end of a stat.
    #[test]
    fn a_status_is_not_a_stat() {
        let groups = (1..40).map(|id| format!("{id} ")).collect::<String>();
        let status = format!("Name:\t(x)\nState:\tR (running)\nTgid:\t1\nGroups:\t{groups}\n");
        assert!(Stat::parse(status.as_bytes()).is_none());
        assert_eq!(counted("Name:\tx\nState:\tZ (zombie)\nThreads:\t1\nSigQ:\t1/2\n"), None);
    }

    #[test]
    fn activity_is_run_and_start_time() {
        let activity = |text: &str| Stat::parse(text.as_bytes())?.activity();
        let sleeps = "4711 (a) R (b) S 1 2 3 4 5 6 7 8 9 10 700 80 0 0 20 0 3 0 123456 0 0";
        let expected = Activity { start_time: 123_456, cpu_time: 780, is_active: false };
        assert_eq!(activity(sleeps), Some(expected));
        let waits = "1 (a) D 1 2 3 4 5 6 7 8 9 10 0 0 0 0 20 0 3 0 7 0 0";
        let expected = Activity { start_time: 7, cpu_time: 0, is_active: true };
        assert_eq!(activity(waits), Some(expected));
        assert_eq!(activity("4711 (a) R 1 2 3"), None);
        assert_eq!(activity(""), None);
    }

    fn kind_of(rest: &str) -> UnregisteredKind {
        Stat::parse(format!("4712 {rest}").as_bytes()).unwrap().info().kind
    }

    fn with_flags(name: &str, flags: u32) -> UnregisteredKind {
        kind_of(&format!("({name}) S 1 1 1 0 -1 {flags} 0 0"))
    }

    /// `PF_RANDOMIZE | PF_FORKNOEXEC`, which every thread may have.
    const PLAIN: u32 = 0x40_0040;

    #[test]
    fn kinds_differ_by_state_flags_and_name() {
        assert_eq!(kind_of("(main) Z 1 1 1 0 -1 4210764 0"), UnregisteredKind::Dead);
        assert_eq!(kind_of("(main) X 1 1 1 0 -1 4210764 0"), UnregisteredKind::Dead);
        assert_eq!(with_flags("main", PLAIN), UnregisteredKind::Missed);
        // Flags as Linux 6.18 shows them: PF_IO_WORKER and PF_USER_WORKER for io_uring's threads,
        // PF_USER_WORKER alone for those of kernel/vhost_task.c.
        assert_eq!(with_flags("iou-wrk-4711", PLAIN | 0x4010), UnregisteredKind::KernelWorker);
        assert_eq!(with_flags("iou-wrk-4711", PLAIN | 0x10), UnregisteredKind::KernelWorker);
        assert_eq!(with_flags("iou-sqp-4711", PLAIN | 0x4010), UnregisteredKind::Missed);
        assert_eq!(
            kind_of("(kvm-nx-lpage-re) S 21712 21712 9350 0 -1 4210752 0 6556 0 0"),
            UnregisteredKind::KernelWorker
        );
        assert_eq!(with_flags("vhost-21712", PLAIN | 0x4000), UnregisteredKind::KernelWorker);
    }

    #[test]
    fn a_name_alone_makes_nothing_harmless() {
        for name in ["iou-wrk-4711", "vhost-21712", "kvm-nx-lpage-re"] {
            assert_eq!(with_flags(name, PLAIN), UnregisteredKind::Missed, "{name}");
        }
        assert_eq!(with_flags("iou-wrk-4711", PLAIN | 0x4000), UnregisteredKind::Missed);
        assert_eq!(with_flags("vhost-4711", PLAIN | 0x4010), UnregisteredKind::Missed);
        assert_eq!(with_flags("kvm-nx-lpage-re", PLAIN | 0x4010), UnregisteredKind::Missed);
        assert_eq!(with_flags("some-new-worker", PLAIN | 0x4000), UnregisteredKind::Missed);
    }

    #[test]
    fn a_name_cannot_pose_as_another_field() {
        assert_eq!(kind_of("(a) Z 1 1 1 0) S 1 1 1 0 -1 0 0"), UnregisteredKind::Missed);
        assert_eq!(kind_of("(iou-wrk-1) Z) R 1 1 1 0 -1 0 0"), UnregisteredKind::Missed);
        for nonsense in ["nonsense", "", ")(", "4711 (x", "4711 )x("] {
            assert!(Stat::parse(nonsense.as_bytes()).is_none(), "{nonsense:?}");
        }
        let stat = Stat::parse(b"1 (a name of more than 16 bytes) S 1 1 1 0 -1 0 0").unwrap();
        assert_eq!(stat.info().name.as_str(), "a name of more t");
    }
}
