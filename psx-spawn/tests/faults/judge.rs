//! The oracle: what the kernel says of each thread, read from outside the process.

use std::fmt;

use crate::support::procfs::{self, Task};

/// What every thread bears once the call has been made on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    /// Real, effective, saved and file system user are all this one.
    User(u32),
    NoNewPrivs,
    /// So many seccomp filters are in force.
    Filters(u32),
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(user) => user.fmt(f),
            Self::NoNewPrivs => f.write_str("no-new-privs"),
            Self::Filters(count) => write!(f, "filters-{count}"),
        }
    }
}

impl Mark {
    /// The inverse of `Display`.
    pub(crate) fn parse(word: &str) -> Self {
        match (word, word.strip_prefix("filters-")) {
            ("no-new-privs", _) => Self::NoNewPrivs,
            (_, Some(count)) => Self::Filters(count.parse().expect("a number of filters")),
            (user, None) => Self::User(user.parse().expect("a user id")),
        }
    }

    fn is_on(self, task: &Task) -> bool {
        match self {
            Self::User(user) => task.field("Uid").split(' ').all(|id| id == user.to_string()),
            Self::NoNewPrivs => task.field("NoNewPrivs") == "1",
            Self::Filters(count) => task.field("Seccomp_filters") == count.to_string(),
        }
    }
}

/// FAULTS.md's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The call succeeded and every live thread has the new state.
    Ok,
    /// It failed and nothing changed.
    Clean,
    /// It reported success and some thread kept the old state, or failure and some thread changed.
    Partial,
    /// No answer within the limit.
    Hang,
    /// The process died.
    Killed,
    /// The process ended, as the row wants it to.
    Ended,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "OK",
            Self::Clean => "CLEAN",
            Self::Partial => "PARTIAL",
            Self::Hang => "HANG",
            Self::Killed => "KILLED",
            Self::Ended => "ENDED",
        })
    }
}

/// Holds what a process says of its call against what its threads are. `exempt` is the beginning
/// of the names that the row leaves out on purpose; always left out are io_uring's workers, which
/// act with the credentials of each request's submitter, and KVM's thread, which acts with none.
pub(crate) fn judge(pid: u32, mark: Mark, succeeded: bool, exempt: &str) -> (Outcome, String) {
    let mut tasks = procfs::tasks(pid);
    tasks
        .retain(|task| !["iou-wrk-", "kvm-nx-lpage-re"].iter().any(|n| task.name().starts_with(n)));
    tasks.retain(|task| exempt.is_empty() || !task.name().starts_with(exempt));
    let odd = tasks.iter().filter(|task| mark.is_on(task) != succeeded);
    let names: Vec<_> = odd.map(Task::name).collect();
    match (tasks.is_empty(), names.is_empty(), succeeded) {
        (true, ..) => (Outcome::Killed, "no thread is left to look at".into()),
        (_, true, true) => (Outcome::Ok, String::new()),
        (_, true, false) => (Outcome::Clean, String::new()),
        (_, false, _) => {
            let state = if succeeded { "kept the old state" } else { "have the new state" };
            let (odd, all, names) = (names.len(), tasks.len(), names.join(", "));
            (Outcome::Partial, format!("{odd} of {all} threads {state}: {names}"))
        }
    }
}
