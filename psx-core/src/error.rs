//! Why a broadcast did not happen.

use std::{error, fmt, io};

use crate::report::Counted;
use crate::{Errno, NamedThread, Threads};

/// Why a broadcast did not happen.
///
/// After [`Error::Os`] the calling thread alone made the call, and the kernel refused it. Every other
/// variant means that no thread made the call.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The call failed on the caller, which makes it first and alone.
    Os(Errno),
    /// These registered threads did not stop in time.
    Unreachable(Threads),
    /// These registered threads have an alternate signal stack ([`sigaltstack(2)`]) with too little
    /// room for psx's handler, or for a closure of [`Broadcast::run`](crate::Broadcast::run).
    ///
    /// [`sigaltstack(2)`]: https://man7.org/linux/man-pages/man2/sigaltstack.2.html
    StackTooSmall(Threads),
    /// These threads of the process are not registered, or could only be counted
    /// ([`Threads::unnamed`]).
    Uncovered(Threads),
    /// The kernel's count of the process's threads cannot be read, so nothing can be proven.
    ThreadCountUnavailable(Errno),
    /// The kernel does not let this process signal its own threads.
    SignalDenied(Errno),
    /// This thread is already inside a round, or in the middle of starting a thread.
    Reentrant,
    /// Another round, or a thread that was being started, was in the way until the timeout.
    Busy,
    /// The timeout is zero, so that no thread could have answered.
    ZeroTimeout,
    /// There is no memory left for the round's records, which are laid out before anything stops.
    OutOfMemory,
    /// The thread cannot be registered: the libc has no key for thread-specific data left
    /// ([`pthread_key_create(3)`]) or no memory, or a filter refuses `gettid` or `getpid`.
    ///
    /// [`pthread_key_create(3)`]: https://man7.org/linux/man-pages/man3/pthread_key_create.3p.html
    RegistrationFailed(Errno),
    /// psx's handler of signal 33 cannot be installed, this thread's signal mask cannot be changed, or the
    /// handler that was there before cannot be remembered: psx keeps up to eight different ones (`ENOSPC` after that).
    Handler(Errno),
    /// The monotonic clock cannot be read, so that no timeout would hold.
    ClockUnavailable(Errno),
    /// This code runs in a child of `vfork`, or of `clone` with `CLONE_VM`: another process that uses
    /// the memory of the one that psx counts.
    OtherProcess,
    /// This thread uses the thread-local storage of another thread, as one made by a raw `clone`
    /// without `CLONE_SETTLS` does.
    SharedThreadLocals,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Os(errno) => write!(
                f,
                "the call failed on the calling thread, and no other thread made it: {errno}"
            ),
            Self::Unreachable(threads) => write!(
                f,
                "nothing changed: {} did not stop in time: {threads}; look for a blocked signal \
                 33 (a raw rt_sigprocmask, or a signal set of all ones where sigfillset leaves 33 \
                 out), a vfork that has not reached its exec, a debugger, or a full signal queue \
                 (RLIMIT_SIGPENDING), then try again or raise the timeout",
                Counted(threads.len()),
            ),
            Self::StackTooSmall(threads) => write!(
                f,
                "nothing changed: the alternate signal stack is too small for psx's handler on {}: \
                 {threads}; give such a thread, by sigaltstack, one of getauxval(AT_MINSIGSTKSZ) \
                 plus 8 KiB or more",
                Counted(threads.len()),
            ),
            Self::Uncovered(threads) => fmt_uncovered(f, threads),
            Self::ThreadCountUnavailable(errno) => write!(
                f,
                "nothing changed: the kernel's thread count of this process cannot be read \
                 ({errno}); call psx::thread::adopt() before /proc goes away; \
                 Coverage::Registered needs no count, and leaves every other thread with the \
                 privileges that it has"
            ),
            Self::SignalDenied(errno) => write!(
                f,
                "nothing changed: the kernel does not let this process signal its own threads \
                 ({errno}); look for a seccomp filter against rt_tgsigqueueinfo, and broadcast \
                 before it is installed"
            ),
            Self::Reentrant => f.write_str(
                "nothing changed: this thread is already inside a broadcast or a spawn; make the \
                 call after it",
            ),
            Self::Busy => f.write_str(
                "nothing changed: another broadcast or a starting thread was in the way until the \
                 timeout; try again",
            ),
            Self::ZeroTimeout => f.write_str(
                "nothing changed: a broadcast with a timeout of zero cannot reach any thread; \
                 give it a longer one",
            ),
            Self::OutOfMemory => f.write_str(
                "nothing changed: no memory for the broadcast's records, which are laid out \
                 before any thread is stopped",
            ),
            Self::RegistrationFailed(errno) => write!(
                f,
                "nothing changed: this thread could not be registered with psx ({errno}); EAGAIN and \
                 ENOMEM mean that the libc has no key for thread-specific data left (1024 in a \
                 process) or no memory; for another number look for a seccomp filter against gettid \
                 or getpid"
            ),
            Self::Handler(errno) if errno.raw() == libc::ENOSPC => f.write_str(
                "nothing changed: signal 33 has had more than eight different handlers beside \
                 psx's, and psx keeps no more to pass signals on to; install one handler once, \
                 not a new one each time",
            ),
            Self::Handler(errno) => write!(
                f,
                "nothing changed: psx's handler of signal 33 cannot be installed, or this thread's \
                 signal mask cannot be changed ({errno}); look for a seccomp filter against \
                 rt_sigaction or rt_sigprocmask, and broadcast before it is installed"
            ),
            Self::ClockUnavailable(errno) => write!(
                f,
                "nothing changed: the clock cannot be read ({errno}), so that no timeout would \
                 hold; look for a seccomp filter against clock_gettime"
            ),
            Self::OtherProcess => f.write_str(
                "nothing changed: this is a child of vfork, or of clone with CLONE_VM, which uses \
                 the memory of another process; use psx in that process, or after fork or exec",
            ),
            Self::SharedThreadLocals => f.write_str(
                "nothing changed: this thread uses another thread's thread-local storage, and psx \
                 cannot tell the two apart; start it by pthread_create, or by clone with \
                 CLONE_SETTLS and a thread-local storage of its own",
            ),
        }
    }
}

