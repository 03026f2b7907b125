//! The few system calls that the cases are built from.

use std::ffi::{CStr, c_long};
use std::sync::mpsc;
use std::time::Duration;

use psx::{Broadcast, Errno, Error, Report, thread};

/// As `psx::syscall3`, but for a machine that somebody else is busy with.
pub(crate) const STRICT: Broadcast = Broadcast::new().timeout(Duration::from_secs(60));

/// Between rounds without end. On a machine that somebody else is busy with, rounds without pause
/// would leave births, forks and execs next to no time: a gate that is open for a microsecond is
/// closed again before those that it has woken have a core.
pub(crate) fn breathe() {
    thread::sleep(Duration::from_micros(100));
}

/// Broadcasts a timer slack: a number that each thread has for itself, and may set unprivileged.
/// Says, as the next two do, how many threads there were.
pub(crate) fn broadcast_slack(broadcast: Broadcast, ns: usize) -> Result<usize, Error> {
    prctl_on_all(broadcast, libc::PR_SET_TIMERSLACK, ns).map(|report| report.threads())
}

/// The calling thread's own timer slack.
pub(crate) fn slack() -> usize {
    // SAFETY: the call takes numbers and returns one.
    unsafe { libc::prctl(libc::PR_GET_TIMERSLACK) as usize }
}

/// Broadcasts `no_new_privs`, which is once and for all, and shown in /proc.
pub(crate) fn broadcast_no_new_privs(broadcast: Broadcast) -> Result<usize, Error> {
    prctl_on_all(broadcast, libc::PR_SET_NO_NEW_PRIVS, 1).map(|report| report.threads())
}

/// Broadcasts a thread name, which is shown in /proc too, and which a new thread inherits.
pub(crate) fn broadcast_name(broadcast: Broadcast, name: &CStr) -> Result<usize, Error> {
    prctl_on_all(broadcast, libc::PR_SET_NAME, name.as_ptr() as usize)
        .map(|report| report.threads())
}

/// A `prctl` of two arguments.
pub(crate) fn prctl_on_all(
    broadcast: Broadcast,
    option: i32,
    value: usize,
) -> Result<Report, Error> {
    // SAFETY: none of the options above can break a thread, and the name outlives the broadcast.
    unsafe { broadcast.syscall(libc::SYS_prctl, [option as usize, value, 0, 0, 0, 0]) }
}

/// A system call on the calling thread alone.
///
/// # Safety
///
/// That of the call.
pub(crate) unsafe fn raw(nr: c_long, args: [usize; 6]) -> Result<usize, Errno> {
    let [a, b, c, d, e, f] = args;
    // SAFETY: as the caller promises.
    outcome(unsafe { libc::syscall(nr, a, b, c, d, e, f) } as isize)
}

/// What a function of the libc returned, with errno where that was -1.
pub(crate) fn outcome(returned: isize) -> Result<usize, Errno> {
    match returned {
        -1 => Err(Errno::from_raw(errno())),
        value => Ok(value as usize),
    }
}

pub(crate) fn errno() -> i32 {
    // SAFETY: the location is the calling thread's own.
    unsafe { *libc::__errno_location() }
}

pub(crate) fn set_errno(value: i32) {
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = value }
}

pub(crate) fn tid() -> u32 {
    // SAFETY: the call only reads.
    unsafe { libc::gettid() as u32 }
}

/// Sets the calling thread's signal mask past the libc, which leaves out its own signals.
pub(crate) fn set_signal_mask(mask: u64) {
    let args = [libc::SIG_SETMASK as usize, (&raw const mask) as usize, 0, 8, 0, 0];
    // SAFETY: a mask of 8 bytes that outlives the call.
    unsafe { raw(libc::SYS_rt_sigprocmask, args) }.expect("a valid mask");
}

/// From now on the call `nr` fails with `EPERM` on the calling thread, and on no other.
pub(crate) fn refuse_here(nr: c_long) {
    let statement = |code: u32, k, jt, jf| libc::sock_filter { code: code as u16, jt, jf, k };
    let mut filter = [
        // The call's number is the first word of seccomp_data.
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, nr as u32, 0, 1),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32, 0, 0),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW, 0, 0),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    let install =
        [libc::SECCOMP_SET_MODE_FILTER as usize, 0, (&raw const program) as usize, 0, 0, 0];
    // SAFETY: numbers; then a program that outlives the call.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        raw(libc::SYS_seccomp, install).expect("a filter");
    }
}

/// Starts threads that do nothing until the process ends.
pub(crate) fn start_idlers(count: usize) {
    for _ in 0..count {
        thread::spawn(idle);
    }
}

pub(crate) fn idle() -> ! {
    loop {
        thread::park();
    }
}

/// A thread that says what it sees of itself whenever it is asked.
pub(crate) struct Teller<T> {
    ask: mpsc::Sender<()>,
    answers: mpsc::Receiver<T>,
}

impl<T: Send + 'static> Teller<T> {
    pub(crate) fn start(look: fn() -> T) -> Self {
        let (ask, asked) = mpsc::channel();
        let (answer, answers) = mpsc::channel();
        thread::spawn(move || {
            for () in asked {
                answer.send(look()).expect("somebody who asked");
            }
        });
        Self { ask, answers }
    }

    pub(crate) fn tell(&self) -> T {
        self.ask.send(()).expect("a living thread");
        self.answers.recv().expect("an answer")
    }
}
