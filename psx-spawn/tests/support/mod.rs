//! Tests that change the process they run in, each in a child process of its own.
//!
//! A test binary (`harness = false`) lists [`Case`]s and hands them to [`main`]. Each case has two
//! sides: a *body*, which runs in a child process (this binary again, as `--child NAME`), and a
//! *judge*, which runs in the test runner and looks at that child from outside.
//!
//! ```ignore
//! fn main() -> ExitCode {
//!     support::main(vec![
//!         // Passes if the body returns within the limit. A panic on any of its threads fails it.
//!         Case::new("calls::pid", |_| assert_eq!(...)),
//!         // The judge decides: it talks to the body by lines, reads /proc, and awaits the end.
//!         Case::new("faults::drop", |line| { line.show("before"); ...; line.say("result 3") })
//!             .judge(|child| {
//!                 child.inspect("before", |child| child.assert_all("NoNewPrivs", "0"));
//!                 assert_eq!(child.hear("result"), "3");
//!                 assert_eq!(child.end(), Ending::Exited(0));
//!             })
//!             .limit(Duration::from_secs(10))
//!             .prepare(|command| { command.env("KEY", "value").uid(1000).gid(1000); })
//!             .needs(support::root),
//!     ])
//! }
//! ```
//!
//! What holds for every case:
//! - The child's standard input is its end of the [`Line`]; its output is kept, and printed when
//!   the case fails.
//! - The limit is hard: past it the child's whole process group is killed, [`Supervised::hear`]
//!   panics and [`Supervised::end`] says [`Ending::Hung`]; what each thread of the child was doing
//!   then is printed if the case fails.
//! - Cases run side by side, except those marked [`alone`](Case::alone), which promise times.
//! - A case whose [`needs`](Case::needs) are not met is shown as ignored, with the reason.
//! - `cargo test -p psx-spawn --test BINARY -- FILTER`, `--exact`, `--list` and the other options
//!   of Rust's own harness work.

#![allow(dead_code, reason = "each test binary uses its own part of this module")]
#![allow(unreachable_pub, reason = "an interface, wherever it is included")]

pub mod procfs;

mod line;
mod supervised;
mod tids;

use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe};
use std::process::{Command, ExitCode};
use std::sync::{Arc, RwLock};
use std::time::Duration;
use std::{env, process};

use libtest_mimic::{Arguments, Completion, Failed, Trial};

pub use line::Line;
pub use supervised::{Ending, Supervised};

/// One test: what its child does, and how that is judged.
pub struct Case {
    name: &'static str,
    body: fn(&Line),
    judge: fn(&mut Supervised),
    prepare: fn(&mut Command),
    needs: fn() -> Result<(), String>,
    limit: Duration,
    alone: bool,
}

impl Case {
    /// A case that passes if `body` returns, in a child process, within twenty seconds.
    pub fn new(name: &'static str, body: fn(&Line)) -> Self {
        Self {
            name,
            body,
            judge: |child| assert_eq!(child.end(), Ending::Exited(0)),
            prepare: |_| (),
            needs: || Ok(()),
            limit: Duration::from_secs(20),
            alone: false,
        }
    }

    /// Replaces the default judge, which wants exit status 0. The child is killed when it returns.
    pub fn judge(self, judge: fn(&mut Supervised)) -> Self {
        Self { judge, ..self }
    }

    /// How long the child may live.
    pub fn limit(self, limit: Duration) -> Self {
        Self { limit, ..self }
    }

    /// Changes how the child is started: its environment, its user (`CommandExt::uid`), more.
    pub fn prepare(self, prepare: fn(&mut Command)) -> Self {
        Self { prepare, ..self }
    }

    /// What the machine must offer, or else why the case cannot run on it.
    pub fn needs(self, needs: fn() -> Result<(), String>) -> Self {
        Self { needs, ..self }
    }

    /// No other case of this binary runs meanwhile.
    pub fn alone(self) -> Self {
        Self { alone: true, ..self }
    }

    fn run(&self, stage: &RwLock<()>) -> Result<Completion, Failed> {
        if let Err(reason) = (self.needs)() {
            return Ok(Completion::ignored_with(reason));
        }
        // Nobody panics while holding a guard, so the lock is never poisoned.
        let _alone = self.alone.then(|| stage.write().unwrap());
        let _beside = (!self.alone).then(|| stage.read().unwrap());

        let mut command = child_command(self.name);
        (self.prepare)(&mut command);
        let mut child = Supervised::start(command, self.limit);
        match panic::catch_unwind(AssertUnwindSafe(|| (self.judge)(&mut child))) {
            Ok(()) => Ok(Completion::Completed),
            Err(_) => Err(format!("{}\n{}", LAST_PANIC.take(), child.story()).into()),
        }
    }
}

/// The command that runs this binary again, as the child's side of the case `name`.
pub fn child_command(name: &str) -> Command {
    // Not the path: a user without rights on the build folder may run this all the same.
    let mut command = Command::new("/proc/self/exe");
    command.args(["--child", name]);
    command
}

/// For [`Case::needs`]: the test runner is root, and so are its children.
pub fn root() -> Result<(), String> {
    // SAFETY: geteuid(2) only reads.
    match unsafe { libc::geteuid() } {
        0 => Ok(()),
        _ => Err("needs root".into()),
    }
}

thread_local! {
    /// What the last panic of this thread said, with its place; for [`Case::run`].
    static LAST_PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// A test binary's `main`: runs `cases` by the command line, or one body as the child.
pub fn main(cases: Vec<Case>) -> ExitCode {
    let mut args = env::args().skip(1);
    if args.next().as_deref() == Some("--child") {
        let name = args.next().expect("--child is followed by a case's name");
        let case = cases.iter().find(|case| case.name == name).expect("a listed case");
        run_child(case);
    }
    panic::set_hook(Box::new(|info| LAST_PANIC.set(info.to_string())));
    let stage = Arc::new(RwLock::new(()));
    let trials = cases
        .into_iter()
        .map(|case| {
            let stage = Arc::clone(&stage);
            Trial::ignorable_test(case.name, move || case.run(&stage))
        })
        .collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn run_child(case: &Case) -> ! {
    let print = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        print(info);
        // Not `exit`: other threads still run, and one may hold what an exit handler wants.
        // SAFETY: _exit(2) ends the process and has no other precondition.
        unsafe { libc::_exit(101) }
    }));
    (case.body)(&Line::of_child());
    process::exit(0)
}
