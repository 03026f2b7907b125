//! The rows as cases, and the table that is printed after them.

use std::env;
use std::ffi::c_int;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::Ordering;

use psx_test_support::{Arguments, Case, Child, process, run_child};

use crate::context::{Context, Subject};
use crate::oracle::Outcome;
use crate::row::Row;
use crate::supervisor::{self, Results};
use crate::{
    caller, churn, diverge, flood, fork, fuse, identity, jail, kvm, landlock, lock_holders, memory,
    proc, refused, seccomp, signals, threads, traps, uring, waits,
};

/// How many rows run at the same time: most wait more than they compute.
const PARALLEL: usize = 4;

fn rows() -> impl Iterator<Item = &'static Row> {
    [
        signals::ROWS,
        threads::ROWS,
        waits::ROWS,
        identity::ROWS,
        proc::ROWS,
        jail::ROWS,
        fuse::ROWS,
        landlock::ROWS,
        seccomp::ROWS,
        traps::ROWS,
        refused::ROWS,
        uring::ROWS,
        kvm::ROWS,
        caller::ROWS,
        churn::ROWS,
        diverge::ROWS,
        fork::ROWS,
        memory::ROWS,
        flood::ROWS,
        lock_holders::ROWS,
    ]
    .into_iter()
    .flatten()
}

/// What the rows that have run returned.
static RESULTS: Mutex<Vec<(Subject, &'static str, Results)>> = Mutex::new(Vec::new());

/// The whole program, but for the helpers.
pub(crate) fn run(args: Vec<String>) -> c_int {
    let in_child = Path::new("");
    if run_child(&rows().map(|row| case(row, Subject::Psx, in_child)).collect::<Vec<_>>()) {
        return 0;
    }
    let (subject, texts, mut arguments) = parse(args);
    let fits = |row: &Row, text: &String| {
        if arguments.exact { row.name == text } else { row.name.contains(text) }
    };
    for text in texts.iter().filter(|text| !rows().any(|row| fits(row, text))) {
        eprintln!("no row is called {text}");
        if arguments.exact {
            return 2;
        }
    }
    let is_wanted = |row: &&Row| texts.is_empty() || texts.iter().any(|text| fits(row, text));
    let rows: Vec<_> = rows().filter(is_wanted).collect();
    arguments.test_threads.get_or_insert(PARALLEL);
    let directory = (!arguments.list).then(supervisor::make_directory);
    let path = directory.as_ref().map_or(in_child, |directory| directory.path());
    let mut cases = Vec::new();
    for one in [Subject::Psx, Subject::Glibc] {
        let rows = rows.iter().filter(|row| one == Subject::Psx || row.fails_on_glibc);
        let rows = rows.filter(|_| subject.is_none_or(|only| only == one));
        cases.extend(rows.map(|row| case(row, one, path)));
    }
    if cases.is_empty() {
        eprintln!("no row is selected");
    }
    let conclusion = psx_test_support::run(&arguments, cases);
    let results = RESULTS.lock().expect("no panic");
    for subject in [Subject::Psx, Subject::Glibc] {
        print_table(subject, &rows, &results);
    }
    c_int::from(conclusion.has_failed())
}

/// The subject and the names of rows that the command line asks for, and the options of the harness.
fn parse(args: Vec<String>) -> (Option<Subject>, Vec<String>, Arguments) {
    let (mut subject, mut texts) = (None, Vec::new());
    let mut options = vec![env::args().next().unwrap_or_default()];
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        match &*arg {
            "--subject" => {
                subject = Some(match args.next().as_deref() {
                    Some("psx") => Subject::Psx,
                    Some("glibc") => Subject::Glibc,
                    other => panic!("--subject is followed by psx or glibc, not by {other:?}"),
                });
            }
            // These take a value.
            "--skip" | "--test-threads" | "--format" | "--color" | "--logfile" | "-Z" => {
                options.push(arg);
                options.extend(args.next());
            }
            option if option.starts_with('-') => options.push(arg),
            _ => texts.push(arg),
        }
    }
    (subject, texts, Arguments::from_iter(options))
}

fn case(row: &'static Row, subject: Subject, directory: &Path) -> Case {
    let directory = directory.to_owned();
    let body = |_: &_| {
        let context = Context::new();
        (row.body)(&context);
        if !crate::LEAVE_MAIN.load(Ordering::Relaxed) {
            context.ask("done");
        }
    };
    let case = Case::new(row.name, body)
        .limit(row.limit)
        .prepare(move |command| supervisor::prepare(command, row, subject, &directory))
        .check(move |child| check(child, row, subject))
        .needs(move || match subject {
            Subject::Psx => row.check_needs(),
            Subject::Glibc => process::root().and_then(|()| row.check_needs()),
        });
    let case = if row.alone { case.alone() } else { case };
    if subject == Subject::Glibc { case.kind("glibc") } else { case }
}

fn check(child: &mut Child, row: &'static Row, subject: Subject) {
    let watched = panic::catch_unwind(AssertUnwindSafe(|| supervisor::watch(child, row, subject)));
    let (results, panic) = match watched {
        Ok(results) => (results, None),
        // The process died while the supervisor waited for its next line.
        Err(panic) => {
            (Results { outcomes: vec![Outcome::Killed], ..Results::default() }, Some(panic))
        }
    };
    let mismatches = results.mismatches.join("\n");
    RESULTS.lock().expect("no panic").push((subject, row.name, results));
    if let Some(panic) = panic {
        panic::resume_unwind(panic);
    }
    assert!(mismatches.is_empty(), "{mismatches}");
}

fn print_table(subject: Subject, rows: &[&Row], all: &[(Subject, &'static str, Results)]) {
    let (title, expected) = match subject {
        Subject::Psx => ("fault", "expected"),
        Subject::Glibc => ("the same applied to glibc's setresuid, which must fail", "not OK"),
    };
    let find = |row: &Row| all.iter().find(|(of, name, _)| (*of, *name) == (subject, row.name));
    let mut found = rows.iter().filter_map(|row| Some((row, &find(row)?.2))).peekable();
    if found.peek().is_some() {
        println!("{title:<78} {expected:<16} {:<12} {:>12}", "outcome", "ms");
    }
    for (row, results) in found {
        let expected = match subject {
            Subject::Psx => join(row.expected()),
            Subject::Glibc => "not OK".into(),
        };
        let outcomes = join(&results.outcomes);
        let times = join(results.times.iter().map(|t| format!("{:.1}", t.as_secs_f64() * 1e3)));
        let notes = results.notes.join("; ");
        println!("{:<78} {expected:<16} {outcomes:<12} {times:>12}  {notes}", row.fault);
    }
    println!();
}

fn join<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(", ")
}
