//! What the kernel says about each thread of a process: the oracle outside the code under test.

use std::collections::BTreeMap;
use std::{fs, io};

use super::tids;

/// A thread, as `/proc/PID/task/TID/status` showed it.
#[derive(Debug)]
pub struct Task {
    /// The thread's kernel id.
    pub tid: u32,
    fields: BTreeMap<String, String>,
}

impl Task {
    /// One field of `status`, its blanks made single: `field("Uid")` is `"0 0 0 0"`.
    pub fn field(&self, name: &str) -> &str {
        self.fields.get(name).unwrap_or_else(|| panic!("no {name} in the status of {}", self.tid))
    }

    /// The thread's name, as the kernel has it.
    pub fn name(&self) -> &str {
        self.field("Name")
    }
}

/// All threads of the process `pid` that still run code, in the order of their ids.
pub fn tasks(pid: u32) -> Vec<Task> {
    let mut tasks: Vec<_> = tids(pid)
        .into_iter()
        .filter_map(|tid| {
            unless_gone(fs::read_to_string(format!("/proc/{pid}/task/{tid}/status"))).map(
                |status| {
                    let fields = status
                        .lines()
                        .filter_map(|line| line.split_once(':'))
                        .map(|(name, value)| {
                            (name.into(), value.split_whitespace().collect::<Vec<_>>().join(" "))
                        })
                        .collect();
                    Task { tid, fields }
                },
            )
        })
        .filter(|task: &Task| !task.field("State").starts_with(['Z', 'X']))
        .collect();
    tasks.sort_by_key(|task| task.tid);
    tasks
}

/// The ids of all threads of the process `pid`, in their order; none if it is gone.
pub fn tids(pid: u32) -> Vec<u32> {
    unless_gone(tids::tids(pid)).unwrap_or_default()
}

/// The system call that a thread is blocked in, as its number and arguments; none while it runs.
pub fn blocked_in(pid: u32, tid: u32) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{tid}/syscall")).ok()?;
    // "NUMBER, six arguments, stack pointer, program counter"; "running"; "-1 ..." outside a call.
    let fields: Vec<_> = text.split_whitespace().collect();
    (fields.len() == 9).then(|| fields[..7].join(" "))
}

/// The timer slack of one thread, in nanoseconds: a number that any thread may set for itself. To
/// read another's takes root, or the same user with ptrace rights.
pub fn timer_slack(tid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{tid}/timerslack_ns")).expect("a living thread");
    text.trim().parse().expect("a number")
}

/// A line for each thread: its name, state, and the system call and kernel function it is in.
pub fn whereabouts(pid: u32) -> String {
    let mut text = String::new();
    for task in tasks(pid) {
        let read = |file: &str| {
            fs::read_to_string(format!("/proc/{pid}/task/{}/{file}", task.tid)).unwrap_or_default()
        };
        text += &format!(
            "  {} ({}) {}; syscall {}; in {}; blocked {}, pending {}\n",
            task.tid,
            task.name(),
            task.field("State"),
            read("syscall").trim(),
            read("wchan").trim(),
            task.field("SigBlk"),
            task.field("SigPnd"),
        );
    }
    text
}

/// A thread may end between any two looks at it.
fn unless_gone<T>(result: io::Result<T>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(e) if e.raw_os_error() == Some(libc::ESRCH) => None,
        Err(e) => panic!("/proc: {e}"),
    }
}
