//! A process ends with its usual status while one of its threads broadcasts without a pause (P7).
//!
//! Each case runs [`RUNS`] programs, one after another, which end in the same way, and checks the status
//! that their parent gets.

use std::os::unix::process::ExitStatusExt;
use std::process::{self, Command, ExitCode};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::Duration;
use std::{env, ptr};

use psx::thread;
use psx_test_support::process::{exit_now, exit_thread, wait};
use psx_test_support::threads::idle;
use psx_test_support::{Case, Ending, Line};

use crate::kernel::{STRICT, broadcast_slack};

/// Comes before a program's name on this binary's command line.
const ARGUMENT: &str = "--program";

/// How often each program runs: it ends at a random point of a round. `PSX_RUNTIME_EXITS` sets another
/// number.
const RUNS: usize = 20;

/// The status of the programs that choose one.
const STATUS: u8 = 7;

/// How a program ends.
struct Program {
    name: &'static str,
    /// Whether main ends the process; else a thread does while main waits.
    in_main: bool,
    /// Whether main registers before std makes its signal stack, as code that runs before `main` does.
    adopts_early: bool,
    /// Whether a forked child does all this once main is registered.
    in_child: bool,
    /// Whether an exit handler takes as long as ten rounds.
    slowly: bool,
    leave: fn() -> u8,
    wanted: Wanted,
}

/// What the parent gets.
#[derive(Clone, Copy)]
enum Wanted {
    Code(u8),
    Signal(i32),
}

impl Program {
    const fn new(name: &'static str, leave: fn() -> u8) -> Self {
        let wanted = Wanted::Code(STATUS);
        let (in_main, adopts_early, in_child, slowly) = (false, false, false, false);
        Self { name, in_main, adopts_early, in_child, slowly, leave, wanted }
    }

    const fn in_main(self) -> Self {
        Self { in_main: true, ..self }
    }

    const fn adopts_early(self) -> Self {
        Self { adopts_early: true, ..self }
    }

    const fn in_child(self) -> Self {
        Self { in_child: true, ..self }
    }

    const fn slowly(self) -> Self {
        Self { slowly: true, ..self }
    }

    const fn wants(self, wanted: Wanted) -> Self {
        Self { wanted, ..self }
    }
}

const PROGRAMS: &[Program] = &[
    Program::new("exits::return_from_main", || STATUS).in_main(),
    Program::new("exits::return_from_main_slowly", || STATUS).in_main().slowly(),
    Program::new("exits::std_exit", std_exit),
    Program::new("exits::std_exit_slowly", std_exit).slowly(),
    Program::new("exits::std_exit_after_early_adopt", std_exit).adopts_early(),
    Program::new("exits::std_exit_in_a_child", std_exit).in_child().slowly(),
    Program::new("exits::std_exit_of_a_caller", std_exit_of_a_caller).slowly(),
    Program::new("exits::std_exit_of_main", std_exit).in_main(),
    Program::new("exits::std_exit_of_main_slowly", std_exit).in_main().slowly(),
    Program::new("exits::libc_exit", libc_exit),
    Program::new("exits::libc_exit_slowly", libc_exit).slowly(),
    Program::new("exits::libc_exit_of_main_slowly", libc_exit).in_main().slowly(),
    Program::new("exits::at_once", exit_at_once),
    Program::new("exits::at_once_of_main", exit_at_once).in_main(),
    Program::new("exits::abort", || process::abort()).wants(Wanted::Signal(libc::SIGABRT)),
    Program::new("exits::abort_of_main", || process::abort())
        .in_main()
        .wants(Wanted::Signal(libc::SIGABRT)),
    Program::new("exits::exec", exec),
    Program::new("exits::exec_of_main", exec).in_main(),
    Program::new("exits::last_thread", last_thread).in_main().wants(Wanted::Code(0)),
];

pub(crate) fn cases() -> Vec<Case> {
    let case = |program: &Program| Case::new(program.name, run_all).limit(Duration::from_secs(120));
    let mut cases: Vec<_> = PROGRAMS.iter().map(case).collect();
    cases.push(Case::new("exits::overflow_of_main_is_reported", overflow).check(|child| {
        assert_eq!(child.end(), Ending::Killed(libc::SIGABRT));
        assert!(child.output().contains("thread 'main'"), "{}", child.output());
        assert!(child.output().contains("has overflowed its stack"), "{}", child.output());
    }));
    cases
}

