//! System calls that block: those that the kernel never resumes after a signal handler, whatever its
//! flags, and those that it resumes under `SA_RESTART`. The lists are those of signal(7).

use std::ffi::c_long;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, IntoRawFd};
use std::os::unix::net::UnixStream;
use std::process::{self, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;
use std::{mem, ptr};

use psx::{Errno, thread};
use psx_test_support::procfs;
use psx_test_support::raw::{must, owned, pipe, syscall};
use psx_test_support::threads::{idle, tid};

/// A call that blocks.
pub(crate) struct Blocking {
    pub(crate) name: &'static str,
    nr: c_long,
    args: [usize; 6],
}

impl Blocking {
    fn new<const N: usize>(name: &'static str, nr: c_long, first_args: [usize; N]) -> Self {
        let mut args = [0; 6];
        args[..N].copy_from_slice(&first_args);
        Self { name, nr, args }
    }

    /// Starts a thread and returns when it is blocked in this call.
    pub(crate) fn start(&self) -> Blocked {
        let (nr, args) = (self.nr, self.args);
        let (returns, outcome) = mpsc::channel();
        let starts = Arc::new(AtomicU32::new(0));
        let started = Arc::clone(&starts);
        thread::spawn(move || {
            // A plain store: from here on the first call that blocks is the one to test.
            starts.store(tid(), Ordering::Release);
            // SAFETY: the tables below pass each call what it asks for, and free none of it.
            returns.send(unsafe { syscall(nr, args) }).unwrap();
            idle()
        });
        let tid = loop {
            match started.load(Ordering::Acquire) {
                0 => thread::yield_now(),
                tid => break tid,
            }
        };
        let mut blocked = Blocked { tid, call: String::new(), outcome };
        blocked.call = blocked.await_call(|_| true);
        blocked
    }
}

/// A thread that was seen blocked in a call.
pub(crate) struct Blocked {
    tid: u32,
    /// The call's number and arguments, as /proc shows them.
    call: String,
    outcome: mpsc::Receiver<Result<usize, Errno>>,
}

impl Blocked {
    /// Waits until the thread is in the same call, with the same arguments, as at first: it has left
    /// psx's handler, and the kernel has resumed the call.
    pub(crate) fn await_resumption(&self) {
        self.await_call(|call| call == self.call);
    }

    pub(crate) fn has_returned(&self) -> bool {
        !matches!(self.outcome.try_recv(), Err(mpsc::TryRecvError::Empty))
    }

    /// What the call returned, once it has.
    pub(crate) fn outcome(&self) -> Result<usize, Errno> {
        self.outcome.recv().expect("the thread outlives its call")
    }

    fn await_call(&self, is_it: impl Fn(&str) -> bool) -> String {
        loop {
            match procfs::blocked_in(process::id(), self.tid) {
                Some(call) if is_it(&call) => return call,
                _ => thread::yield_now(),
            }
        }
    }
}

/// The address of a value that is never freed.
fn leak<T>(value: T) -> usize {
    &raw mut *Box::leak(Box::new(value)) as usize
}

/// Longer than any case's limit.
const MINUTE: libc::timespec = libc::timespec { tv_sec: 60, tv_nsec: 0 };
const MINUTE_IN_MS: usize = 60_000;

/// System V semaphores and queues outlive their process, unless it removes them.
pub(crate) struct SystemV {
    semaphores: i32,
    empty_queue: i32,
    full_queue: i32,
}

impl SystemV {
    pub(crate) fn new() -> Self {
        // SAFETY: numbers, and messages that outlive the calls.
        unsafe {
            let full_queue = libc::msgget(libc::IPC_PRIVATE, 0o600);
            let message = leak((1_i64, [0_u8; 1024])) as *const _;
            while libc::msgsnd(full_queue, message, 1024, libc::IPC_NOWAIT) == 0 {}
            Self {
                semaphores: libc::semget(libc::IPC_PRIVATE, 1, 0o600),
                empty_queue: libc::msgget(libc::IPC_PRIVATE, 0o600),
                full_queue,
            }
        }
    }
}

impl Drop for SystemV {
    fn drop(&mut self) {
        // SAFETY: numbers.
        unsafe {
            libc::semctl(self.semaphores, 0, libc::IPC_RMID);
            for queue in [self.empty_queue, self.full_queue] {
                libc::msgctl(queue, libc::IPC_RMID, ptr::null_mut());
            }
        }
    }
}

/// The calls that return `EINTR` after any handler.
///
/// There is no `poll`, `select`, `epoll_wait` or `pause` on aarch64, whose libc makes other calls for them.
pub(crate) fn never_resumed(system_v: &SystemV) -> Vec<Blocking> {
    let minute = || leak(MINUTE);
    let take_one = || leak(libc::sembuf { sem_num: 0, sem_op: -1, sem_flg: 0 });
    let semaphores = system_v.semaphores as usize;
    let (full_queue, empty_queue) = (system_v.full_queue as usize, system_v.empty_queue as usize);
    let message = || leak((1_i64, [0_u8; 1024]));
    let no_signals = || leak(0_u64);
    let epoll = || {
        // SAFETY: a number.
        (unsafe { libc::epoll_create1(0) }) as usize
    };
    let event = || leak(libc::epoll_event { events: 0, u64: 0 });
    let monotonic = libc::CLOCK_MONOTONIC as usize;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let limit = Some(Duration::from_secs(60));
    let (receiver, peer) = UnixStream::pair().unwrap();
    let (sender, full) = full_pair();
    receiver.set_read_timeout(limit).unwrap();
    sender.set_write_timeout(limit).unwrap();
    // SAFETY: a socket, and a time of the size passed.
    let timed = unsafe {
        let (level, option) = (libc::SOL_SOCKET, libc::SO_RCVTIMEO);
        let minute = libc::timeval { tv_sec: 60, tv_usec: 0 };
        let size = size_of_val(&minute) as u32;
        libc::setsockopt(listener.as_raw_fd(), level, option, (&raw const minute).cast(), size)
    };
    assert_eq!(timed, 0);
    // Closed peers would end the calls.
    mem::forget((peer, full));
    vec![
        Blocking::new("nanosleep", libc::SYS_nanosleep, [minute()]),
        Blocking::new("clock_nanosleep", libc::SYS_clock_nanosleep, [monotonic, 0, minute()]),
        #[cfg(target_arch = "x86_64")]
        Blocking::new("poll", libc::SYS_poll, [0, 0, MINUTE_IN_MS]),
        Blocking::new("ppoll", libc::SYS_ppoll, [0, 0, minute(), 0, 8]),
        #[cfg(target_arch = "x86_64")]
        Blocking::new("select", libc::SYS_select, [0, 0, 0, 0, minute()]),
        Blocking::new("pselect6", libc::SYS_pselect6, [0, 0, 0, 0, minute(), 0]),
        #[cfg(target_arch = "x86_64")]
        Blocking::new("epoll_wait", libc::SYS_epoll_wait, [epoll(), event(), 1, MINUTE_IN_MS]),
        Blocking::new(
            "epoll_pwait",
            libc::SYS_epoll_pwait,
            [epoll(), event(), 1, MINUTE_IN_MS, 0, 8],
        ),
        Blocking::new("futex, timeout", libc::SYS_futex, [leak(0_u32), FUTEX_WAIT, 0, minute()]),
        Blocking::new("recv, SO_RCVTIMEO", libc::SYS_recvfrom, [fd(receiver), leak(0_u8), 1]),
        Blocking::new("send, SO_SNDTIMEO", libc::SYS_sendto, [fd(sender), leak(0_u8), 1]),
        Blocking::new("accept, SO_RCVTIMEO", libc::SYS_accept4, [fd(listener)]),
        Blocking::new("semop", libc::SYS_semop, [semaphores, take_one(), 1]),
        Blocking::new("semtimedop", libc::SYS_semtimedop, [semaphores, take_one(), 1, minute()]),
        Blocking::new("msgrcv", libc::SYS_msgrcv, [empty_queue, message(), 1024]),
        Blocking::new("msgsnd", libc::SYS_msgsnd, [full_queue, message(), 1024]),
        #[cfg(target_arch = "x86_64")]
        Blocking::new("pause", libc::SYS_pause, []),
        Blocking::new("sigsuspend", libc::SYS_rt_sigsuspend, [no_signals(), 8]),
        Blocking::new("rt_sigtimedwait", libc::SYS_rt_sigtimedwait, [no_signals(), 0, minute(), 8]),
    ]
}

const FUTEX_WAIT: usize = libc::FUTEX_WAIT as usize;
const FUTEX_WAKE: usize = libc::FUTEX_WAKE as usize;

/// A call that the kernel resumes until it is fulfilled.
pub(crate) struct Resumed {
    pub(crate) call: Blocking,
    pub(crate) fulfil: Box<dyn FnOnce()>,
    /// What the call then returns, where that is known.
    pub(crate) value: Option<usize>,
}

impl Resumed {
    fn new(call: Blocking, value: Option<usize>, fulfil: impl FnOnce() + 'static) -> Self {
        Self { call, fulfil: Box::new(fulfil), value }
    }
}

/// The calls that `SA_RESTART` resumes.
pub(crate) fn resumed() -> Vec<Resumed> {
    let (pipe_out, mut pipe_in) = pipe();
    let (receiver, mut peer) = UnixStream::pair().unwrap();
    let (writer, mut drain) = full_pair();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let word = leak(0_u32);
    #[expect(clippy::zombie_processes, reason = "the blocked wait4 waits for it")]
    let mut cat = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
    let pid = cat.id() as usize;
    let (locked, wanted) = locked_file();
    let lock_args = [fd(wanted), libc::F_SETLKW as usize, leak(whole_file())];

    vec![
        Resumed::new(
            Blocking::new("read", libc::SYS_read, [fd(pipe_out), leak(0_u8), 1]),
            Some(1),
            move || pipe_in.write_all(&[1]).unwrap(),
        ),
        Resumed::new(
            Blocking::new("recv", libc::SYS_recvfrom, [fd(receiver), leak(0_u8), 1]),
            Some(1),
            move || peer.write_all(&[1]).unwrap(),
        ),
        Resumed::new(
            Blocking::new("write", libc::SYS_write, [fd(writer), leak(0_u8), 1]),
            Some(1),
            move || {
                drain.set_nonblocking(true).unwrap();
                while drain.read(&mut [0; 4096]).is_ok() {}
                mem::forget(drain);
            },
        ),
        Resumed::new(Blocking::new("accept", libc::SYS_accept4, [fd(listener)]), None, move || {
            mem::forget(TcpStream::connect(address).unwrap())
        }),
        Resumed::new(
            Blocking::new("futex", libc::SYS_futex, [word, FUTEX_WAIT, 0]),
            Some(0),
            move || assert_eq!(must(libc::SYS_futex, [word, FUTEX_WAKE, 1, 0, 0, 0]), 1),
        ),
        Resumed::new(Blocking::new("wait4", libc::SYS_wait4, [pid]), Some(pid), move || {
            drop(cat.stdin.take());
        }),
        Resumed::new(
            Blocking::new("fcntl, F_SETLKW", libc::SYS_fcntl, lock_args),
            Some(0),
            move || drop(locked),
        ),
    ]
}

/// A descriptor that is never closed.
fn fd(owner: impl IntoRawFd) -> usize {
    owner.into_raw_fd() as usize
}

/// A socket whose next send blocks, and its peer.
fn full_pair() -> (UnixStream, UnixStream) {
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    while ours.write(&[0; 4096]).is_ok() {}
    ours.set_nonblocking(false).unwrap();
    (ours, theirs)
}

fn whole_file() -> libc::flock {
    // SAFETY: plain numbers, of which all zero is a request for the whole file.
    let mut request: libc::flock = unsafe { mem::zeroed() };
    request.l_type = libc::F_WRLCK as i16;
    request
}

/// A file locked through the first of two descriptions, so that a lock through the second blocks until the
/// first is closed. Only locks that belong to a description, not to a process, block their own process.
fn locked_file() -> (File, File) {
    let args = [c"locked".as_ptr().addr(), libc::MFD_CLOEXEC as usize, 0, 0, 0, 0];
    let locked = File::from(owned(must(libc::SYS_memfd_create, args)));
    let path = format!("/proc/self/fd/{}", locked.as_raw_fd());
    let wanted = File::options().read(true).write(true).open(path).unwrap();
    // SAFETY: a request that outlives the call.
    let result = unsafe { libc::fcntl(locked.as_raw_fd(), libc::F_OFD_SETLK, &whole_file()) };
    assert_eq!(result, 0);
    (locked, wanted)
}
