//! A case's child process as its check sees it: its line, /proc, its end and its output.

use std::fs::File;
use std::ops::Deref;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{self, Command};
use std::thread;
use std::time::{Duration, Instant};

use crate::raw::{must, owned};
use crate::{Line, procfs};

/// How much of a failed child's output is printed, from its end.
const SHOWN_OUTPUT: u64 = 16 * 1024;

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// With this exit status; 101 after a panic.
    Exited(i32),
    /// By this signal, which the test did not send.
    Killed(i32),
    /// Not within the limit, so that it was killed.
    Hung,
}

/// A running child. Derefs to the test's end of the [`Line`]. Dropped, it is killed.
#[derive(Debug)]
pub struct Child {
    child: process::Child,
    pidfd: OwnedFd,
    line: Line,
    output: File,
    deadline: Instant,
    ending: Option<Ending>,
    /// The state of the threads when the limit had passed.
    threads: String,
}

impl Child {
    /// Starts `command`, whose standard input becomes its end of the line.
    pub fn start(mut command: Command, limit: Duration) -> Self {
        let (ours, theirs) = UnixStream::pair().expect("a socket pair");
        let name = c"output".as_ptr().addr();
        let flags = libc::MFD_CLOEXEC as usize;
        let output = owned(must(libc::SYS_memfd_create, [name, flags, 0, 0, 0, 0]));
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
        let pidfd = owned(must(libc::SYS_pidfd_open, [child.id() as usize, 0, 0, 0, 0, 0]));
        let deadline = Instant::now() + limit;
        let line = Line::new(ours, Some(deadline));
        let output = output.into();
        Self { child, pidfd, line, output, deadline, ending: None, threads: String::new() }
    }

    /// The child's process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The child's living threads.
    pub fn tasks(&self) -> Vec<procfs::Task> {
        procfs::tasks(self.pid())
    }

    /// Looks at the child while it waits in [`Line::pause`] with this `word`.
    #[track_caller]
    pub fn inspect(&self, word: &str, look: impl FnOnce(&Self)) {
        self.expect(word);
        look(self);
        self.send("go");
    }

    /// Polls until `condition` holds; panics past the limit.
    #[track_caller]
    pub fn wait_until(&self, condition: impl Fn(&Self) -> bool) {
        while !condition(self) {
            assert!(Instant::now() < self.deadline, "the limit has passed");
            thread::yield_now();
        }
    }

    /// Asserts that `field` of /proc's `status` has this value on each of the child's threads.
    #[track_caller]
    pub fn assert_all(&self, field: &str, value: &str) {
        procfs::assert_all(self.pid(), field, value);
    }

    /// Waits for the child to end, until the limit.
    pub fn end(&mut self) -> Ending {
        *self.ending.get_or_insert_with(|| {
            let hung = !is_readable_by(&self.pidfd, self.deadline);
            if hung {
                self.threads = procfs::thread_states(self.child.id());
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

    /// For a failed case: how the child ended, what it printed, where its threads were.
    pub fn report(&mut self) -> String {
        // A child that is about to fail gets the time to print why.
        let grace = Instant::now() + Duration::from_secs(1);
        let ending = if is_readable_by(&self.pidfd, grace.min(self.deadline)) {
            format!("{:?}", self.end())
        } else if let Some(ending) = self.ending {
            format!("{ending:?}")
        } else {
            self.threads = procfs::thread_states(self.pid());
            "running when the check failed".to_owned()
        };
        let output = self.output();
        let mut report = format!("child {}: {ending}\n", self.pid());
        for (title, text) in [("output", &output), ("threads", &self.threads)] {
            if !text.is_empty() {
                report += &format!("--- {title} ---\n{text}");
            }
        }
        report
    }
}

impl Deref for Child {
    type Target = Line;

    fn deref(&self) -> &Line {
        &self.line
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // The group outlives its leader where the child has left children.
        kill_group(&self.child);
        let _ = self.child.wait();
    }
}

fn kill_group(child: &process::Child) {
    // SAFETY: kill(2) touches no memory. The child leads a process group.
    unsafe { libc::kill(-(child.id() as libc::pid_t), libc::SIGKILL) };
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
