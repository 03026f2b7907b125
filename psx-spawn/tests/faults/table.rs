//! The command line, the two runs through all cases, and what is printed.

use std::ffi::c_int;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

use crate::case::Case;
use crate::judge::Outcome;
use crate::raw;
use crate::stage::{Stage, Subject};
use crate::supervisor::{self, Verdict, Workshop};
use crate::{
    caller, churn, company, diverge, flood, fork, fuse, identity, jail, kvm, landlock, memory,
    proc, refused, seccomp, signals, threads, traps, uring, waits,
};

/// Most cases wait more than they work.
const SIDE_BY_SIDE: usize = 4;

fn cases() -> impl Iterator<Item = &'static Case> {
    [
        signals::CASES,
        threads::CASES,
        waits::CASES,
        identity::CASES,
        proc::CASES,
        jail::CASES,
        fuse::CASES,
        landlock::CASES,
        seccomp::CASES,
        traps::CASES,
        refused::CASES,
        uring::CASES,
        kvm::CASES,
        caller::CASES,
        churn::CASES,
        diverge::CASES,
        fork::CASES,
        memory::CASES,
        flood::CASES,
        company::CASES,
    ]
    .into_iter()
    .flatten()
}

/// The case's own process.
pub(crate) fn child(name: &str) {
    let case = cases().find(|case| case.name == name).expect("a listed case");
    let print = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        print(info);
        // Not `exit`: other threads still run, and one may hold what an exit handler wants.
        // SAFETY: _exit(2) ends the process and has no other precondition.
        unsafe { libc::_exit(101) }
    }));
    let stage = Stage::new();
    (case.body)(&stage);
    if !crate::LEAVE_MAIN.load(Ordering::Relaxed) {
        stage.ask("done");
    }
}

/// What the command line asks for.
#[derive(Default)]
struct Options {
    list: bool,
    exact: bool,
    texts: Vec<String>,
    skipped: Vec<String>,
    subject: Option<Subject>,
}

impl Options {
    fn parse(args: &[String]) -> Result<Self, String> {
        let mut options = Self::default();
        let mut args = args.iter().map(String::as_str);
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or(format!("{arg} wants a value"));
            match arg {
                "--list" => options.list = true,
                "--exact" => options.exact = true,
                "--skip" => options.skipped.push(value()?.into()),
                "--subject" => {
                    options.subject = Some(match value()? {
                        "psx" => Subject::Psx,
                        "glibc" => Subject::Glibc,
                        other => return Err(format!("no subject {other:?}: psx or glibc")),
                    });
                }
                // Rust's own harness takes these too, and cargo hands them on to every test.
                "--test-threads" | "--format" | "--color" => drop(value()?),
                _ if arg.starts_with('-') => {}
                text => options.texts.push(text.into()),
            }
        }
        Ok(options)
    }

    fn wants(&self, name: &str) -> bool {
        let fits = |text: &String| {
            if self.exact { name == text } else { name.contains(text) }
        };
        (self.texts.is_empty() || self.texts.iter().any(fits)) && !self.skipped.iter().any(fits)
    }
}

/// The supervisor: all that the command line asks for.
pub(crate) fn run(args: &[String]) -> c_int {
    let options = match Options::parse(args) {
        Ok(options) => options,
        Err(error) => {
            eprintln!("{error}");
            return 2;
        }
    };
    let mut wanted: Vec<_> = cases().filter(|case| options.wants(case.name)).collect();
    if options.list {
        wanted.iter().for_each(|case| println!("{}: test", case.name));
        println!("\n{} tests, 0 benchmarks", wanted.len());
        return 0;
    }
    let shop = Workshop::open().expect("a directory for temporary files");
    let is_root = raw::users()[1] == 0;
    let (mut passed, mut failed, mut left_out) = (0, Vec::new(), Vec::new());
    wanted.retain(|case| match case.missing() {
        Some(what) => {
            left_out.push(format!("{} ({what})", case.name));
            false
        }
        None => true,
    });
    for subject in [Subject::Psx, Subject::Glibc] {
        let runs = |case: &&Case| subject == Subject::Psx || is_root && case.bites;
        let cases: Vec<_> = wanted.iter().copied().filter(runs).collect();
        if options.subject.is_some_and(|only| only != subject) || cases.is_empty() {
            continue;
        }
        print_head(subject);
        for (case, refused) in run_all(&cases, subject, &shop) {
            match refused {
                false => passed += 1,
                true => failed.push(case.name),
            }
        }
    }
    if !is_root && wanted.iter().any(|case| case.bites) {
        left_out.push("the faults put to glibc (root)".to_owned());
    }
    if !left_out.is_empty() {
        println!("\nleft out, for want of something: {}", left_out.join(", "));
    }
    if !failed.is_empty() {
        println!("\nfailures: {}", failed.join(", "));
    }
    let word = if failed.is_empty() { "ok" } else { "FAILED" };
    let (failed, left_out) = (failed.len(), left_out.len());
    println!("\ntest result: {word}. {passed} passed; {failed} failed; {left_out} left out\n");
    c_int::from(failed > 0)
}

