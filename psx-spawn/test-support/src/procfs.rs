//! What the kernel reports about the threads of a process, independently of psx.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::{fs, io, process, thread};

/// A thread, as `/proc/PID/task/TID/status` showed it.
#[derive(Debug)]
pub struct Task {
    /// The thread's kernel id.
    pub tid: u32,
    fields: BTreeMap<String, String>,
}

impl Task {
    /// One field of `status`, with single blanks: `field("Uid")` is `"0 0 0 0"`.
    pub fn field(&self, name: &str) -> &str {
        self.try_field(name).unwrap_or_else(|| panic!("no {name} in the status of {}", self.tid))
    }

    /// The same, where a kernel may not have it.
    pub fn try_field(&self, name: &str) -> Option<&str> {
        self.fields.get(name).map(String::as_str)
    }

    /// One field that is a mask, such as `SigBlk` or `CapEff`.
    pub fn mask(&self, name: &str) -> u64 {
        u64::from_str_radix(self.field(name), 16).expect("a mask")
    }

    /// The thread's name, as the kernel has it.
    pub fn name(&self) -> &str {
        self.field("Name")
    }

    /// Reads the text of a `status`.
    pub fn parse(status: &str) -> Self {
        let fields = status.lines().filter_map(|line| line.split_once(':'));
        let single_blanks = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        let fields = fields.map(|(name, value)| (name.into(), single_blanks(value)));
        let fields = BTreeMap::from_iter(fields);
        Self { tid: fields["Pid"].parse().expect("a number"), fields }
    }
}

/// The calling thread.
pub fn this_task() -> Task {
    try_this_task().expect("/proc")
}

/// The calling thread, where `/proc` may be out of reach.
///
/// # Errors
///
/// Those of the read.
pub fn try_this_task() -> io::Result<Task> {
    fs::read_to_string("/proc/thread-self/status").map(|status| Task::parse(&status))
}

/// All threads of the process `pid` that still run code, in the order of their ids.
pub fn tasks(pid: u32) -> Vec<Task> {
    let mut tasks = unless_gone(list_tasks(pid)).unwrap_or_default();
    tasks.retain(|task| !task.field("State").starts_with(['Z', 'X']));
    tasks
}

/// All threads of the process `pid`, in the order of their ids; one that ends meanwhile is left out.
///
/// # Errors
///
/// Where `/proc` cannot be read; also where there is no such process.
pub fn list_tasks(pid: u32) -> io::Result<Vec<Task>> {
    let mut tasks = Vec::new();
    for tid in list_tids(pid)? {
        match fs::read(format!("/proc/{pid}/task/{tid}/status")) {
            Err(e) if is_gone(&e) => {}
            status => tasks.push(Task { tid, ..Task::parse(&String::from_utf8_lossy(&status?)) }),
        }
    }
    Ok(tasks)
}

/// One thread of this process.
#[track_caller]
pub fn task(tid: u32) -> Task {
    let mut tasks = tasks(process::id()).into_iter();
    tasks.find(|task| task.tid == tid).expect("a living thread")
}

/// Asserts that `field` has this value on each thread of the process `pid`.
#[track_caller]
pub fn assert_all(pid: u32, field: &str, value: &str) {
    for task in tasks(pid) {
        assert_eq!(task.field(field), value, "{field} of {} ({})", task.tid, task.name());
    }
}

/// The ids of all threads of the process `pid`, in their order; none if it has ended.
pub fn tids(pid: u32) -> Vec<u32> {
    unless_gone(list_tids(pid)).unwrap_or_default()
}

/// The ids of the threads of the process `pid`, in their order; of those that end meanwhile some.
///
/// The kernel ends the list early, and reports no error, when the thread that it has come to ends
/// (`proc_task_readdir` in fs/proc/base.c). So the list is read until it is the same twice and as
/// long as the kernel's count, or often enough that no thread was left out each time.
///
/// # Errors
///
/// Where `/proc` cannot be read; also where there is no such process.
pub fn list_tids(pid: u32) -> io::Result<Vec<u32>> {
    const READS: usize = 100;
    let folder = format!("/proc/{pid}/task");
    let (mut all, mut last) = (BTreeSet::new(), BTreeSet::new());
    for _ in 0..READS {
        let mut tids = BTreeSet::new();
        for entry in fs::read_dir(&folder)? {
            tids.extend(entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()));
        }
        all.extend(&tids);
        // The folder's link count is the number of threads and two.
        if tids == last && tids.len() as u64 + 2 == fs::metadata(&folder)?.nlink() {
            return Ok(Vec::from_iter(tids));
        }
        last = tids;
    }
    Ok(Vec::from_iter(all))
}

/// The name and the state letter of a thread, from its `stat`; none if it has ended.
pub fn name_and_state(pid: u32, tid: u32) -> Option<(String, char)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/task/{tid}/stat")).ok()?;
    let (name, rest) = stat.split_once('(')?.1.rsplit_once(") ")?;
    Some((name.to_owned(), rest.chars().next()?))
}

/// Whether the main thread of the process `pid` has ended while others may run.
pub fn is_main_ended(pid: u32) -> bool {
    name_and_state(pid, pid).is_some_and(|(_, state)| state == 'Z')
}

/// Waits until a thread of this process has such an id, name and state.
pub fn wait_for_thread(is_it: impl Fn(u32, &str, char) -> bool) {
    let is_there = || {
        let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
        let mut tids = tasks.filter_map(|task| task.file_name().to_str()?.parse().ok());
        tids.any(|tid| {
            let found = name_and_state(process::id(), tid);
            found.is_some_and(|(name, state)| is_it(tid, &name, state))
        })
    };
    while !is_there() {
        thread::yield_now();
    }
}

/// Waits until this process has no thread with this id.
pub fn wait_for_end(tid: u32) {
    while fs::exists(format!("/proc/{}/task/{tid}", process::id())).expect("/proc") {
        thread::yield_now();
    }
}

/// The system call that a thread is blocked in, as its number and arguments; none while it runs.
pub fn blocked_in(pid: u32, tid: u32) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{tid}/syscall")).ok()?;
    // "NUMBER, six arguments, stack pointer, program counter"; "running"; "-1 ..." outside a call.
    let fields: Vec<_> = text.split_whitespace().collect();
    (fields.len() == 9).then(|| fields[..7].join(" "))
}

/// A line for each thread: its name, state, and the system call and kernel function it is in.
pub fn thread_states(pid: u32) -> String {
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

/// A thread may end between any two reads.
fn unless_gone<T>(result: io::Result<T>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(e) if is_gone(&e) => None,
        Err(e) => panic!("/proc: {e}"),
    }
}

/// Whether a read from /proc has failed because the thread has ended.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}
