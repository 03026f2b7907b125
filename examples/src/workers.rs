//! Threads that compute, sleep and block as those of real programs do.

use std::fs::File;
use std::io::{self, Read};
use std::net::TcpListener;
use std::num::NonZero;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, mpsc};
use std::{hint, ptr};

use psx::thread;
use psx_test_support::raw::{must, owned, pipe};

use crate::progress::Progress;

/// What a worker does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Computes, without a system call.
    Computing,
    /// Sleeps in `nanosleep(2)`, repeatedly.
    Nanosleep,
    /// Is blocked in `read(2)` on an empty pipe.
    Read,
    /// Is blocked in `accept(2)` on a port without connections.
    Accept,
    /// Waits on a [`Condvar`].
    Condvar,
    /// Is blocked in `epoll_wait(2)`.
    EpollWait,
}

impl Work {
    /// All of them, in the order in which workers get them.
    pub const ALL: [Self; 6] = [
        Self::Computing,
        Self::Nanosleep,
        Self::Read,
        Self::Accept,
        Self::Condvar,
        Self::EpollWait,
    ];

    /// The name of its workers' threads, before their number.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Computing => "computing",
            Self::Nanosleep => "nanosleep",
            Self::Read => "read",
            Self::Accept => "accept",
            Self::Condvar => "condvar",
            Self::EpollWait => "epoll_wait",
        }
    }
}

/// What all workers use until it closes. One of each for any number of workers, so that a thousand need no more
/// descriptors than six.
pub struct Workplace {
    is_closed: AtomicBool,
    closed: Mutex<bool>,
    closing: Condvar,
    listener: TcpListener,
    reader: File,
    /// Watches `reader`.
    epoll: OwnedFd,
    /// Dropped to end the wait of all workers that read or poll.
    writer: Mutex<Option<File>>,
}

impl Workplace {
    /// Opens a pipe, a listening socket on the loopback interface and an epoll set.
    ///
    /// # Errors
    ///
    /// Where one of them cannot be opened.
    pub fn open() -> io::Result<Self> {
        let (reader, writer) = pipe();
        Ok(Self {
            is_closed: AtomicBool::new(false),
            closed: Mutex::new(false),
            closing: Condvar::new(),
            listener: TcpListener::bind("127.0.0.1:0")?,
            epoll: epoll_of(&reader),
            reader,
            writer: Mutex::new(Some(writer)),
        })
    }

    /// Ends all work: wakes up the workers that are blocked, and lets none block later.
    pub fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
        *self.closed.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.closing.notify_all();
        self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        // SAFETY: the listener is open for as long as `self` is.
        unsafe { libc::shutdown(self.listener.as_raw_fd(), libc::SHUT_RDWR) };
    }

    /// Does `work` until the workplace closes.
    ///
    /// # Errors
    ///
    /// Where the work ends before the workplace closes.
    pub fn perform(&self, work: Work) -> io::Result<()> {
        match work {
            Work::Computing => self.compute(),
            Work::Nanosleep => self.sleep(),
            Work::Read => match (&self.reader).read(&mut [0])? {
                0 => {}
                _ => return Err(io::Error::other("the pipe had something to read")),
            },
            Work::Accept => self.accept()?,
            Work::Condvar => {
                let closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
                drop(self.closing.wait_while(closed, |closed| !*closed));
            }
            Work::EpollWait => self.poll()?,
        }
        Ok(())
    }

    fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Acquire)
    }

    fn compute(&self) {
        let mut state = 1_u64;
        while !self.is_closed() {
            state = hint::black_box(state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
        }
    }

    fn sleep(&self) {
        let time = libc::timespec { tv_sec: 0, tv_nsec: 50_000_000 };
        while !self.is_closed() {
            // A round may end it early: the kernel never restarts this call.
            // SAFETY: `time` outlives the call; no remainder is asked for.
            unsafe { libc::nanosleep(&time, ptr::null_mut()) };
        }
    }

    fn accept(&self) -> io::Result<()> {
        loop {
            match self.listener.accept() {
                Err(_) if self.is_closed() => return Ok(()),
                Err(e) => return Err(e),
                // From another process.
                Ok(connection) => drop(connection),
            }
        }
    }

    fn poll(&self) -> io::Result<()> {
        let mut event = libc::epoll_event { events: 0, u64: 0 };
        loop {
            // SAFETY: `event` has room for the one event that is asked for.
            let ready = unsafe { libc::epoll_wait(self.epoll.as_raw_fd(), &mut event, 1, -1) };
            match ready {
                0.. => return Ok(()),
                // The kernel never restarts epoll_wait after a signal: every program must.
                _ => match io::Error::last_os_error() {
                    e if e.kind() == io::ErrorKind::Interrupted => {}
                    e => return Err(e),
                },
            }
        }
    }
}

