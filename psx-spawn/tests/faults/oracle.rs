//! The oracle: what the kernel reports about each thread, read from outside the process.

use std::fmt;

use psx_test_support::procfs::{self, Task};

/// The state of a thread that has made the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    /// Real, effective, saved and file system user are all this one.
    User(u32),
    NoNewPrivs,
    /// It has this many seccomp filters.
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

/// What a call did, in docs/comparison.md's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The call succeeded and every live thread has the new state.
    Ok,
    /// It failed and nothing changed.
    Clean,
    /// It reported success and some thread kept the old state, or failure and some thread changed.
    Partial,
    /// No result within the limit.
    Hang,
    /// The process died.
    Killed,
    /// The process ended, as the row expects.
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

/// Compares what a process reports of its call with the state of its threads. `exempt` is the beginning of
/// the names that the row leaves out on purpose. io_uring's workers are always left out, since they act
/// with the credentials of each request's submitter, and KVM's thread, which acts with none.
pub(crate) fn compare(pid: u32, mark: Mark, succeeded: bool, exempt: &str) -> (Outcome, String) {
    let is_exempt = |task: &Task| {
        let kernels = ["iou-wrk-", "kvm-nx-lpage-re"];
        kernels.iter().any(|name| task.name().starts_with(name))
            || !exempt.is_empty() && task.name().starts_with(exempt)
    };
    let mut tasks = procfs::tasks(pid);
    tasks.retain(|task| !is_exempt(task));
    let differing = tasks.iter().filter(|task| mark.is_on(task) != succeeded);
    let names: Vec<_> = differing.map(Task::name).collect();
    match (tasks.is_empty(), names.is_empty(), succeeded) {
        (true, ..) => (Outcome::Killed, "no thread is left".into()),
        (_, true, true) => (Outcome::Ok, String::new()),
        (_, true, false) => (Outcome::Clean, String::new()),
        (_, false, _) => {
            let state = if succeeded { "kept the old state" } else { "have the new state" };
            let (count, all, names) = (names.len(), tasks.len(), names.join(", "));
            (Outcome::Partial, format!("{count} of {all} threads {state}: {names}"))
        }
    }
}
