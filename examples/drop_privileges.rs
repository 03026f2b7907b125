//! A program with many busy threads drops root, on all of them at once.
//!
//! It shows what the kernel reports about each thread before and after, and each thread attempts what only root
//! may do. With `--per-thread` it makes the same calls on the main thread alone, as a plain `setuid` system
//! call does, and shows which threads are still root.

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};

use psx::{Broadcast, Errno};
use psx_examples::attempt::{Answer, Attempt};
use psx_examples::status::{self, Credentials, ThreadStatus};
use psx_examples::table::{self, Table, counted, some_of};
use psx_examples::workers::Workers;
use psx_test_support::raw::syscall;

const USAGE: &str = "usage: drop_privileges [--threads N] [--per-thread]";

const HELP: &str = "\
Drops root in a program with many busy threads, on every thread at once, and proves it.

  --threads N    start N workers besides the main thread (default 8)
  --per-thread   make the calls on the main thread alone, and show which threads are still root
  --help         this text

Exit status: 0 if every thread lost its privileges and every attempt to use them was refused,
1 if not, 2 if the arguments were wrong.";

/// The uid, gid and only group that root becomes: the kernel's own "nobody".
const NOBODY: u32 = 65_534;

/// One system call of the drop.
struct Step {
    name: &'static str,
    make: fn() -> Result<usize, Errno>,
}

/// The steps in the order that works: groups and gid while the uid still permits it, then capabilities. The first
/// three need root.
const STEPS: [Step; 5] = [
    Step { name: "setgroups", make: set_groups },
    Step { name: "setresgid", make: || set_ids(libc::SYS_setresgid) },
    Step { name: "setresuid", make: || set_ids(libc::SYS_setresuid) },
    Step { name: "capset", make: clear_capabilities },
    Step { name: "prctl(PR_SET_NO_NEW_PRIVS)", make: set_no_new_privs },
];
const ROOT_ONLY: usize = 3;

fn set_groups() -> Result<usize, Errno> {
    let groups = [NOBODY];
    let args = [groups.len(), groups.as_ptr().addr(), 0, 0, 0, 0];
    // SAFETY: the second argument points to as many group ids as the first says.
    unsafe { syscall(libc::SYS_setgroups, args) }
}

fn set_ids(nr: libc::c_long) -> Result<usize, Errno> {
    // SAFETY: setresuid and setresgid take three numbers and touch no memory.
    unsafe { syscall(nr, [NOBODY as usize, NOBODY as usize, NOBODY as usize, 0, 0, 0]) }
}

fn clear_capabilities() -> Result<usize, Errno> {
    // Version 3 of the interface and the calling thread; then two times three empty sets.
    let header = [0x2008_0522_u32, 0];
    let sets = [0_u32; 6];
    let args = [header.as_ptr().addr(), sets.as_ptr().addr(), 0, 0, 0, 0];
    // SAFETY: both point to what capset(2) reads under that version, and outlive the call.
    unsafe { syscall(libc::SYS_capset, args) }
}

fn set_no_new_privs() -> Result<usize, Errno> {
    // SAFETY: numbers only.
    unsafe { syscall(libc::SYS_prctl, [libc::PR_SET_NO_NEW_PRIVS as usize, 1, 0, 0, 0, 0]) }
}

/// The steps of the drop, and the expected result.
struct Plan {
    steps: &'static [Step],
    wanted: Credentials,
    /// The step that failed, if one did.
    failed: AtomicUsize,
}

impl Plan {
    /// Root drops everything; another user drops its capabilities.
    fn from(now: &Credentials) -> Self {
        let powerless = Credentials { effective: 0, no_new_privs: true, ..now.clone() };
        let nobody = Credentials {
            uids: [NOBODY; 4],
            gids: [NOBODY; 4],
            groups: vec![NOBODY],
            ..powerless.clone()
        };
        let is_root = now.uids[1] == 0;
        let (steps, wanted) =
            if is_root { (&STEPS[..], nobody) } else { (&STEPS[ROOT_ONLY..], powerless) };
        Self { steps, wanted, failed: AtomicUsize::new(0) }
    }

    /// Makes every step on the calling thread. Async-signal-safe: raw system calls, one store.
    fn apply(&self) -> Result<usize, Errno> {
        for (number, step) in self.steps.iter().enumerate() {
            (step.make)().inspect_err(|_| self.failed.store(number, Ordering::Relaxed))?;
        }
        Ok(0)
    }

    /// Explains a step's failure.
    fn explain(&self, why: impl std::fmt::Display) -> io::Error {
        let failed = self.failed.load(Ordering::Relaxed);
        let step = self.steps[failed].name;
        let mut text = format!("{step}: {why}");
        if failed > 0 {
            text += "; that thread had made the steps before it";
        }
        if self.steps.len() == STEPS.len() && failed < ROOT_ONLY {
            text += &format!(
                "\nTo become {NOBODY}, root needs CAP_SETUID and CAP_SETGID; in a user namespace, \
                 also a mapping of\n{NOBODY}, and \"allow\" in /proc/self/setgroups."
            );
        }
        io::Error::other(text)
    }
}

struct Options {
    threads: usize,
    per_thread: bool,
}

/// The options, or `None` where help is asked for.
fn parse_arguments() -> Result<Option<Options>, lexopt::Error> {
    use lexopt::prelude::*;

    let mut options = Options { threads: 8, per_thread: false };
    let mut arguments = lexopt::Parser::from_env();
    while let Some(argument) = arguments.next()? {
        match argument {
            Long("threads") => options.threads = arguments.value()?.parse()?,
            Long("per-thread") => options.per_thread = true,
            Short('h') | Long("help") => return Ok(None),
            other => return Err(other.unexpected()),
        }
    }
    if options.threads == 0 {
        return Err("--threads must be at least 1".into());
    }
    Ok(Some(options))
}