/// Runs what can run side by side, then the rest one by one, and prints each as its turn comes.
fn run_all(
    cases: &[&'static Case],
    subject: Subject,
    shop: &Workshop,
) -> Vec<(&'static Case, bool)> {
    let mut verdicts: Vec<Option<Verdict>> = cases.iter().map(|_| None).collect();
    let (beside, alone): (Vec<_>, Vec<_>) = (0..cases.len()).partition(|&i| !cases[i].alone);
    let mut refused = Vec::new();
    let mut record = |i: usize, verdict: Verdict| {
        verdicts[i] = Some(verdict);
        while let Some(Some(verdict)) = verdicts.get(refused.len()) {
            let case = cases[refused.len()];
            refused.push((case, print_row(case, subject, verdict)));
        }
    };
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        let (send, verdicts) = mpsc::channel();
        for _ in 0..SIDE_BY_SIDE {
            let (send, next, beside) = (send.clone(), &next, &beside);
            scope.spawn(move || {
                while let Some(&i) = beside.get(next.fetch_add(1, Ordering::Relaxed)) {
                    send.send((i, watch(cases[i], subject, shop))).expect("the printer listens");
                }
            });
        }
        drop(send);
        verdicts.into_iter().for_each(|(i, verdict)| record(i, verdict));
    });
    for i in alone {
        record(i, watch(cases[i], subject, shop));
    }
    refused
}

/// A supervisor that panics (its case's process died in the middle of a talk) fails its row only.
fn watch(case: &Case, subject: Subject, shop: &Workshop) -> Verdict {
    panic::catch_unwind(AssertUnwindSafe(|| supervisor::run(case, subject, shop))).unwrap_or_else(
        |_| Verdict {
            outcomes: vec![Outcome::Killed],
            refusals: vec!["the supervisor lost the process: see its panic".into()],
            ..Verdict::default()
        },
    )
}

fn print_head(subject: Subject) {
    let (title, want) = match subject {
        Subject::Psx => ("fault", "must be"),
        Subject::Glibc => ("the same put to glibc's setresuid, which must fail", "not OK"),
    };
    println!("\n{title:<66} {want:<16} {:<12} {:>12}", "is", "ms");
}

/// Prints one row; whether it is not as it must be.
fn print_row(case: &Case, subject: Subject, verdict: &Verdict) -> bool {
    let outcomes = join(&verdict.outcomes);
    let times = join(verdict.times.iter().map(|t| format!("{:.1}", t.as_secs_f64() * 1e3)));
    let notes = verdict.notes.join("; ");
    let (expected, refusals) = match subject {
        Subject::Psx => (join(case.expected()), verdict.refusals.clone()),
        Subject::Glibc => {
            let bit = verdict.outcomes.iter().any(|o| !matches!(o, Outcome::Ok | Outcome::Clean));
            ("not OK".into(), if bit { vec![] } else { vec!["the fault does not bite".into()] })
        }
    };
    println!("{:<66} {expected:<16} {outcomes:<12} {times:>12}  {notes}", case.fault);
    for refusal in &refusals {
        println!("  FAILED {}: {}", case.name, refusal.replace('\n', "\n    "));
    }
    !refusals.is_empty()
}

fn join<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(", ")
}
