//! Why a broadcast did not happen.

use std::{error, fmt, io};

use crate::obstacle::Late;
use crate::report::Counted;
use crate::{Errno, NamedThread, Threads};

/// Why a broadcast did not happen.
///
/// [`Error::Os`] means that the calling thread alone made the call, and that the call failed. Every other
/// variant means that no thread made the call.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The call failed on the calling thread, which makes it first and alone.
    Os(Errno),
    /// These registered threads did not stop before the timeout. [`NamedThread::obstacle`] says why, where
    /// `/proc` shows it.
    ///
    /// # Examples
    ///
    /// ```
    /// # extern crate psx_core as psx;
    /// use psx::{Broadcast, Error, Obstacle};
    ///
    /// // SAFETY: getppid(2) reads one number and changes nothing.
    /// match unsafe { Broadcast::new().syscall(libc::SYS_getppid, [0; 6]) } {
    ///     Err(Error::Unreachable(threads)) => {
    ///         for thread in threads.iter() {
    ///             match thread.obstacle() {
    ///                 Some(Obstacle::Vfork) => println!("{thread} is starting a process"),
    ///                 Some(obstacle) => println!("{thread} {obstacle}"),
    ///                 None => println!("{thread} is late"),
    ///             }
    ///         }
    ///     }
    ///     other => println!("{other:?}"),
    /// }
    /// ```
    Unreachable(Threads),
    /// The alternate signal stacks ([`sigaltstack(2)`]) of these registered threads are too small for psx's
    /// handler, or for a closure of [`Broadcast::run`](crate::Broadcast::run).
    ///
    /// [`sigaltstack(2)`]: https://man7.org/linux/man-pages/man2/sigaltstack.2.html
    StackTooSmall(Threads),
    /// These threads of the process are not registered. Some may be counted and not named
    /// ([`Threads::unnamed`]).
    Uncovered(Threads),
    /// The kernel's count of the process's threads cannot be read, so coverage cannot be proven.
    ThreadCountUnavailable(Errno),
    /// The kernel does not let this process signal its own threads.
    SignalDenied(Errno),
    /// The calling thread is already inside a broadcast, or is starting a thread.
    Reentrant,
    /// Another broadcast, or the start of a thread, lasted until the timeout.
    Busy,
    /// The timeout is zero.
    ZeroTimeout,
    /// No memory for the broadcast's records, which are allocated before any thread is stopped.
    OutOfMemory,
    /// The calling thread cannot be registered: the libc has no key for thread-specific data left
    /// ([`pthread_key_create(3)`]) or no memory, or a seccomp filter refuses `gettid` or `getpid`.
    ///
    /// [`pthread_key_create(3)`]: https://man7.org/linux/man-pages/man3/pthread_key_create.3p.html
    RegistrationFailed(Errno),
    /// psx's handler of signal 33 cannot be installed, or the calling thread's signal mask cannot be
    /// changed. `ENOSPC` where psx cannot keep one more handler that the program installed for this signal:
    /// it keeps eight.
    Handler(Errno),
    /// The monotonic clock cannot be read, so a timeout cannot be kept.
    ClockUnavailable(Errno),
    /// The caller is a child of `vfork`, or of `clone` with `CLONE_VM`: a process that uses the memory of
    /// another process.
    OtherProcess,
    /// The calling thread uses the thread-local storage of another thread, as after a raw `clone` without
    /// `CLONE_SETTLS`.
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
                "nothing changed: {} did not stop before the timeout, in {}: {}",
                Counted(threads.len()),
                threads.stops(),
                Late(threads),
            ),
            Self::StackTooSmall(threads) => write!(
                f,
                "nothing changed: the alternate signal stack is too small for psx's handler on \
                 {}: {threads}; call sigaltstack there with at least getauxval(AT_MINSIGSTKSZ) \
                 plus 8 KiB",
                Counted(threads.len()),
            ),
            Self::Uncovered(threads) => fmt_uncovered(f, threads),
            Self::ThreadCountUnavailable(errno) => write!(
                f,
                "nothing changed: the kernel's thread count of this process cannot be read \
                 ({errno}); call psx::thread::adopt() before /proc becomes unreachable, or use \
                 Coverage::Registered, which needs no count and leaves unregistered threads as \
                 they are"
            ),
            Self::SignalDenied(errno) => write!(
                f,
                "nothing changed: the kernel does not let this process signal its own threads \
                 ({errno}); look for a seccomp filter against rt_tgsigqueueinfo, and broadcast \
                 before it is installed"
            ),
            Self::Reentrant => f.write_str(
                "nothing changed: this thread is already inside a broadcast or is starting a \
                 thread; make the call afterwards",
            ),
            Self::Busy => f.write_str(
                "nothing changed: another broadcast, or the start of a thread, lasted until the \
                 timeout; try again",
            ),
            Self::ZeroTimeout => f.write_str(
                "nothing changed: with a timeout of zero no thread can be stopped; set a longer \
                 one",
            ),
            Self::OutOfMemory => f.write_str(
                "nothing changed: no memory for the broadcast's records; free some, and try \
                 again",
            ),
            Self::RegistrationFailed(errno) => write!(
                f,
                "nothing changed: psx cannot register this thread ({errno}); on EAGAIN or ENOMEM \
                 the libc has no key for thread-specific data left (of 1024 in a process) or no \
                 memory; on another error look for a seccomp filter against gettid or getpid"
            ),
            Self::Handler(errno) if errno.raw() == libc::ENOSPC => f.write_str(
                "nothing changed: the program has installed more than eight different handlers \
                 for signal 33, and psx keeps eight to forward signals to; install the same \
                 handler each time",
            ),
            Self::Handler(errno) => write!(
                f,
                "nothing changed: psx's handler of signal 33 cannot be installed, or this \
                 thread's signal mask cannot be changed ({errno}); look for a seccomp filter \
                 against rt_sigaction or rt_sigprocmask, and broadcast before it is installed"
            ),
            Self::ClockUnavailable(errno) => write!(
                f,
                "nothing changed: the clock cannot be read ({errno}), so a timeout cannot be \
                 kept; look for a seccomp filter against clock_gettime"
            ),
            Self::OtherProcess => f.write_str(
                "nothing changed: this process is a child of vfork, or of clone with CLONE_VM, \
                 and uses the memory of another process; call psx in that process, or after a \
                 fork or exec",
            ),
            Self::SharedThreadLocals => f.write_str(
                "nothing changed: this thread uses another thread's thread-local storage; start \
                 it by pthread_create, or by clone with CLONE_SETTLS and its own thread-local \
                 storage",
            ),
        }
    }
}

