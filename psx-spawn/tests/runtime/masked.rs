//! The libc's functions that pass a signal set to the kernel unchanged (P1, P6). `sigprocmask`,
//! `pthread_sigmask` and `sigfillset` leave signal 33 out; a set whose bits are all one, made by
//! `memset`, contains it, and these functions block it, or take it from the queue.

use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;
use std::{io::Write, process, ptr};

use libc::sigset_t;
use psx::{Error, thread};
use psx_test_support::raw::slack;
use psx_test_support::threads::{idle, tid};
use psx_test_support::{Case, Probe, procfs, signal};

use crate::kernel::{STRICT, broadcast_slack};

/// For rounds that must fail, or may.
const SHORT: Duration = Duration::from_millis(300);

/// A function that waits under a signal set, for input on the descriptor or for SIGUSR1.
struct Waiting {
    name: &'static str,
    wait: fn(RawFd, &sigset_t),
    /// Whether it takes a signal of the set from the queue instead of blocking it.
    takes: bool,
}

/// The pointers that the calls below get are valid for the call, or null on purpose.
const WAITING: &[Waiting] = &[
    Waiting { name: "ppoll", wait: ppoll, takes: false },
    Waiting { name: "pselect", wait: pselect, takes: false },
    Waiting { name: "epoll_pwait", wait: epoll_pwait, takes: false },
    Waiting { name: "sigsuspend", wait: sigsuspend, takes: false },
    Waiting { name: "sa_mask", wait: read_in_a_handler, takes: false },
    Waiting { name: "sigwait", wait: sigwait, takes: true },
    Waiting { name: "sigwaitinfo", wait: sigwaitinfo, takes: true },
    Waiting { name: "sigtimedwait", wait: sigtimedwait, takes: true },
    Waiting { name: "signalfd", wait: signalfd, takes: true },
];

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("masked::by_all_ones", |_| {
            install_usr1();
            for waiting in WAITING {
                all_ones(waiting);
            }
        })
        .limit(Duration::from_secs(60)),
        Case::new("masked::by_sigfillset", |_| {
            install_usr1();
            for waiting in WAITING {
                filled(waiting);
            }
        }),
    ]
}

/// The set that a program gets by `memset(&set, 0xff, sizeof set)`, but for the signal that ends the
/// waits here.
fn ones() -> sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: a set is bits; SIGUSR1 is a signal.
    unsafe {
        ptr::write_bytes(set.as_mut_ptr(), 0xff, 1);
        libc::sigdelset(set.as_mut_ptr(), libc::SIGUSR1);
        set.assume_init()
    }
}

fn full() -> sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: fills the set, and takes a signal out.
    unsafe {
        libc::sigfillset(set.as_mut_ptr());
        libc::sigdelset(set.as_mut_ptr(), libc::SIGUSR1);
        set.assume_init()
    }
}

/// A round while a thread waits under a set of all ones: an error that names the thread, with nothing
/// changed, or a success that has reached it. After the wait, a success.
fn all_ones(waiting: &Waiting) {
    let before = slack();
    let other = Probe::start();
    let waiter = Waiter::start(waiting, ones());
    let result = broadcast_slack(STRICT.timeout(SHORT), before + 1);
    let changed = match result {
        Ok(_) if waiting.takes => 1,
        Err(Error::Unreachable(threads)) => {
            let [thread] = &*threads else { panic!("{}: {threads}", waiting.name) };
            assert_eq!((thread.tid(), thread.name()), (waiter.tid, waiting.name));
            0
        }
        other => panic!("{}: {other:?}", waiting.name),
    };
    assert_eq!([slack(), other.ask(slack)], [before + changed; 2], "{}", waiting.name);
    assert_eq!(waiter.end(), before + changed, "{}", waiting.name);
    let threads = procfs::tids(process::id()).len();
    assert_eq!(broadcast_slack(STRICT, before + 2), Ok(threads), "{}", waiting.name);
    assert_eq!([slack(), other.ask(slack)], [before + 2; 2], "{}", waiting.name);
}

/// A round reaches a thread that waits under a set from `sigfillset`.
fn filled(waiting: &Waiting) {
    let next = slack() + 1;
    let waiter = Waiter::start(waiting, full());
    let threads = procfs::tids(process::id()).len();
    assert_eq!(broadcast_slack(STRICT, next), Ok(threads), "{}", waiting.name);
    assert_eq!(waiter.end(), next, "{}", waiting.name);
}

/// A thread that repeats one of the calls until [`end`](Self::end).
struct Waiter {
    tid: u32,
    ends: Arc<AtomicU32>,
    input: UnixStream,
    slack: mpsc::Receiver<usize>,
}

impl Waiter {
    /// Returns when the thread sleeps in the call.
    fn start(waiting: &Waiting, set: sigset_t) -> Self {
        let (input, output) = UnixStream::pair().unwrap();
        let (send, receive) = mpsc::channel();
        let (send_slack, slack_after) = mpsc::channel();
        let ends = Arc::new(AtomicU32::new(0));
        let ended = Arc::clone(&ends);
        let wait = waiting.wait;
        let body = move || {
            send.send(tid()).unwrap();
            while ended.load(Ordering::Acquire) == 0 {
                wait(output.as_raw_fd(), &set);
            }
            send_slack.send(slack()).unwrap();
            idle()
        };
        thread::Builder::new().name(waiting.name.into()).spawn(body).unwrap();
        let tid = receive.recv().unwrap();
        let waiter = Self { tid, ends, input, slack: slack_after };
        waiter.await_sleep();
        waiter
    }