/// The variant's name, and then what [`Display`](fmt::Display) says: `fn main() -> Result<(), Box<dyn
/// Error>>` prints this, for the person who has to act on it.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let variant = match self {
            Self::Os(_) => "Os",
            Self::Unreachable(_) => "Unreachable",
            Self::StackTooSmall(_) => "StackTooSmall",
            Self::Uncovered(_) => "Uncovered",
            Self::ThreadCountUnavailable(_) => "ThreadCountUnavailable",
            Self::SignalDenied(_) => "SignalDenied",
            Self::Reentrant => "Reentrant",
            Self::Busy => "Busy",
            Self::ZeroTimeout => "ZeroTimeout",
            Self::OutOfMemory => "OutOfMemory",
            Self::RegistrationFailed(_) => "RegistrationFailed",
            Self::Handler(_) => "Handler",
            Self::ClockUnavailable(_) => "ClockUnavailable",
            Self::OtherProcess => "OtherProcess",
            Self::SharedThreadLocals => "SharedThreadLocals",
        };
        write!(f, "{variant}: {self}")
    }
}

fn fmt_uncovered(f: &mut fmt::Formatter<'_>, threads: &Threads) -> fmt::Result {
    write!(
        f,
        "nothing changed: {} of this process cannot be stopped by psx: {threads}",
        Counted(threads.len())
    )?;
    // The main thread's id is the process's.
    let main = std::process::id();
    if threads.iter().any(|thread| thread.tid() == main) {
        write!(
            f,
            "; {main} (the main thread) has started no thread through psx: call \
             psx::thread::adopt() at the start of main"
        )?;
    }
    if threads.iter().any(|thread| !thread.is_made_by_kernel() && thread.tid() != main) {
        f.write_str(
            "; what was not started through psx can call psx::thread::adopt() itself, be \
             registered by psx's feature `interpose`, or be left with the privileges that they have \
             by Coverage::Registered",
        )?;
    }
    if threads.iter().any(NamedThread::is_uring_poller) {
        f.write_str(
            "; an iou-sqp thread serves an io_uring ring with the credentials that the ring was \
             made with: close the ring first, and make it anew afterwards",
        )?;
    }
    if let Some(other) = threads.iter().find(|t| t.is_made_by_kernel() && !t.is_uring_poller()) {
        write!(
            f,
            "; {} was made by the kernel, for a device that this process has opened: close the \
             device first, and open it again afterwards",
            other.tid()
        )?;
    }
    if threads.unnamed() > 0 {
        f.write_str(
            "; without /proc psx cannot tell which threads these are, nor that one is an io_uring \
             worker, which would be no obstacle: broadcast while /proc is there, or call \
             psx::thread::adopt() in every thread",
        )?;
    }
    Ok(())
}

