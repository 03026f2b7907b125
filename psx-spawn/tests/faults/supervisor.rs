//! The other side of a case: starts its process, does what it asks for, and judges its answers.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Barrier};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use std::{env, fs, io, process};

use crate::case::{Case, Expected, Start};
use crate::identity::LAST_ID;
use crate::judge::{self, Mark, Outcome};
use crate::raw;
use crate::stage::{GLIBC, Subject};
use crate::support::{Ending, Supervised, child_command};

/// The plain user.
const PLAIN: u32 = 1000;

/// How far past its timeout a call may come back on a machine that is busy with other things.
const GRACE: Duration = Duration::from_secs(1);

/// What became of a case.
#[derive(Default)]
pub(crate) struct Verdict {
    pub(crate) outcomes: Vec<Outcome>,
    pub(crate) times: Vec<Duration>,
    pub(crate) notes: Vec<String>,
    /// Why it is not what the row wants.
    pub(crate) refusals: Vec<String>,
}

/// A directory for the files that some cases need; removed when dropped.
pub(crate) struct Workshop(PathBuf);

/// Where a case's process finds the [`Workshop`].
const WORKSHOP: &str = "PSX_FAULTS_DIR";

/// C libraries: one with threads of its own, one with a handler for signal 33.
const LIBRARIES: [(&str, &str); 2] =
    [("library", include_str!("library.c")), ("jump", include_str!("jump.c"))];

impl Workshop {
    pub(crate) fn open() -> io::Result<Self> {
        let shop = Self(env::temp_dir().join(format!("psx-faults-{}", process::id())));
        fs::create_dir(&shop.0)?;
        fs::create_dir(shop.0.join("empty"))?;
        fs::set_permissions(&shop.0, PermissionsExt::from_mode(0o777))?;
        for (name, text) in LIBRARIES {
            let source = shop.0.join(name).with_extension("c");
            fs::write(&source, text)?;
            // Where there is no compiler, the cases that need this say so.
            let mut compiler = Command::new("cc");
            compiler.args(["-shared", "-fPIC", "-pthread", "-o"]);
            let _ = compiler.args([&source.with_extension("so"), &source]).status();
        }
        let [_, effective, _] = raw::users();
        if effective == 0 {
            fs::copy("/proc/self/exe", shop.0.join("set-user-id"))?;
            fs::set_permissions(shop.0.join("set-user-id"), PermissionsExt::from_mode(0o4755))?;
        }
        Ok(shop)
    }

    fn start(&self, case: &Case, subject: Subject) -> Supervised {
        let mut command = child_command(case.name);
        if matches!(case.start, Start::SetUserId | Start::SetUserIdNoQueue) {
            command = Command::new(self.0.join("set-user-id"));
            command.args(["--child", case.name]);
        }
        let [_, effective, _] = raw::users();
        if effective == 0 && !matches!(case.start, Start::AsIs | Start::Root) {
            let glibc = subject == Subject::Glibc && case.start == Start::Plain;
            // Something for glibc to drop, since no_new_privs is not a call that it broadcasts.
            let effective = if glibc { PLAIN + 1 } else { PLAIN };
            let no_queue = case.start == Start::SetUserIdNoQueue;
            let become_plain = move || {
                if no_queue {
                    raw::set_limit(libc::RLIMIT_SIGPENDING, [0, 0]);
                }
                raw::become_user(PLAIN, effective);
                Ok(())
            };
            // SAFETY: system calls only.
            unsafe { command.pre_exec(become_plain) };
        }
        if subject == Subject::Glibc {
            command.env(GLIBC, "1");
        }
        command.env(WORKSHOP, &self.0);
        Supervised::start(command, case.limit)
    }
}

impl Drop for Workshop {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// For a case's process: the [`Workshop`]'s path, or that of something in it.
pub(crate) fn workshop(file: &str) -> PathBuf {
    PathBuf::from(env::var_os(WORKSHOP).expect("a process that the supervisor started")).join(file)
}

/// Runs `case` from start to end.
pub(crate) fn run(case: &Case, subject: Subject, shop: &Workshop) -> Verdict {
    let mut child = shop.start(case, subject);
    let mut watch =
        Watch { case, verdict: Verdict::default(), exempt: "", helper: None, replacement: None };
    let mut is_done = false;
    while let Ok(line) = child.read() {
        is_done = line == "done";
        if is_done {
            break;
        }
        watch.hear(&child, &line);
        if subject == Subject::Glibc && !watch.verdict.outcomes.is_empty() {
            return watch.verdict;
        }
        child.say("go");
    }
    if let Some(replacement) = watch.replacement.take() {
        drop(replacement.join());
    }
    if case.lacks_right() {
        watch.verdict.notes.push("OK where root has CAP_SYS_RESOURCE, as it has not here".into());
    }
    let wanted = case.expected().get(watch.verdict.outcomes.len());
    if let Some(wanted) = wanted {
        let ending = child.end();
        let outcome = match (ending, *wanted) {
            (Ending::Hung, _) => Outcome::Hang,
            (Ending::Exited(code), Expected::Exit(wanted)) if code == wanted => Outcome::Ended,
            (Ending::Killed(libc::SIGABRT), Expected::Abort(text))
                if child.output().contains(text) =>
            {
                Outcome::Ended
            }
            _ => Outcome::Killed,
        };
        watch.record(outcome, Duration::ZERO, &child.story());
    } else if !is_done {
        watch.verdict.refusals.push(format!("it ended after its last answer: {}", child.story()));
    }
    watch.verdict
}

struct Watch<'a> {
    case: &'a Case,
    verdict: Verdict,
    exempt: &'static str,
    /// The process that torments the case's own.
    helper: Option<Supervised>,
    /// The process that gets a dead thread's id.
    replacement: Option<JoinHandle<Replacement>>,
}

