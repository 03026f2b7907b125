//! Tests that change the process they run in, each in a child process.
//!
//! A [`Case`] has two sides: a *body*, which runs in a child process (the test binary again, as
//! `--child NAME`), and a *check*, which runs in the test runner and looks at that child from outside.
//!
//! ```ignore
//! fn main() -> ExitCode {
//!     psx_test_support::main(vec![
//!         // Passes if the body returns within the limit. A panic on any of its threads fails it.
//!         Case::new("calls::pid", |_| assert_eq!(...)),
//!         // The check decides: it exchanges lines with the body, reads /proc, and waits for the end.
//!         Case::new("faults::drop", |line| { line.pause("before"); ...; line.send("result 3") })
//!             .check(|child| {
//!                 child.inspect("before", |child| child.assert_all("NoNewPrivs", "0"));
//!                 assert_eq!(child.expect("result"), "3");
//!                 assert_eq!(child.end(), Ending::Exited(0));
//!             })
//!             .limit(Duration::from_secs(10))
//!             .prepare(|command| { command.env("KEY", "value").uid(1000).gid(1000); })
//!             .needs(root),
//!     ])
//! }
//! ```
//!
//! For every case:
//! - The child's standard input is its end of the [`Line`]; its output is kept, and printed when
//!   the case fails.
//! - Past the limit the child's process group is killed, [`Line::expect`] panics and [`Child::end`]
//!   returns [`Ending::Hung`]; the state of each of its threads is printed if the case fails.
//! - Cases run in parallel, except those marked [`alone`](Case::alone), which measure time.
//! - A case whose [`needs`](Case::needs) are not met is reported as ignored, with the reason.
//! - The options of Rust's own harness work: a filter, `--exact`, `--list`.

use std::cell::RefCell;
use std::env;
use std::panic::{self, AssertUnwindSafe};
use std::process::{Command, ExitCode};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use libtest_mimic::{Arguments, Completion, Conclusion, Failed, Trial};

use crate::process::exit_now;
use crate::{Child, Ending, Line};

/// One test: what its child does, and how that is checked.
pub struct Case {
    name: &'static str,
    kind: &'static str,
    body: Box<dyn Fn(&Line) + Send>,
    check: Box<dyn Fn(&mut Child) + Send>,
    prepare: Box<dyn Fn(&mut Command) + Send>,
    needs: Box<dyn Fn() -> Result<(), String> + Send>,
    limit: Duration,
    alone: bool,
}

impl Case {
    /// A case that passes if `body` returns, in a child process, within twenty seconds.
    pub fn new(name: &'static str, body: impl Fn(&Line) + Send + 'static) -> Self {
        Self {
            name,
            kind: "",
            body: Box::new(body),
            check: Box::new(|child| assert_eq!(child.end(), Ending::Exited(0))),
            prepare: Box::new(|_| ()),
            needs: Box::new(|| Ok(())),
            limit: Duration::from_secs(20),
            alone: false,
        }
    }

    /// Replaces the default check, which wants exit status 0. The child is killed when it returns.
    pub fn check(self, check: impl Fn(&mut Child) + Send + 'static) -> Self {
        Self { check: Box::new(check), ..self }
    }

    /// How long the child may run.
    pub fn limit(self, limit: Duration) -> Self {
        Self { limit, ..self }
    }

    /// Changes how the child is started: its environment, its user (`CommandExt::uid`), the program.
    pub fn prepare(self, prepare: impl Fn(&mut Command) + Send + 'static) -> Self {
        Self { prepare: Box::new(prepare), ..self }
    }

    /// What the machine must have, or else why the case cannot run on it.
    pub fn needs(self, needs: impl Fn() -> Result<(), String> + Send + 'static) -> Self {
        Self { needs: Box::new(needs), ..self }
    }

    /// No other case of this binary runs at the same time.
    pub fn alone(self) -> Self {
        Self { alone: true, ..self }
    }

    /// Printed in brackets before the name, for cases that share one.
    pub fn kind(self, kind: &'static str) -> Self {
        Self { kind, ..self }
    }

    fn run(&self, running: &RwLock<()>) -> Result<Completion, Failed> {
        if let Err(reason) = (self.needs)() {
            return Ok(Completion::ignored_with(reason));
        }
        // No thread panics while it holds a guard, so the lock is never poisoned.
        let _alone = self.alone.then(|| running.write().unwrap());
        let _beside = (!self.alone).then(|| running.read().unwrap());

        let mut command = child_command(self.name);
        (self.prepare)(&mut command);
        let mut child = Child::start(command, self.limit);
        match panic::catch_unwind(AssertUnwindSafe(|| (self.check)(&mut child))) {
            Ok(()) => Ok(Completion::Completed),
            Err(_) => Err(format!("{}\n{}", LAST_PANIC.take(), child.report()).into()),
        }
    }
}

/// The command that runs this binary again, as the child of the case `name`.
pub fn child_command(name: &str) -> Command {
    // Not the path: a user without rights on the build folder can run this too.
    let mut command = Command::new("/proc/self/exe");
    command.args(["--child", name]);
    command
}

thread_local! {
    /// The message and place of this thread's last panic, for [`Case::run`].
    static LAST_PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// A test binary's `main`: runs `cases` as the command line says, or one body as the child.
pub fn main(cases: Vec<Case>) -> ExitCode {
    if run_child(&cases) {
        return ExitCode::SUCCESS;
    }
    run(&Arguments::from_args(), cases).exit_code()
}

/// Runs a body, if this process is a case's child. A panic on any thread ends the process.
pub fn run_child(cases: &[Case]) -> bool {
    let mut args = env::args().skip(1);
    if args.next().as_deref() != Some("--child") {
        return false;
    }
    let name = args.next().expect("--child is followed by a case's name");
    let case = cases.iter().find(|case| case.name == name).expect("a listed case");
    let print = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        print(info);
        // Not `exit`: another thread may hold a lock that an exit handler takes.
        exit_now(101)
    }));
    (case.body)(&Line::of_child());
    true
}

/// Runs the cases that `arguments` select: the `alone` ones last.
pub fn run(arguments: &Arguments, mut cases: Vec<Case>) -> Conclusion {
    panic::set_hook(Box::new(|info| LAST_PANIC.set(info.to_string())));
    let running = Arc::new(RwLock::new(()));
    cases.sort_by_key(|case| case.alone);
    let trial = |case: Case| {
        let running = Arc::clone(&running);
        let kind = case.kind;
        Trial::ignorable_test(case.name, move || case.run(&running)).with_kind(kind)
    };
    libtest_mimic::run(arguments, cases.into_iter().map(trial).collect())
}
