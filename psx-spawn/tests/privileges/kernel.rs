//! The few system calls that the cases are built from.

use std::ffi::c_long;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::mpsc;

use psx::thread;

/// A filter that answers the call `nr` with the error `errno`, and allows all others.
pub(crate) fn refusing(nr: c_long, errno: i32) -> [libc::sock_filter; 4] {
    let statement = |code: u32, k, jt, jf| libc::sock_filter { code: code as u16, jt, jf, k };
    let answer = libc::SECCOMP_RET_ERRNO | errno as u32;
    [
        // The call's number is the first word of seccomp_data.
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, nr as u32, 0, 1),
        statement(libc::BPF_RET | libc::BPF_K, answer, 0, 0),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW, 0, 0),
    ]
}

/// From now on the call `nr` fails with `EPERM` on the calling thread and on those it starts. Leaves
/// `no_new_privs` alone, so that it takes root.
pub(crate) fn refuse_here(nr: c_long) {
    let mut filter = refusing(nr, libc::EPERM);
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: a program that outlives the call.
    let installed = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program)
    };
    assert_eq!(installed, 0);
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