/// A process that does nothing; ended when dropped.
struct Replacement(libc::pid_t);

impl Drop for Replacement {
    fn drop(&mut self) {
        let pid = self.0 as usize;
        raw::must("kill", libc::SYS_kill, [pid, libc::SIGKILL as usize, 0, 0, 0, 0]);
        raw::must("wait4", libc::SYS_wait4, [pid, 0, 0, 0, 0, 0]);
    }
}

/// Keeps the thread `caller` of the process `pid` stopped until its thread `mortal` has died, and a
/// process has that one's id.
fn replace(pid: u32, mortal: u32, caller: u32, stopped: &Barrier) -> Replacement {
    raw::trace(caller as i32);
    stopped.wait();
    while Path::new(&format!("/proc/{pid}/task/{mortal}")).exists() {
        thread::yield_now();
    }
    let replacement = loop {
        fs::write(LAST_ID, (mortal - 1).to_string()).expect("root says which id comes next");
        match raw::fork() {
            0 => loop {
                // SAFETY: ppoll of nothing for ever.
                let _ = unsafe { raw::call(libc::SYS_ppoll, [0; 6]) };
            },
            pid => {
                let process = Replacement(pid);
                if pid as u32 == mortal {
                    break process;
                }
            }
        }
    };
    raw::untrace(caller as i32);
    replacement
}

impl Watch<'_> {
    fn hear(&mut self, child: &Supervised, line: &str) {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "answer" => self.hear_answer(child.pid(), rest),
            "note" => self.verdict.notes.push(rest.to_owned()),
            "trace" => raw::trace(rest.parse().expect("a thread id")),
            "untrace" => raw::untrace(rest.parse().expect("a thread id")),
            "replace" => {
                let (mortal, caller) = rest.split_once(' ').expect("two thread ids");
                let [mortal, caller] = [mortal, caller].map(|id| id.parse().expect("a thread id"));
                let (pid, stopped) = (child.pid(), Arc::new(Barrier::new(2)));
                let stop = Arc::clone(&stopped);
                let replace = move || replace(pid, mortal, caller, &stop);
                self.replacement = Some(thread::spawn(replace));
                stopped.wait();
            }
            "exempt-poller" => self.exempt = "iou-sqp-",
            "help" => {
                let (kind, pid) = rest.split_once(' ').unwrap_or((rest, ""));
                let pid = pid.parse().unwrap_or(child.pid());
                self.helper = Some(start_helper(self.case, kind, pid));
            }
            "await-main's-end" => await_zombie(child),
            "dismiss" => self.helper = None,
            _ => panic!("{}: {line:?} means nothing", self.case.name),
        }
    }

    fn hear_answer(&mut self, pid: u32, rest: &str) {
        let mut words = rest.splitn(5, ' ');
        let mut word = || words.next().expect("an answer has five parts");
        let mark = Mark::parse(word());
        let took = Duration::from_micros(word().parse().expect("microseconds"));
        let timeout = Duration::from_micros(word().parse().expect("microseconds"));
        let strays: usize = word().parse().expect("a number of threads");
        let said = word();
        let (mut outcome, mut text) = judge::judge(pid, mark, said == "ok", self.exempt);
        if strays > 0 {
            (outcome, text) = (Outcome::Partial, format!("{strays} threads say so themselves"));
        }
        if said != "ok" && took > timeout + GRACE {
            self.verdict.refusals.push(format!("gave up after {took:?}, not after {timeout:?}"));
        }
        let said = if text.is_empty() { said.to_owned() } else { format!("{said}; but {text}") };
        self.record(outcome, took, &said);
    }

    fn record(&mut self, outcome: Outcome, took: Duration, text: &str) {
        let refusal = match self.case.expected().get(self.verdict.outcomes.len()) {
            Some(wanted) => wanted.refusal(outcome, text),
            None => Some(format!("one answer too many: {text}")),
        };
        self.verdict.refusals.extend(refusal);
        self.verdict.outcomes.push(outcome);
        self.verdict.times.push(took);
    }
}

/// Waits until the main thread of the case's process has ended and its other threads go on.
fn await_zombie(child: &Supervised) {
    child.await_that(|child| {
        let stat = fs::read_to_string(format!("/proc/{}/stat", child.pid())).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, state)| state.starts_with('Z'))
    });
}

/// Another process of the case's user, which goes for `pid`; back once it is at it.
fn start_helper(case: &Case, kind: &str, pid: u32) -> Supervised {
    let mut command = Command::new("/proc/self/exe");
    command.args(["--helper", kind, &pid.to_string()]);
    let [_, effective, _] = raw::users();
    if effective == 0 && !matches!(case.start, Start::AsIs | Start::Root) {
        command.uid(PLAIN).gid(PLAIN);
    }
    let helper = Supervised::start(command, case.limit);
    helper.hear("ready");
    helper
}