    /// Waits until the thread sleeps in a call that does not belong to a thread's start.
    fn await_sleep(&self) {
        const SLEEPS: [libc::c_long; 6] = [
            libc::SYS_ppoll,
            libc::SYS_pselect6,
            libc::SYS_epoll_pwait,
            libc::SYS_rt_sigsuspend,
            libc::SYS_rt_sigtimedwait,
            libc::SYS_read,
        ];
        let sleeps = |call: String| {
            let nr = call.split(' ').next().and_then(|nr| nr.parse().ok());
            nr.is_some_and(|nr| SLEEPS.contains(&nr))
        };
        while !procfs::blocked_in(process::id(), self.tid).is_some_and(sleeps) {
            thread::yield_now();
        }
    }

    /// Ends the wait and returns the thread's timer slack.
    fn end(mut self) -> usize {
        self.ends.store(1, Ordering::Release);
        self.input.write_all(&[0]).unwrap();
        loop {
            // Repeated, since one may come between two waits.
            let _ = signal::send(process::id(), Some(self.tid), libc::SIGUSR1);
            if let Ok(slack) = self.slack.recv_timeout(Duration::from_millis(1)) {
                return slack;
            }
        }
    }
}

extern "C" fn ignore(_: libc::c_int) {}

fn install_usr1() {
    let handler = ignore as extern "C" fn(libc::c_int);
    // SAFETY: a handler that does nothing.
    unsafe { libc::signal(libc::SIGUSR1, handler as libc::sighandler_t) };
}

fn ppoll(fd: RawFd, set: &sigset_t) {
    let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    // SAFETY: one pollfd and a set.
    unsafe { libc::ppoll(&mut poll, 1, ptr::null(), set) };
}

fn pselect(fd: RawFd, set: &sigset_t) {
    // SAFETY: a descriptor below FD_SETSIZE, and sets that outlive the call.
    unsafe {
        let mut read: libc::fd_set = std::mem::zeroed();
        libc::FD_SET(fd, &mut read);
        let none = ptr::null_mut();
        libc::pselect(fd + 1, &mut read, none, none, ptr::null(), set);
    }
}

fn epoll_pwait(fd: RawFd, set: &sigset_t) {
    // SAFETY: events that outlive the calls.
    unsafe {
        let epoll = libc::epoll_create1(0);
        let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: 0 };
        libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, fd, &mut event);
        libc::epoll_pwait(epoll, &mut event, 1, -1, set);
        libc::close(epoll);
    }
}

fn sigsuspend(_: RawFd, set: &sigset_t) {
    // SAFETY: a set.
    unsafe { libc::sigsuspend(set) };
}

/// `sigaction` passes a handler's mask on unchanged: 33 is blocked while that handler runs.
fn read_in_a_handler(fd: RawFd, set: &sigset_t) {
    static FD: AtomicU32 = AtomicU32::new(0);
    extern "C" fn read(_: libc::c_int) {
        // SAFETY: a buffer of one byte.
        unsafe { libc::read(FD.load(Ordering::Relaxed) as RawFd, [0_u8].as_mut_ptr().cast(), 1) };
    }
    FD.store(fd as u32, Ordering::Relaxed);
    // SAFETY: the handler makes one system call.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = read as extern "C" fn(libc::c_int) as libc::sighandler_t;
        action.sa_mask = *set;
        libc::sigaction(libc::SIGUSR2, &action, ptr::null_mut());
        libc::raise(libc::SIGUSR2);
    }
}

fn sigwait(_: RawFd, set: &sigset_t) {
    // SAFETY: a set, and room for a number.
    unsafe { libc::sigwait(&with_usr1(set), &mut 0) };
}

fn sigwaitinfo(_: RawFd, set: &sigset_t) {
    // SAFETY: a set; nothing is asked for about the signal.
    unsafe { libc::sigwaitinfo(&with_usr1(set), ptr::null_mut()) };
}

fn sigtimedwait(_: RawFd, set: &sigset_t) {
    let minute = libc::timespec { tv_sec: 60, tv_nsec: 0 };
    // SAFETY: as above, and a time.
    unsafe { libc::sigtimedwait(&with_usr1(set), ptr::null_mut(), &minute) };
}

fn signalfd(_: RawFd, set: &sigset_t) {
    let mut info = MaybeUninit::<libc::signalfd_siginfo>::uninit();
    // SAFETY: a set, and room for one signal's information.
    unsafe {
        let fd = libc::signalfd(-1, &with_usr1(set), 0);
        libc::read(fd, info.as_mut_ptr().cast(), size_of::<libc::signalfd_siginfo>());
        libc::close(fd);
    }
}

/// The calls that take signals are ended by one.
fn with_usr1(set: &sigset_t) -> sigset_t {
    let mut set = *set;
    // SAFETY: SIGUSR1 is a signal.
    unsafe { libc::sigaddset(&mut set, libc::SIGUSR1) };
    set
}
