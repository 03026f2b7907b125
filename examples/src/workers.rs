//! Threads that are busy in the ways in which the threads of real programs are.

use std::fs::File;
use std::io::{self, Read};
use std::net::TcpListener;
use std::num::NonZero;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, mpsc};
use std::{hint, ptr};

use psx::thread;

use crate::progress::Progress;

/// What a worker is busy with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Computes, without a system call.
    Computing,
    /// Sleeps in `nanosleep(2)`, again and again.
    Nanosleep,
    /// Is blocked in `read(2)` on a pipe that nobody writes to.
    Read,
    /// Is blocked in `accept(2)` on a port that nobody connects to.
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

/// What all workers are busy at, until it closes. One of each for any number of workers, so that
/// a thousand need no more descriptors than six.
pub struct Workplace {
    is_closed: AtomicBool,
    closed: Mutex<bool>,
    closing: Condvar,
    listener: TcpListener,
    reader: File,
    /// Watches `reader`.
    epoll: OwnedFd,
    /// Dropped to end the wait of all who read or poll.
    writer: Mutex<Option<File>>,
}

impl Workplace {
    /// Opens a pipe, a listening socket on the loopback interface and an epoll set.
    ///
    /// # Errors
    ///
    /// Where one of them cannot be had.
    pub fn open() -> io::Result<Self> {
        let (reader, writer) = pipe()?;
        Ok(Self {
            is_closed: AtomicBool::new(false),
            closed: Mutex::new(false),
            closing: Condvar::new(),
            listener: TcpListener::bind("127.0.0.1:0")?,
            epoll: epoll_of(&reader)?,
            reader,
            writer: Mutex::new(Some(writer)),
        })
    }

    /// Ends all work. Whoever is blocked in it wakes up; whoever comes later does not block.
    pub fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
        *self.closed.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.closing.notify_all();
        self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        // SAFETY: the listener is open for as long as `self` is.
        unsafe { libc::shutdown(self.listener.as_raw_fd(), libc::SHUT_RDWR) };
    }

    /// Is busy with `work` until the workplace closes.
    ///
    /// # Errors
    ///
    /// Where the work ends, by itself or by something that disturbs it, before the workplace
    /// closes.
    pub fn perform(&self, work: Work) -> io::Result<()> {
        match work {
            Work::Computing => self.compute(),
            Work::Nanosleep => self.doze(),
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

    fn doze(&self) {
        let nap = libc::timespec { tv_sec: 0, tv_nsec: 50_000_000 };
        while !self.is_closed() {
            // A nap that a round cuts short (the kernel never restarts this call) is a nap.
            // SAFETY: `nap` outlives the call; no remainder is asked for.
            unsafe { libc::nanosleep(&nap, ptr::null_mut()) };
        }
    }

    fn accept(&self) -> io::Result<()> {
        loop {
            match self.listener.accept() {
                Err(_) if self.is_closed() => return Ok(()),
                Err(e) => return Err(e),
                // A stranger: nothing for him here.
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

fn pipe() -> io::Result<(File, File)> {
    let mut ends = [0; 2];
    // SAFETY: `ends` has room for the two descriptors.
    if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: both were made above, and nobody else knows them.
    Ok(unsafe { (File::from_raw_fd(ends[0]), File::from_raw_fd(ends[1])) })
}

fn epoll_of(file: &File) -> io::Result<OwnedFd> {
    // SAFETY: one number, no memory.
    let epoll = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
    if epoll < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was made above, and nobody else knows it.
    let epoll = unsafe { OwnedFd::from_raw_fd(epoll) };
    let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: 0 };
    let (set, watched) = (epoll.as_raw_fd(), file.as_raw_fd());
    // SAFETY: both descriptors are open, and `event` outlives the call.
    if unsafe { libc::epoll_ctl(set, libc::EPOLL_CTL_ADD, watched, &mut event) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(epoll)
}

/// Workers, and what each does last.
pub struct Crew<T> {
    workplace: Arc<Workplace>,
    workers: Vec<(String, thread::JoinHandle<io::Result<T>>)>,
}

impl<T: Send + 'static> Crew<T> {
    /// Starts `size` workers that share out all kinds of work evenly, but compute on no more
    /// threads than there are cores; waits until each is at its work. Each calls `last` when it is
    /// over.
    ///
    /// # Errors
    ///
    /// Where a thread cannot be started, or what the workers need cannot be opened.
    pub fn start<F>(size: usize, last: F) -> io::Result<Self>
    where
        F: FnOnce() -> T + Clone + Send + 'static,
    {
        let mut crew = Self { workplace: Arc::new(Workplace::open()?), workers: Vec::new() };
        let mut progress = Progress::new("starting threads", size);
        let (at_work, started) = mpsc::channel();
        let mut cores = 0..thread::available_parallelism().map_or(1, NonZero::get);
        let works = Work::ALL.into_iter().cycle();
        let works = works.filter(|work| *work != Work::Computing || cores.next().is_some());
        for (number, work) in (1..=size).zip(works) {
            let name = format!("{}-{number}", work.name());
            let (workplace, last, at_work) =
                (crew.workplace.clone(), last.clone(), at_work.clone());
            let body = move || {
                // Nobody listens any more where a later worker could not be started.
                let _ = at_work.send(());
                workplace.perform(work)?;
                Ok(last())
            };
            let worker = thread::Builder::new().name(name.clone()).spawn(body).map_err(|e| {
                io::Error::new(e.kind(), format!("cannot start thread {number} of {size}: {e}"))
            })?;
            crew.workers.push((name, worker));
        }
        for () in started.iter().take(size) {
            progress.step();
        }
        Ok(crew)
    }

    /// Ends the work, and collects what each worker's last act gave.
    ///
    /// # Errors
    ///
    /// Where a worker was disturbed in its work, or panicked.
    pub fn dismiss(self) -> io::Result<Vec<(String, T)>> {
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
    fn every_kind_of_worker_works_until_it_is_dismissed() {
        let crew = Crew::start(12, || ()).expect("twelve threads can be started");
        let ends = crew.dismiss().expect("nothing disturbs them");
        assert_eq!(ends.len(), 12);
        assert_eq!(ends[0].0, "computing-1");
    }
}
