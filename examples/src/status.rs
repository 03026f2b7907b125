//! What the kernel reports about each thread's privileges, in `/proc/PID/task/TID/status`.

use std::fmt::Display;
use std::str::FromStr;
use std::{io, process};

use psx_test_support::procfs::{self, Task};

/// One thread, as the kernel reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThreadStatus {
    /// The kernel's id of the thread.
    pub tid: u32,
    /// Its name, at most 15 bytes.
    pub name: String,
    /// Its privileges.
    pub credentials: Credentials,
}

/// The privileges of a thread that the examples show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// Real, effective, saved and filesystem user id.
    pub uids: [u32; 4],
    /// Real, effective, saved and filesystem group id.
    pub gids: [u32; 4],
    /// The supplementary groups.
    pub groups: Vec<u32>,
    /// The effective capabilities, one bit each.
    pub effective: u64,
    /// Whether an exec can no longer raise these.
    pub no_new_privs: bool,
}

/// Every thread of this process in the order of their ids, which is the order of their start unless ids have
/// wrapped.
///
/// # Errors
///
/// Where `/proc` cannot be read or differs from [`proc_pid_status(5)`].
///
/// [`proc_pid_status(5)`]: https://man7.org/linux/man-pages/man5/proc_pid_status.5.html
pub fn of_this_process() -> io::Result<Vec<ThreadStatus>> {
    of_process(process::id())
}

/// Every thread of the process `pid`; one that ends while the list is read is left out.
///
/// # Errors
///
/// As [`of_this_process`]; also where there is no such process.
pub fn of_process(pid: u32) -> io::Result<Vec<ThreadStatus>> {
    let tasks = procfs::list_tasks(pid)?.into_iter();
    tasks
        .map(|task| {
            ThreadStatus::of(&task).map_err(|field| {
                let message = format!("the status of {} has no readable {field}", task.tid);
                io::Error::new(io::ErrorKind::InvalidData, message)
            })
        })
        .collect()
}

impl ThreadStatus {
    /// The status of a thread, or the field that is missing or unreadable.
    fn of(task: &Task) -> Result<Self, &'static str> {
        let value = |field: &'static str| task.try_field(field).ok_or(field);
        let numbers = |field| {
            let words = value(field)?.split_whitespace();
            words.map(u32::from_str).collect::<Result<Vec<_>, _>>().map_err(|_| field)
        };
        let four = |field| <[u32; 4]>::try_from(numbers(field)?).map_err(|_| field);
        Ok(Self {
            tid: task.tid,
            name: value("Name")?.to_owned(),
            credentials: Credentials {
                uids: four("Uid")?,
                gids: four("Gid")?,
                groups: numbers("Groups")?,
                effective: u64::from_str_radix(value("CapEff")?, 16).map_err(|_| "CapEff")?,
                no_new_privs: value("NoNewPrivs")? != "0",
            },
        })
    }
}

impl Credentials {
    /// The column headings of [`cells`](Self::cells).
    pub const HEADINGS: [&str; 5] = ["uids", "gids", "groups", "CapEff", "NoNewPrivs"];

    /// The values as `/proc` shows them, but four equal ids as one.
    #[must_use]
    pub fn cells(&self) -> [String; 5] {
        [
            ids(&self.uids),
            ids(&self.gids),
            if self.groups.is_empty() { "none".to_owned() } else { spaced(&self.groups) },
            format!("{:016x}", self.effective),
            u8::from(self.no_new_privs).to_string(),
        ]
    }
}

fn ids(four: &[u32; 4]) -> String {
    if four.iter().all(|id| *id == four[0]) { four[0].to_string() } else { spaced(four) }
}

fn spaced<T: Display>(values: &[T]) -> String {
    values.iter().map(T::to_string).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use std::sync::{Barrier, mpsc};
    use std::thread;

    use psx_test_support::threads::tid;

    use super::*;

    const STATUS: &str = "Name:\tread 1\nUmask:\t0022\nTgid:\t7\nPid:\t9\nUid:\t0\t1\t2\t3\n\
        Gid:\t65534\t65534\t65534\t65534\nGroups:\t4 20 \nCapInh:\t0\nCapEff:\t000001fffeffffff\n\
        NoNewPrivs:\t1\n";

    #[test]
    fn a_status_file_is_read_whole() {
        let status = ThreadStatus::of(&Task::parse(STATUS)).expect("every field is there");
        assert_eq!((status.tid, status.name.as_str()), (9, "read 1"));
        let cells = status.credentials.cells();
        assert_eq!(cells, ["0 1 2 3", "65534", "4 20", "000001fffeffffff", "1"]);
    }

    #[test]
    fn a_missing_or_malformed_field_is_named() {
        let of = |text: String| ThreadStatus::of(&Task::parse(&text));
        assert_eq!(of(STATUS.replace("CapEff", "CapFoo")), Err("CapEff"));
        assert_eq!(of(STATUS.replace("0\t1\t2\t3", "0\t1\t2")), Err("Uid"));
    }

    #[test]
    fn this_process_is_listed_with_the_calling_thread() {
        let threads = of_this_process().expect("/proc can be read");
        assert!(threads.iter().any(|thread| thread.tid == tid()));
    }

    #[test]
    fn a_thread_is_listed_while_an_older_one_ends() {
        for _ in 0..300 {
            let (old, young) = (Barrier::new(2), Barrier::new(2));
            let (send, ids) = mpsc::channel();
            thread::scope(|scope| {
                scope.spawn(|| old.wait());
                scope.spawn(|| {
                    send.send(tid()).expect("the receiver waits");
                    young.wait();
                });
                let young_tid = ids.recv().expect("its id");
                old.wait();
                let tids = procfs::list_tids(process::id()).expect("/proc can be read");
                young.wait();
                assert!(tids.contains(&young_tid));
            });
        }
    }
}