fn main() -> ExitCode {
    let result = match parse_arguments() {
        Ok(Some(options)) => run(&options, &mut io::stdout().lock()),
        Ok(None) => writeln!(io::stdout(), "{USAGE}\n\n{HELP}").map(|()| true),
        Err(e) => {
            eprintln!("drop_privileges: {e}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        // The reader has closed the pipe.
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("drop_privileges: {e}");
            ExitCode::FAILURE
        }
    }
}

/// Writes everything to `out`, and returns whether every thread lost its privileges.
fn run(options: &Options, out: &mut impl Write) -> io::Result<bool> {
    let mut attempts = Vec::new();
    for attempt in Attempt::ALL {
        match attempt.pointless() {
            Some(reason) => writeln!(out, "Not tried: {attempt}, because {reason}.\n")?,
            None => attempts.push(attempt),
        }
    }
    let tries = attempts.clone();
    let try_all = move || tries.iter().map(|attempt| attempt.make()).collect::<Vec<Answer>>();
    let workers = Workers::start(options.threads, try_all.clone())?;

    let before = status::of_this_process()?;
    writeln!(out, "Real, effective, saved and filesystem id are shown as one where they agree.\n")?;
    writeln!(out, "Before: {}", counted(before.len(), "thread"))?;
    writeln!(out, "{}", table::of_threads(&before, |_| ""))?;

    let plan = Plan::from(&before[0].credentials);
    let steps: Vec<_> = plan.steps.iter().map(|step| step.name).collect();
    writeln!(out, "Dropping privileges: {}", steps.join(", "))?;
    if steps.len() < STEPS.len() {
        let uid = before[0].credentials.uids[1];
        writeln!(out, "  This is not root: uid {uid} stays, and drops its capabilities.")?;
    }
    if options.per_thread {
        plan.apply().map_err(|errno| plan.explain(errno))?;
        writeln!(out, "  made by the main thread alone\n")?;
    } else {
        // SAFETY: `apply` is async-signal-safe, and no thread here relies on a privilege.
        let report = unsafe { Broadcast::new().run(|| plan.apply()) }.map_err(|e| match e {
            psx::Error::Os(_) => plan.explain(e),
            _ => e.into(),
        })?;
        let (threads, stopped) = (counted(report.threads(), "thread"), report.stopped());
        writeln!(out, "  made by {threads} in one stop of {stopped:.1?}\n")?;
    }

    let after = status::of_this_process()?;
    writeln!(out, "After: {}", counted(after.len(), "thread"))?;
    let remark = |now: &Credentials| {
        if *now == plan.wanted { "" } else { "<- not dropped" }
    };
    writeln!(out, "{}", table::of_threads(&after, remark))?;

    let mut answers: Vec<Vec<Answer>> =
        workers.end()?.into_iter().map(|(_, answers)| answers).collect();
    answers.push(try_all());
    let refused = write_answers(out, &attempts, &answers)?;
    let tried = attempts.len() * answers.len();
    let clean = write_summary(out, &after, &plan.wanted)?;
    writeln!(out, "{refused} of {} were refused.", counted(tried, "attempt"))?;
    if options.per_thread && !clean {
        writeln!(
            out,
            "\nOn Linux a privilege belongs to a thread, and a system call changes its caller \
             alone.\nWithout --per-thread psx makes the calls on every thread at one instant."
        )?;
    }
    Ok(clean && refused == tried)
}

/// Writes the results of each attempt, over all threads, and returns how many were refused.
fn write_answers(
    out: &mut impl Write,
    attempts: &[Attempt],
    answers: &[Vec<Answer>],
) -> io::Result<usize> {
    let mut refused = 0;
    let mut table = Table::new(["attempt", "threads", "answer"]);
    for (column, attempt) in attempts.iter().enumerate() {
        let mut tally: Vec<(Answer, usize)> = Vec::new();
        for answer in answers.iter().map(|answers| answers[column]) {
            refused += usize::from(attempt.is_refused(answer));
            match tally.iter_mut().find(|(seen, _)| *seen == answer) {
                Some((_, count)) => *count += 1,
                None => tally.push((answer, 1)),
            }
        }
        for (answer, count) in tally {
            let text = match answer {
                Ok(()) => "ALLOWED".to_owned(),
                Err(errno) if attempt.is_refused(answer) => format!("refused: {errno}"),
                Err(errno) => format!("failed for another reason: {errno}"),
            };
            table.push([attempt.to_string(), count.to_string(), text]);
        }
    }
    writeln!(out, "Every thread makes each attempt:\n{table}")?;
    Ok(refused)
}

/// Writes how many threads are as wanted and which are not, and returns whether all are.
fn write_summary(
    out: &mut impl Write,
    threads: &[ThreadStatus],
    wanted: &Credentials,
) -> io::Result<bool> {
    let others = threads.iter().filter(|thread| thread.credentials != *wanted);
    let others: Vec<_> = others.map(|thread| thread.name.as_str()).collect();
    if !others.is_empty() {
        writeln!(out, "Not dropped by {}.", some_of(&others))?;
    }
    let dropped = threads.len() - others.len();
    writeln!(out, "{dropped} of {} dropped their privileges.", counted(threads.len(), "thread"))?;
    Ok(others.is_empty())
}