fn epoll_of(file: &File) -> OwnedFd {
    let flags = libc::EPOLL_CLOEXEC as usize;
    let epoll = owned(must(libc::SYS_epoll_create1, [flags, 0, 0, 0, 0, 0]));
    let event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: 0 };
    let [set, watched] = [epoll.as_raw_fd(), file.as_raw_fd()].map(|fd| fd as usize);
    let add = libc::EPOLL_CTL_ADD as usize;
    must(libc::SYS_epoll_ctl, [set, add, watched, (&raw const event).addr(), 0, 0]);
    epoll
}

/// Running workers, and what each does last.
pub struct Workers<T> {
    workplace: Arc<Workplace>,
    workers: Vec<(String, thread::JoinHandle<io::Result<T>>)>,
}

impl<T: Send + 'static> Workers<T> {
    /// Starts `size` workers with all kinds of work in turn, but with no more that compute than there are cores;
    /// waits until each has begun. Each calls `last` at its end.
    ///
    /// # Errors
    ///
    /// Where a thread cannot be started, or what the workers need cannot be opened.
    pub fn start<F>(size: usize, last: F) -> io::Result<Self>
    where
        F: FnOnce() -> T + Clone + Send + 'static,
    {
        let mut all = Self { workplace: Arc::new(Workplace::open()?), workers: Vec::new() };
        let mut progress = Progress::new("starting threads", size);
        let (at_work, started) = mpsc::channel();
        let mut cores = 0..thread::available_parallelism().map_or(1, NonZero::get);
        let works = Work::ALL.into_iter().cycle();
        let works = works.filter(|work| *work != Work::Computing || cores.next().is_some());
        for (number, work) in (1..=size).zip(works) {
            let name = format!("{}-{number}", work.name());
            let (workplace, last, at_work) = (all.workplace.clone(), last.clone(), at_work.clone());
            let body = move || {
                // The receiver is gone where a later worker could not be started.
                let _ = at_work.send(());
                workplace.perform(work)?;
                Ok(last())
            };
            let worker = thread::Builder::new().name(name.clone()).spawn(body).map_err(|e| {
                io::Error::new(e.kind(), format!("cannot start thread {number} of {size}: {e}"))
            })?;
            all.workers.push((name, worker));
        }
        for () in started.iter().take(size) {
            progress.step();
        }
        Ok(all)
    }

    /// Ends the work, and returns what each worker's `last` has returned.
    ///
    /// # Errors
    ///
    /// Where the work of a worker has ended early, or panicked.
    pub fn end(self) -> io::Result<Vec<(String, T)>> {
        self.workplace.close();
        let mut progress = Progress::new("waiting for threads", self.workers.len());
        let ends = self.workers.into_iter().map(|(name, worker)| {
            let end = worker.join().unwrap_or_else(|_| Err(io::Error::other("it panicked")));
            progress.step();
            match end {
                Ok(last) => Ok((name, last)),
                Err(e) => {
                    Err(io::Error::new(e.kind(), format!("worker {name} stopped early: {e}")))
                }
            }
        });
        ends.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_worker_works_until_its_end() {
        let workers = Workers::start(12, || ()).expect("twelve threads can be started");
        let ends = workers.end().expect("no work ends early");
        assert_eq!(ends.len(), 12);
        assert_eq!(ends[0].0, "computing-1");
    }
}
