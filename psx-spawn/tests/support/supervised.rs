//! The judge's view of its child: the line to it, /proc, its end and its output.

use std::fs::File;
use std::ops::Deref;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command};
use std::time::{Duration, Instant};
use std::{io, thread};

use super::{Line, procfs};

/// How much of a failed child's output is printed, from its end.
const SHOWN_OUTPUT: u64 = 16 * 1024;

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// With this exit status; 101 after a panic.
    Exited(i32),
    /// By this signal, which the judge did not send.
    Killed(i32),
    /// Not at all within the limit, so that it was killed.
    Hung,
}

/// A running child. Derefs to the judge's end of the [`Line`]. Dropped, it is killed.
pub struct Supervised {
    child: Child,
    pidfd: OwnedFd,
    line: Line,
    output: File,
    deadline: Instant,
    ending: Option<Ending>,
    /// What the threads were doing when the limit had passed.
    whereabouts: String,
}

impl Supervised {
    /// Starts `command`, which must run a child's side: [`child_command`](super::child_command).
    pub fn start(mut command: Command, limit: Duration) -> Self {
        let (ours, theirs) = UnixStream::pair().expect("a socket pair");
        let output = anonymous_file().expect("a memfd");
        let share = || output.try_clone().expect("a descriptor");
        command.stdin(OwnedFd::from(theirs)).stdout(share()).stderr(share()).process_group(0);
        // SAFETY: one system call, which is async-signal-safe and allocates nothing.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        let child = command.spawn().expect("a child process");
        let pidfd = pidfd_open(child.id()).expect("a pidfd");
        let deadline = Instant::now() + limit;
        Self {
            child,
            pidfd,
            line: Line::of_judge(ours, deadline),
            output,
            deadline,
            ending: None,
            whereabouts: String::new(),
        }
    }

    /// The child's process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The child's living threads.
    pub fn tasks(&self) -> Vec<procfs::Task> {
        procfs::tasks(self.pid())
    }

    /// Looks at the child while it stands at [`Line::show`] with this `word`.
    #[track_caller]
    pub fn inspect(&self, word: &str, look: impl FnOnce(&Self)) {
        self.hear(word);
        look(self);
        self.say("go");
    }

    /// Looks again and again until `condition` holds; panics past the limit.
    #[track_caller]
    pub fn await_that(&self, condition: impl Fn(&Self) -> bool) {
        while !condition(self) {
            assert!(Instant::now() < self.deadline, "the limit has passed");
            thread::yield_now();
        }
    }

    /// Asserts that `field` of /proc's `status` has this value on each of the child's threads.
    #[track_caller]
    pub fn assert_all(&self, field: &str, value: &str) {
        for task in self.tasks() {
            assert_eq!(task.field(field), value, "{field} of {} ({})", task.tid, task.name());
        }
    }

    /// Waits for the child to end, until the limit.
    pub fn end(&mut self) -> Ending {
        *self.ending.get_or_insert_with(|| {
            let hung = !is_readable_by(&self.pidfd, self.deadline);
            if hung {
                self.whereabouts = procfs::whereabouts(self.child.id());
                kill_group(&self.child);
            }
            let status = self.child.wait().expect("the child's status");
            match (hung, status.code()) {
                (true, _) => Ending::Hung,
                (false, Some(code)) => Ending::Exited(code),
                (false, None) => Ending::Killed(status.signal().expect("no code, so a signal")),
            }
        })
    }

    /// What the child has printed so far: the end of it, where it is long.
    pub fn output(&self) -> String {
        let len = self.output.metadata().expect("the memfd's length").len();
        let shown = len.min(SHOWN_OUTPUT);
        let mut bytes = vec![0; shown as usize];
        self.output.read_exact_at(&mut bytes, len - shown).expect("the memfd's bytes");
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// For the report of a failed case: how it ended, what it printed, where it stood.
    pub fn story(&mut self) -> String {
        // A child that is about to fail by itself gets the time to say why.
        let grace = Instant::now() + Duration::from_secs(1);
        let ending = if is_readable_by(&self.pidfd, grace.min(self.deadline)) {
            format!("{:?}", self.end())
        } else if let Some(ending) = self.ending {
            format!("{ending:?}")
        } else {
            self.whereabouts = procfs::whereabouts(self.pid());
            "running when the judge gave up".to_owned()
        };
        let output = self.output();
        let mut story = format!("child {}: {ending}\n", self.pid());
        for (title, text) in [("output", &output), ("threads", &self.whereabouts)] {
            if !text.is_empty() {
                story += &format!("--- {title} ---\n{text}");
            }
        }
        story
    }
}

impl Deref for Supervised {
    type Target = Line;

    fn deref(&self) -> &Line {
        &self.line
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        // The group outlives its leader where the child has left children of its own.
        kill_group(&self.child);
        let _ = self.child.wait();
    }
}

fn kill_group(child: &Child) {
    // SAFETY: kill(2) touches no memory. The child leads a process group of its own.
    unsafe { libc::kill(-(child.id() as libc::pid_t), libc::SIGKILL) };
}

fn anonymous_file() -> io::Result<File> {
    // SAFETY: the name is a C string; the new descriptor belongs to nobody else.
    unsafe { owned(libc::memfd_create(c"output".as_ptr(), libc::MFD_CLOEXEC).into()) }
        .map(File::from)
}

fn pidfd_open(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: the call takes two numbers; the new descriptor belongs to nobody else.
    unsafe { owned(libc::syscall(libc::SYS_pidfd_open, pid, 0)) }
}

/// # Safety
///
/// `result` is what a call returned that makes a new descriptor, or fails with -1 and errno.
unsafe fn owned(result: libc::c_long) -> io::Result<OwnedFd> {
    match result {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: as the caller promises.
        fd => Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) }),
    }
}

fn is_readable_by(fd: &OwnedFd, deadline: Instant) -> bool {
    loop {
        let left = deadline.saturating_duration_since(Instant::now()).as_millis();
        let mut poll = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one pollfd, which outlives the call.
        match unsafe { libc::poll(&mut poll, 1, left.try_into().unwrap_or(i32::MAX)) } {
            0 => return false,
            1.. => return true,
            _ => {}
        }
    }
}
