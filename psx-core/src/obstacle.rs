//! What keeps a late thread from taking its signal, as far as `/proc` shows it.

use core::fmt;
use core::mem::discriminant;

use crate::Threads;

/// What keeps a thread from taking psx's signal, as `/proc/self/task` shows it at the end of a broadcast.
/// `{}` prints a clause, such as `blocks signal 33`. See [`NamedThread::obstacle`].
///
/// [`NamedThread::obstacle`]: crate::NamedThread::obstacle
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Obstacle {
    /// A tracer, such as a debugger, has stopped the thread (state `t`, [`ptrace(2)`]).
    ///
    /// [`ptrace(2)`]: https://man7.org/linux/man-pages/man2/ptrace.2.html
    Traced {
        /// The tracer's process id. `None` if the tracer is in a pid namespace that is not visible here.
        tracer: Option<u32>,
    },
    /// The thread is stopped by `SIGSTOP` or another stop signal (state `T`).
    Stopped,
    /// The thread is in `vfork`, `posix_spawn` or `clone` with `CLONE_VFORK`, and its child has neither
    /// called `execve` nor ended.
    Vfork,
    /// The thread blocks signal 33, which is queued for it.
    SignalBlocked,
    /// No signal is queued for the thread, and its user has as many queued signals as `RLIMIT_SIGPENDING`
    /// allows.
    SignalQueueFull,
    /// A system call of the thread waits for a page that a [`userfaultfd(2)`] serves.
    ///
    /// [`userfaultfd(2)`]: https://man7.org/linux/man-pages/man2/userfaultfd.2.html
    PageFault,
    /// The thread waits in the kernel and cannot be interrupted by signals (state `D`).
    Uninterruptible {
        /// The kernel function in which it waits, from `/proc/self/task/TID/wchan`. `None` if the kernel
        /// does not name it.
        wchan: Option<Box<str>>,
    },
    /// The thread's signal is queued and not blocked, and the thread is runnable (state `R`): it has no
    /// core, or it runs in the kernel.
    Runnable,
}

impl Obstacle {
    fn advice(&self) -> &'static str {
        match self {
            Self::Traced { .. } => "let the tracer resume or detach it",
            Self::Stopped => "resume it by SIGCONT",
            Self::Vfork => "let the child of the vfork exec or exit",
            Self::SignalBlocked => {
                "unblock signal 33 (it is blocked by a raw rt_sigprocmask, or by a signal set of \
                 all ones, where sigfillset leaves 33 out)"
            }
            Self::SignalQueueFull => "raise RLIMIT_SIGPENDING",
            Self::PageFault => "look for the server of that userfaultfd",
            Self::Uninterruptible { .. } => {
                "look for a file server, a disk or a fanotify listener that does not answer"
            }
            Self::Runnable => "look for a busy machine, or a CPU limit (cgroup)",
        }
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Traced { tracer: Some(tracer) } => {
                return write!(f, "is stopped by its tracer (process {tracer})");
            }
            Self::Traced { tracer: None } => "is stopped by its tracer",
            Self::Stopped => "is stopped by a signal (SIGSTOP)",
            Self::Vfork => "is in vfork until its child execs or exits",
            Self::SignalBlocked => "blocks signal 33",
            Self::SignalQueueFull => "has no room in its signal queue",
            Self::PageFault => "waits in a page fault (userfaultfd)",
            Self::Uninterruptible { wchan: Some(wchan) } => {
                return write!(f, "waits uninterruptibly in the kernel (in {wchan})");
            }
            Self::Uninterruptible { wchan: None } => "waits uninterruptibly in the kernel",
            Self::Runnable => "is runnable, and has no core or runs in the kernel",
        })
    }
}

/// Late threads, each with its obstacle, and what to do about them.
pub(crate) struct Late<'t>(pub(crate) &'t Threads);

impl fmt::Display for Late<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, thread) in self.0.iter().enumerate() {
            let comma = if i > 0 { ", " } else { "" };
            write!(f, "{comma}{thread}")?;
            if let Some(obstacle) = thread.obstacle() {
                write!(f, ", which {obstacle}")?;
            }
        }
        let seen = || self.0.iter().filter_map(|thread| thread.obstacle());
        for (i, obstacle) in seen().enumerate() {
            if !seen().take(i).any(|other| discriminant(other) == discriminant(obstacle)) {
                write!(f, "; {}", obstacle.advice())?;
            }
        }
        if seen().next().is_none() {
            f.write_str(
                "; look for a blocked signal 33 (a raw rt_sigprocmask, or a signal set of all \
                 ones, where sigfillset leaves 33 out), a vfork before its exec, a debugger, or a \
                 full signal queue (RLIMIT_SIGPENDING)",
            )?;
        }
        f.write_str("; then try again or raise the timeout")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NamedThread;
    use crate::report::Comm;

    fn late(obstacles: &[Option<Obstacle>]) -> String {
        let thread = |(tid, obstacle): (u32, &Option<Obstacle>)| {
            let name = Comm(*b"worker\0\0\0\0\0\0\0\0\0\0");
            let mut thread = NamedThread::registered(tid, name);
            thread.obstacle = obstacle.clone();
            thread
        };
        Late(&(4711..).zip(obstacles).map(thread).collect()).to_string()
    }

    #[test]
    fn each_thread_has_its_obstacle_and_each_kind_its_advice() {
        let blocks = Some(Obstacle::SignalBlocked);
        let waits = |wchan: &str| Some(Obstacle::Uninterruptible { wchan: Some(wchan.into()) });
        let text = late(&[blocks.clone(), None, blocks, waits("a"), waits("b")]);
        let names = "4711 (worker), which blocks signal 33, 4712 (worker), 4713 (worker), which \
                     blocks signal 33, 4714 (worker), which waits uninterruptibly in the kernel \
                     (in a), 4715 (worker), which waits";
        assert!(text.starts_with(names), "{text}");
        assert_eq!(text.matches("unblock signal 33").count(), 1, "{text}");
        assert_eq!(text.matches("look for a file server").count(), 1, "{text}");
        assert!(!text.contains("vfork") && !text.contains("RLIMIT_SIGPENDING"), "{text}");
        assert!(text.ends_with("; then try again or raise the timeout"), "{text}");
    }

    #[test]
    fn without_an_obstacle_the_advice_lists_all() {
        let text = late(&[None]);
        assert!(text.starts_with("4711 (worker); look for a blocked signal 33"), "{text}");
        for part in ["vfork", "debugger", "RLIMIT_SIGPENDING"] {
            assert!(text.contains(part), "{text}");
        }
    }
}