/// std's handler prints the message on the signal stack that psx has made for main.
fn overflow(_: &Line) {
    #[allow(unconditional_recursion, reason = "that is the overflow")]
    fn deeper(n: usize) -> usize {
        std::hint::black_box(n) + deeper(n + 1)
    }
    thread::adopt().expect("a place in the registry");
    broadcast_slack(STRICT, 1).expect("a round");
    println!("{}", deeper(0));
}

/// Runs the case's program [`RUNS`] times.
fn run_all(_: &Line) {
    let name = env::args().next_back().expect("the case's name");
    let program = find(&name);
    let runs = env::var("PSX_RUNTIME_EXITS").map_or(RUNS, |runs| runs.parse().expect("a number"));
    for run in 0..runs {
        let status = Command::new("/proc/self/exe").args([ARGUMENT, &name]).status().unwrap();
        let as_wanted = match program.wanted {
            Wanted::Code(code) => status.code() == Some(code.into()),
            Wanted::Signal(signal) => status.signal() == Some(signal),
        };
        assert!(as_wanted, "run {run}: {status}");
    }
}

fn find(name: &str) -> &'static Program {
    PROGRAMS.iter().find(|program| program.name == name).expect("a listed program")
}

/// This binary's `main`, where it is one of the programs.
pub(crate) fn program() -> Option<ExitCode> {
    let args: Vec<_> = env::args().skip(1).collect();
    let [argument, name] = &args[..] else { return None };
    (argument == ARGUMENT).then(|| play(find(name)).into())
}

/// The rounds that have been made, and where to wait for more.
static ROUNDS: Mutex<usize> = Mutex::new(0);
static MORE: Condvar = Condvar::new();

/// Whether the threads that broadcast are to end.
static ENOUGH: AtomicBool = AtomicBool::new(false);

fn play(program: &'static Program) -> u8 {
    let of_std = program.adopts_early.then(|| signal_stack(&NO_STACK));
    thread::adopt().expect("a place in the registry");
    of_std.map(|stack| signal_stack(&stack));
    if program.in_child {
        // SAFETY: the process has one thread, so that the child may do everything.
        match unsafe { libc::fork() } {
            0 => {}
            child => return status_of(child),
        }
    }
    if program.slowly {
        // SAFETY: the handler waits for other threads and touches nothing that an exit takes away.
        assert_eq!(unsafe { libc::atexit(ten_rounds_more) }, 0);
    }
    thread::spawn(|| {
        while !ENOUGH.load(Ordering::Relaxed) {
            broadcast_slack(STRICT, 1).expect("a round");
            *ROUNDS.lock().unwrap() += 1;
            MORE.notify_all();
        }
    });
    ten_rounds_more();
    if program.in_main {
        return (program.leave)();
    }
    thread::spawn(|| process::exit((program.leave)().into()));
    idle()
}

/// How a forked child has ended: its exit status, or 128 and a signal's number.
fn status_of(child: libc::pid_t) -> u8 {
    let status = wait(child);
    status.code().unwrap_or_else(|| 128 + status.signal().expect("an end")) as u8
}

const NO_STACK: libc::stack_t =
    libc::stack_t { ss_sp: ptr::null_mut(), ss_flags: libc::SS_DISABLE, ss_size: 0 };

/// Replaces the calling thread's alternate signal stack, and returns the one that it had.
fn signal_stack(new: &libc::stack_t) -> libc::stack_t {
    let mut old = NO_STACK;
    // SAFETY: no stack, or std's.
    assert_eq!(unsafe { libc::sigaltstack(new, &mut old) }, 0);
    old
}

extern "C" fn ten_rounds_more() {
    let rounds = ROUNDS.lock().unwrap();
    let enough = *rounds + 10;
    drop(MORE.wait_while(rounds, |rounds| *rounds < enough).unwrap());
}

fn std_exit() -> u8 {
    process::exit(STATUS.into())
}

/// The thread that ends the process has broadcast too.
fn std_exit_of_a_caller() -> u8 {
    for _ in 0..5 {
        broadcast_slack(STRICT, 2).expect("a round");
    }
    process::exit(STATUS.into())
}

fn libc_exit() -> u8 {
    // SAFETY: no exit handler of this program uses what the threads that still run use.
    unsafe { libc::exit(STATUS.into()) }
}

fn exit_at_once() -> u8 {
    exit_now(STATUS.into())
}

fn exec() -> u8 {
    let error = psx::process::exec(Command::new("/bin/sh").args(["-c", "exit 7"]));
    panic!("exec: {error}")
}

/// The main thread ends first, and the process with the last thread. (Linux before 5.19 reports main's
/// status, later the last thread's: both are zero.)
fn last_thread() -> u8 {
    ENOUGH.store(true, Ordering::Relaxed);
    exit_thread()
}