impl error::Error for Error {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Self::Os(errno)
            | Self::ThreadCountUnavailable(errno)
            | Self::SignalDenied(errno)
            | Self::RegistrationFailed(errno)
            | Self::Handler(errno)
            | Self::ClockUnavailable(errno) => Some(errno),
            _ => None,
        }
    }
}

impl From<Error> for io::Error {
    /// Keeps the whole error, so that the text is psx's. The kind is that of the kernel's error number
    /// where there is one; the number itself is in [`source`](error::Error::source), an [`Errno`], and
    /// [`get_ref`](io::Error::get_ref) has the psx error.
    /// [`raw_os_error`](io::Error::raw_os_error) is `None`: std prints nothing else of an error that
    /// has it.
    ///
    /// # Examples
    ///
    /// ```
    /// # extern crate psx_core as psx;
    /// use std::error::Error as _;
    /// use std::io;
    ///
    /// use psx::{Errno, Error};
    ///
    /// let error = io::Error::from(Error::Os(Errno::from_raw(libc::EPERM)));
    /// assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    /// assert!(error.to_string().contains("no other thread made it"));
    /// let number = error.source().and_then(|source| source.downcast_ref::<Errno>());
    /// assert_eq!(number.map(|errno| errno.raw()), Some(libc::EPERM));
    /// ```
    fn from(error: Error) -> Self {
        let kind = match &error {
            Error::Os(errno) | Error::RegistrationFailed(errno) => Self::from(*errno).kind(),
            Error::Unreachable(_) | Error::Busy => io::ErrorKind::TimedOut,
            Error::Reentrant => io::ErrorKind::Deadlock,
            Error::ZeroTimeout => io::ErrorKind::InvalidInput,
            Error::OutOfMemory => io::ErrorKind::OutOfMemory,
            Error::SignalDenied(_) => io::ErrorKind::PermissionDenied,
            Error::OtherProcess | Error::SharedThreadLocals => io::ErrorKind::Unsupported,
            Error::StackTooSmall(_)
            | Error::Uncovered(_)
            | Error::ThreadCountUnavailable(_)
            | Error::Handler(_)
            | Error::ClockUnavailable(_) => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Comm;
    use crate::sys::{ThreadInfo, UnregisteredKind};
    use crate::{Divergent, NamedThread, Outcome};

    fn thread(tid: u32, name: &str) -> NamedThread {
        let mut comm = Comm::default();
        comm.0[..name.len()].copy_from_slice(name.as_bytes());
        NamedThread::registered(tid, comm)
    }

    fn kernel_thread(tid: u32, name: &str) -> NamedThread {
        let name = thread(tid, name).name;
        NamedThread::seen(
            tid,
            ThreadInfo { kind: UnregisteredKind::Missed, name, made_by_kernel: true },
        )
    }

    #[test]
    fn errors_name_the_threads_and_say_what_to_do() {
        let foreign = Error::Uncovered([thread(4711, "jemalloc_bg_thd")].into_iter().collect());
        let text = foreign.to_string();
        assert!(text.starts_with("nothing changed: 1 thread"), "{text}");
        assert!(text.contains("4711 (jemalloc_bg_thd)"), "{text}");
        assert!(text.contains("adopt()") && !text.contains("io_uring"), "{text}");

        let main = std::process::id();
        let text = Error::Uncovered([thread(main, "server")].into_iter().collect()).to_string();
        assert!(text.contains(&format!("{main} (server); {main} (the main thread)")), "{text}");
        assert!(text.contains("at the start of main") && !text.contains("interpose"), "{text}");

        let both = [kernel_thread(1, "iou-sqp-9"), thread(2, "x")].into_iter().collect();
        let text = Error::Uncovered(both).to_string();
        assert!(text.contains("2 threads") && text.contains("1 (iou-sqp-9), 2 (x)"), "{text}");
        assert!(text.contains("close the ring") && text.contains("adopt()"), "{text}");

        // The same name on a thread of the program's.
        let posing = Error::Uncovered([thread(1, "iou-sqp-9")].into_iter().collect());
        assert!(!posing.to_string().contains("close the ring"), "{posing}");

        let driver = Error::Uncovered([kernel_thread(7, "new-driver")].into_iter().collect());
        let text = driver.to_string();
        assert!(text.contains("7 was made by the kernel") && !text.contains("adopt()"), "{text}");
        assert!(!text.contains("close the ring"), "{text}");
    }

    #[test]
    fn threads_that_cannot_be_named_are_counted() {
        let reason = Some(Errno::from_raw(2));
        let none = Threads { unnamed: 2, reason, ..Threads::named(Vec::new()) };
        assert!(!none.is_empty() && none.len() == 2 && none.iter().count() == 0);
        let text = Error::Uncovered(none).to_string();
        assert!(text.contains("2 threads of this process cannot be stopped"), "{text}");
        assert!(text.contains("2 threads that cannot be named: /proc is out of reach"), "{text}");
        assert!(text.contains("without /proc"), "{text}");

        let one = Threads { unnamed: 1, reason, ..Threads::named(vec![thread(5, "a")]) };
        assert!(one.to_string().starts_with("5 (a), and 1 thread that cannot be named"), "{one}");
        assert_eq!((one.len(), one.iter().count(), one.unnamed()), (2, 1, 1));
    }

    #[test]
    fn io_errors_keep_the_text_and_the_kernels_number() {
        let errors = [
            (Error::Os(Errno::from_raw(1)), io::ErrorKind::PermissionDenied, Some(1)),
            (Error::RegistrationFailed(Errno::from_raw(11)), io::ErrorKind::WouldBlock, Some(11)),
            (Error::SignalDenied(Errno::from_raw(1)), io::ErrorKind::PermissionDenied, Some(1)),
            (Error::Unreachable(Threads::from_iter([])), io::ErrorKind::TimedOut, None),
        ];
        for (error, kind, number) in errors {
            let text = error.to_string();
            let converted = io::Error::from(error.clone());
            assert_eq!(converted.kind(), kind);
            assert_eq!(converted.to_string(), text);
            let source = error::Error::source(&converted);
            let found = source.and_then(|source| source.downcast_ref::<Errno>());
            assert_eq!(found.map(|errno| errno.raw()), number);
            let kept = converted.get_ref().and_then(|kept| kept.downcast_ref::<Error>());
            assert_eq!(kept, Some(&error));
        }
    }

    #[test]
    fn debug_is_what_main_prints_and_a_person_reads() {
        let worker = thread(4711, "worker-1");
        assert_eq!(format!("{worker:?}"), "4711 (worker-1)");
        assert_eq!(format!("{:?}", worker.name), "worker-1");
        let denied = Errno::from_raw(1);
        assert_eq!(format!("{denied:?}"), "Operation not permitted (os error 1)");
        let threads = Threads::from_iter([worker.clone(), thread(4712, "x")]);
        assert_eq!(format!("{threads:?}"), "4711 (worker-1), 4712 (x)");

        let outcome = Outcome::Failed(denied);
        let divergent = Divergent { thread: worker, outcome };
        assert_eq!(format!("{divergent:?}"), divergent.to_string());

        let errors = [
            ("Os", Error::Os(denied)),
            ("Unreachable", Error::Unreachable(threads.clone())),
            ("Uncovered", Error::Uncovered(threads)),
            ("ThreadCountUnavailable", Error::ThreadCountUnavailable(denied)),
            ("SignalDenied", Error::SignalDenied(denied)),
            ("Reentrant", Error::Reentrant),
            ("Busy", Error::Busy),
            ("ZeroTimeout", Error::ZeroTimeout),
            ("OutOfMemory", Error::OutOfMemory),
            ("RegistrationFailed", Error::RegistrationFailed(denied)),
            ("StackTooSmall", Error::StackTooSmall(Threads::from_iter([]))),
            ("Handler", Error::Handler(denied)),
            ("OtherProcess", Error::OtherProcess),
            ("SharedThreadLocals", Error::SharedThreadLocals),
        ];
        for (variant, error) in errors {
            // The alternate form too: that is what `dbg!` and many loggers use.
            assert_eq!(format!("{error:#?}"), format!("{variant}: {error}"));
        }
    }

    #[test]
    fn names_are_read_up_to_what_is_readable() {
        assert_eq!(Comm::default().as_str(), "?");
        assert_eq!(Comm(*b"exactly16bytes!!").as_str(), "exactly16bytes!!");
        assert_eq!(Comm(*b"ab\xff\0\0\0\0\0\0\0\0\0\0\0\0\0").as_str(), "ab");
    }
}
