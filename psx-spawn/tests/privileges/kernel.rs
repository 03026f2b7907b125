//! The few system calls that the cases are built from.

use std::ffi::c_long;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::mpsc;
use std::{fs, io};

use psx::thread;

/// A filter that answers the call `nr` with the error `errno`, and allows all others.
pub(crate) fn refusing(nr: c_long, errno: i32) -> Vec<libc::sock_filter> {
    answering(nr, &[], libc::SECCOMP_RET_ERRNO | errno as u32)
}

/// Answers the calls `nr` whose first arguments are these: no, one or two of them.
fn answering(nr: c_long, args: &[u32], answer: u32) -> Vec<libc::sock_filter> {
    let statement = |code: u32, k, jt, jf| libc::sock_filter { code: code as u16, jt, jf, k };
    let load = |at| statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, at, 0, 0);
    // Both skip to the last statement where the word is another.
    let equals = |k, rest| statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, k, 0, rest);
    let give = |answer| statement(libc::BPF_RET | libc::BPF_K, answer, 0, 0);
    // The call's number is the first word of seccomp_data; the arguments come from 16 on, the low half
    // of each first where psx runs.
    let rest = |compared: usize| 2 * (args.len() - compared) as u8 + 1;
    let mut filter = vec![load(0), equals(nr as u32, rest(0))];
    for (i, &arg) in args.iter().enumerate() {
        filter.extend([load(16 + 8 * i as u32), equals(arg, rest(i + 1))]);
    }
    filter.extend([give(answer), give(libc::SECCOMP_RET_ALLOW)]);
    filter
}

/// From now on the call `nr` fails with `EPERM` on the calling thread and on those it starts. Leaves
/// `no_new_privs` alone, so that it takes root.
pub(crate) fn refuse_here(nr: c_long) {
    assert_eq!(install_here(refusing(nr, libc::EPERM), 0), 0);
}

/// As `refuse_here`, for `prctl` with these first arguments.
pub(crate) fn refuse_prctl_here(args: &[u32]) {
    let answer = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
    assert_eq!(install_here(answering(libc::SYS_prctl, args, answer), 0), 0);
}

/// From now on the call `nr` waits, on the calling thread and on those it starts, until a process that
/// reads the descriptor returned lets it go on.
pub(crate) fn hold_here(nr: c_long) -> i32 {
    let filter = answering(nr, &[], libc::SECCOMP_RET_USER_NOTIF);
    install_here(filter, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER) as i32
}

fn install_here(mut filter: Vec<libc::sock_filter>, flags: libc::c_ulong) -> c_long {
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: a program that outlives the call.
    let installed = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program)
    };
    assert!(installed >= 0, "{}", io::Error::last_os_error());
    installed
}

/// The judge's side of [`hold_here`]: the listener of a process that it may trace.
pub(crate) struct Held(OwnedFd);

impl Held {
    pub(crate) fn of(pid: u32, listener: i32) -> Self {
        let owned = |fd: c_long| {
            assert!(fd >= 0, "{}", io::Error::last_os_error());
            // SAFETY: a new descriptor, which nothing else owns.
            unsafe { OwnedFd::from_raw_fd(fd as i32) }
        };
        // SAFETY: numbers only.
        let process = owned(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) });
        let args = (process.as_raw_fd(), listener);
        // SAFETY: numbers only.
        Self(owned(unsafe { libc::syscall(libc::SYS_pidfd_getfd, args.0, args.1, 0) }))
    }

    /// Waits until the call is made, has a look, and lets it go on.
    pub(crate) fn look_then_let_go(&self, look: impl FnOnce()) {
        // SAFETY: all bits zero is a value of both.
        let (mut call, mut answer): (libc::seccomp_notif, libc::seccomp_notif_resp) =
            unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
        let ask = |request, about: *mut u8| {
            // SAFETY: the kernel reads and writes the record that belongs to the request.
            let asked = unsafe { libc::ioctl(self.0.as_raw_fd(), request, about) };
            assert_eq!(asked, 0, "{}", io::Error::last_os_error());
        };
        ask(libc::SECCOMP_IOCTL_NOTIF_RECV, (&raw mut call).cast::<u8>());
        look();
        answer.id = call.id;
        answer.flags = libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32;
        ask(libc::SECCOMP_IOCTL_NOTIF_SEND, (&raw mut answer).cast::<u8>());
    }
}

/// A Landlock ruleset that denies reading files and folders, except under `/usr` where that is asked
/// for.
pub(crate) fn ruleset(except_usr: bool) -> OwnedFd {
    /// `LANDLOCK_ACCESS_FS_READ_FILE`, `LANDLOCK_ACCESS_FS_READ_DIR`
    static READ: u64 = 1 << 2 | 1 << 3;
    #[repr(C, packed)]
    struct PathBeneath {
        allowed: u64,
        parent: i32,
    }
    // SAFETY: the kernel reads one number; the new descriptor belongs to nobody else.
    let ruleset = unsafe {
        let fd = libc::syscall(libc::SYS_landlock_create_ruleset, &raw const READ, 8, 0);
        assert!(fd >= 0, "Landlock: {}", io::Error::last_os_error());
        OwnedFd::from_raw_fd(fd as i32)
    };
    if except_usr {
        let usr = std::fs::File::open("/usr").unwrap();
        let rule = PathBeneath { allowed: READ, parent: usr.as_raw_fd() };
        // SAFETY: the kernel reads the rule.
        let added = unsafe {
            libc::syscall(libc::SYS_landlock_add_rule, ruleset.as_raw_fd(), 1, &raw const rule, 0)
        };
        assert_eq!(added, 0);
    }
    ruleset
}

/// For `Case::needs`.
pub(crate) fn landlock() -> Result<(), String> {
    // SAFETY: asked for its version, the call makes nothing.
    match unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, 0, 0, 1) } {
        1.. => Ok(()),
        _ => Err("needs Landlock".into()),
    }
}

pub(crate) fn prctl(option: i32) -> i32 {
    // SAFETY: the options that are asked for only read.
    unsafe { libc::prctl(option, 0, 0, 0, 0) }
}

/// Starts threads that do nothing until the process ends.
pub(crate) fn start_idlers(count: usize) {
    for _ in 0..count {
        start_named("idler", || ());
    }
}

/// Starts a thread that does nothing after `f`, and returns its id when that is done.
pub(crate) fn start_named(name: &str, f: fn()) -> u32 {
    let (ready, is_ready) = mpsc::channel();
    let thread = thread::Builder::new().name(name.into());
    let started = thread.spawn(move || {
        f();
        // SAFETY: the call only reads.
        ready.send(unsafe { libc::gettid() } as u32).unwrap();
        loop {
            thread::park();
        }
    });
    started.expect("a thread");
    is_ready.recv().expect("its id")
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

pub(crate) fn parent_death_signal() -> i32 {
    let mut signal = 0;
    // SAFETY: the kernel writes one number.
    unsafe { libc::prctl(libc::PR_GET_PDEATHSIG, &raw mut signal, 0, 0, 0) };
    signal
}

pub(crate) fn set_parent_death_signal(signal: i32) {
    // SAFETY: numbers only.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, signal, 0, 0, 0) };
}

pub(crate) fn last_capability() -> u32 {
    let text = fs::read_to_string("/proc/sys/kernel/cap_last_cap").unwrap();
    text.trim().parse().unwrap()
}