/// The variant's name and the [`Display`](fmt::Display) text: a `main` that returns the error prints this.
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
    // The main thread's id is the process id.
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
            "; call psx::thread::adopt() in each thread that psx did not start, enable psx's \
             feature `interpose`, or use Coverage::Registered, which leaves these threads as \
             they are",
        )?;
    }
    if threads.iter().any(NamedThread::is_uring_poller) {
        f.write_str(
            "; an iou-sqp thread serves an io_uring ring with the credentials of the ring's \
             creation: close the ring first, and create a new one afterwards",
        )?;
    }
    if let Some(other) = threads.iter().find(|t| t.is_made_by_kernel() && !t.is_uring_poller()) {
        write!(
            f,
            "; {} was made by the kernel for a device that this process opened: close the device \
             first, and reopen it afterwards",
            other.tid()
        )?;
    }
    if threads.unnamed() > 0 {
        f.write_str(
            "; without /proc psx cannot name these threads, and cannot recognise io_uring \
             workers, which need not be stopped: broadcast while /proc is reachable, or call \
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
    /// Keeps the whole error and its text; [`get_ref`](io::Error::get_ref) returns it. The
    /// [`kind`](io::Error::kind) is that of the kernel's error number, if there is one, and
    /// [`source`](error::Error::source) is that number, an [`Errno`].
    /// [`raw_os_error`](io::Error::raw_os_error) is `None`, because std prints nothing but the number of an
    /// error that has one.
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

        // The program gave this name to one of its own threads.
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
    fn debug_is_the_sentence_that_main_prints() {
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
            // The alternate form too: `dbg!` and many loggers use it.
            assert_eq!(format!("{error:#?}"), format!("{variant}: {error}"));
        }
    }

    #[test]
    fn names_end_at_the_first_byte_that_is_not_utf8() {
        assert_eq!(Comm::default().as_str(), "?");
        assert_eq!(Comm(*b"exactly16bytes!!").as_str(), "exactly16bytes!!");
        assert_eq!(Comm(*b"ab\xff\0\0\0\0\0\0\0\0\0\0\0\0\0").as_str(), "ab");
    }
}
