//! Why a broadcast did not happen.

use std::{error, fmt, io};

use crate::{Cause, Errno, StepError, Threads};

/// Why a broadcast did not happen. Every one of these means that **no thread made the call**, the
/// caller included, with two exceptions: after [`Error::Os`] the caller made it, the kernel refused it,
/// and nobody else made it; [`Error::Step`] says itself how far all threads have come.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The call failed on the caller, which makes it first and alone.
    Os(Errno),
    /// These registered threads did not stop in time.
    Unreachable(Threads),
    /// These threads of the process are not registered.
    Uncovered(Threads),
    /// The kernel's count of the process's threads cannot be read, so nothing can be proven.
    Unprovable(Errno),
    /// The kernel does not let this process signal its own threads.
    Unsendable(Errno),
    /// This thread is already inside a round, or in the middle of starting a thread.
    Reentrant,
    /// Another round, or a thread that was being started, was in the way until the timeout.
    Busy,
    /// The timeout is zero, so that no thread could have answered.
    ZeroTimeout,
    /// There is no memory left for the round's records, which are laid out before anything stops.
    OutOfMemory,
    /// The thread cannot be registered, or the signal handler not installed.
    Unregistrable(Errno),
    /// A step of `psx::Privileges` failed.
    Step(Box<StepError>),
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
                 33, a vfork that has not reached its exec, a debugger, or a full signal queue \
                 (RLIMIT_SIGPENDING), then try again or raise the timeout",
                Counted(threads.len()),
            ),
            Self::Uncovered(threads) => fmt_uncovered(f, threads),
            Self::Unprovable(errno) => write!(
                f,
                "nothing changed: the kernel's thread count of this process cannot be read \
                 ({errno}); call psx::thread::adopt() before /proc goes away, or accept the \
                 registered threads with Coverage::Registered"
            ),
            Self::Unsendable(errno) => write!(
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
            Self::Step(error) => error.fmt(f),
            Self::Unregistrable(errno) => {
                write!(f, "nothing changed: this thread could not be registered with psx: {errno}")
            }
        }
    }
}

fn fmt_uncovered(f: &mut fmt::Formatter<'_>, threads: &Threads) -> fmt::Result {
    write!(
        f,
        "nothing changed: {} of this process cannot be stopped by psx: {threads}",
        Counted(threads.len())
    )?;
    if threads.iter().any(|thread| !thread.is_uring_poller()) {
        f.write_str(
            "; what was not started through psx can call psx::thread::adopt() itself, be \
             registered by psx's feature `interpose`, or be accepted with Coverage::Registered",
        )?;
    }
    if threads.iter().any(|thread| thread.is_uring_poller()) {
        f.write_str(
            "; an iou-sqp thread serves an io_uring ring with the credentials that the ring was \
             made with: close the ring first, and make it anew afterwards",
        )?;
    }
    Ok(())
}

/// `1 thread`, `2 threads`.
struct Counted(usize);

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} thread{}", self.0, if self.0 == 1 { "" } else { "s" })
    }
}

impl error::Error for Error {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Self::Os(errno)
            | Self::Unprovable(errno)
            | Self::Unsendable(errno)
            | Self::Unregistrable(errno) => Some(errno),
            Self::Step(error) => error.source(),
            _ => None,
        }
    }
}

impl From<Error> for io::Error {
    /// Keeps the kernel's error number where there is one, and the whole error as the source where
    /// there is none.
    fn from(error: Error) -> Self {
        let kind = match &error {
            Error::Step(step) => match step.reason() {
                Cause::Kernel(errno) => Self::from(*errno).kind(),
                Cause::Foreseen(_) => io::ErrorKind::InvalidInput,
                Cause::Unsynced(_) => io::ErrorKind::Other,
            },
            Error::Os(errno) | Error::Unregistrable(errno) => return (*errno).into(),
            Error::Unreachable(_) | Error::Busy => io::ErrorKind::TimedOut,
            Error::Reentrant => io::ErrorKind::Deadlock,
            Error::ZeroTimeout => io::ErrorKind::InvalidInput,
            Error::OutOfMemory => io::ErrorKind::OutOfMemory,
            Error::Unsendable(_) => io::ErrorKind::PermissionDenied,
            Error::Uncovered(_) | Error::Unprovable(_) => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NamedThread;
    use crate::report::Comm;

    fn thread(tid: u32, name: &str) -> NamedThread {
        let mut comm = Comm::default();
        comm.0[..name.len()].copy_from_slice(name.as_bytes());
        NamedThread { tid, name: comm }
    }

    #[test]
    fn errors_name_the_threads_and_say_what_to_do() {
        let foreign = Error::Uncovered([thread(4711, "jemalloc_bg_thd")].into_iter().collect());
        let text = foreign.to_string();
        assert!(text.starts_with("nothing changed: 1 thread"), "{text}");
        assert!(text.contains("4711 (jemalloc_bg_thd)"), "{text}");
        assert!(text.contains("adopt()") && !text.contains("io_uring"), "{text}");

        let both = [thread(1, "iou-sqp-9"), thread(2, "x")].into_iter().collect();
        let text = Error::Uncovered(both).to_string();
        assert!(text.contains("2 threads") && text.contains("1 (iou-sqp-9), 2 (x)"), "{text}");
        assert!(text.contains("close the ring") && text.contains("adopt()"), "{text}");
    }

    #[test]
    fn errors_keep_the_kernels_number_as_io_errors() {
        let refused = io::Error::from(Error::Os(Errno::from_raw(1)));
        assert_eq!(refused.raw_os_error(), Some(1));
        let late = io::Error::from(Error::Unreachable(Threads::from_iter([])));
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);
        assert!(late.get_ref().is_some_and(|source| source.is::<Error>()));
    }

    #[test]
    fn names_are_read_up_to_what_is_readable() {
        assert_eq!(Comm::default().as_str(), "?");
        assert_eq!(Comm(*b"exactly16bytes!!").as_str(), "exactly16bytes!!");
        assert_eq!(Comm(*b"ab\xff\0\0\0\0\0\0\0\0\0\0\0\0\0").as_str(), "ab");
    }
}
