//! The other side of a row: starts its process, does what it asks for, and checks what it reports.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Barrier};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use std::{env, fs};

use psx_test_support::process::{users, wait};
use psx_test_support::{Child, Ending, TempDir, procfs, raw as test_raw, signal};

use crate::cgroup::CpuLimit;
use crate::context::{GLIBC, Subject};
use crate::identity::LAST_ID;
use crate::oracle::{self, Mark, Outcome};
use crate::raw;
use crate::row::{Expected, Row, Start};

/// The plain user.
const PLAIN: u32 = 1000;

/// How long after its timeout a call may return on a busy machine.
const GRACE: Duration = Duration::from_secs(1);

/// What a row returned.
#[derive(Default)]
pub(crate) struct Results {
    pub(crate) outcomes: Vec<Outcome>,
    pub(crate) times: Vec<Duration>,
    pub(crate) notes: Vec<String>,
    /// Why it is not what the row expects.
    pub(crate) mismatches: Vec<String>,
}

/// Where a row's process finds the directory of [`make_directory`].
const DIRECTORY: &str = "PSX_FAULTS_DIR";

/// C libraries: one with threads, one with a handler for signal 33.
const LIBRARIES: [(&str, &str); 2] =
    [("library", include_str!("library.c")), ("jump", include_str!("jump.c"))];

/// Makes the files that some rows need.
pub(crate) fn make_directory() -> TempDir {
    let directory = TempDir::new("psx-faults");
    let mode = |path: &Path, mode| {
        fs::set_permissions(path, PermissionsExt::from_mode(mode)).expect("a file of this process");
    };
    mode(directory.path(), 0o777);
    fs::create_dir(directory.path().join("empty")).expect("a folder");
    for (name, text) in LIBRARIES {
        let source = directory.path().join(name).with_extension("c");
        fs::write(&source, text).expect("a file");
        // Without a compiler, the rows that need the library fail with that message.
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-pthread", "-o"]);
        let _ = compiler.args([&source.with_extension("so"), &source]).status();
    }
    if users()[1] == 0 {
        let program = directory.path().join("set-user-id");
        fs::copy("/proc/self/exe", &program).expect("a copy of this program");
        mode(&program, 0o4755);
    }
    directory
}

/// In a row's process: the path of a file in the directory.
pub(crate) fn path(file: &str) -> PathBuf {
    let directory = env::var_os(DIRECTORY).expect("a process that the supervisor started");
    PathBuf::from(directory).join(file)
}

/// Changes how the row's process is started, as the row asks for.
pub(crate) fn prepare(command: &mut Command, row: &Row, subject: Subject, directory: &Path) {
    if matches!(row.start, Start::SetUserId | Start::SetUserIdNoQueue) {
        *command = Command::new(directory.join("set-user-id"));
        command.args(["--child", row.name]);
    }
    if users()[1] == 0 && !matches!(row.start, Start::AsIs | Start::Root) {
        let glibc = subject == Subject::Glibc && row.start == Start::Plain;
        // Something for glibc to drop, since it does not broadcast no_new_privs.
        let effective = if glibc { PLAIN + 1 } else { PLAIN };
        let no_queue = row.start == Start::SetUserIdNoQueue;
        let become_plain = move || {
            if no_queue {
                test_raw::set_limit(libc::RLIMIT_SIGPENDING, [0, 0]);
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
    command.env(DIRECTORY, directory);
}

/// Watches a row's process from start to end.
pub(crate) fn watch(child: &mut Child, row: &Row, subject: Subject) -> Results {
    let mut watch = Watch {
        row,
        results: Results::default(),
        exempt: "",
        helper: None,
        cpu_limit: None,
        replacement: None,
    };
    let mut is_done = false;
    while let Ok(line) = child.read() {
        is_done = line == "done";
        if is_done {
            break;
        }
        watch.obey(child, &line);
        if subject == Subject::Glibc && !watch.results.outcomes.is_empty() {
            break;
        }
        child.send("go");
    }
    if let Some(replacement) = watch.replacement.take() {
        drop(replacement.join());
    }
    if subject == Subject::Glibc && !watch.results.outcomes.is_empty() {
        return watch.results_on_glibc();
    }
    if row.lacks_right() {
        watch.results.notes.push("OK where root has CAP_SYS_RESOURCE, which it lacks here".into());
    }
    if let Some(expected) = row.expected().get(watch.results.outcomes.len()) {
        let ending = child.end();
        let outcome = match (ending, *expected) {
            (Ending::Hung, _) => Outcome::Hang,
            (Ending::Exited(code), Expected::Exit(expected)) if code == expected => Outcome::Ended,
            (Ending::Killed(libc::SIGABRT), Expected::Abort(text))
                if child.output().contains(text) =>
            {
                Outcome::Ended
            }
            _ => Outcome::Killed,
        };
        watch.record(outcome, Duration::ZERO, &format!("the process ended: {ending:?}"));
    } else if !is_done {
        watch.results.mismatches.push("the process ended after its last call".into());
    }
    if subject == Subject::Glibc { watch.results_on_glibc() } else { watch.results }
}

struct Watch<'a> {
    row: &'a Row,
    results: Results,
    exempt: &'static str,
    /// The process that attacks the row's process.
    helper: Option<Child>,
    cpu_limit: Option<CpuLimit>,
    /// The process that gets a dead thread's id.
    replacement: Option<JoinHandle<Replacement>>,
}

/// A process that does nothing; ended when dropped.
struct Replacement(libc::pid_t);

impl Drop for Replacement {
    fn drop(&mut self) {
        signal::send(self.0 as u32, None, libc::SIGKILL).expect("a child");
        wait(self.0);
    }
}

/// Keeps the thread `caller` of the process `pid` stopped until its thread `dying` has died, and a process
/// has that one's id.
fn replace(pid: u32, dying: u32, caller: u32, stopped: &Barrier) -> Replacement {
    raw::trace(caller as i32);
    stopped.wait();
    while Path::new(&format!("/proc/{pid}/task/{dying}")).exists() {
        thread::yield_now();
    }
    let replacement = loop {
        fs::write(LAST_ID, (dying - 1).to_string()).expect("root sets the next id");
        match raw::fork() {
            0 => raw::wait_forever(),
            pid => {
                let process = Replacement(pid);
                if pid as u32 == dying {
                    break process;
                }
            }
        }
    };
    raw::untrace(caller as i32);
    replacement
}

impl Watch<'_> {
    /// Does what a line of the row's process asks for.
    fn obey(&mut self, child: &Child, line: &str) {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "result" => self.check(child.pid(), rest),
            "note" => self.results.notes.push(rest.to_owned()),
            "trace" => raw::trace(rest.parse().expect("a thread id")),
            "untrace" => raw::untrace(rest.parse().expect("a thread id")),
            "replace" => {
                let (dying, caller) = rest.split_once(' ').expect("two thread ids");
                let [dying, caller] = [dying, caller].map(|id| id.parse().expect("a thread id"));
                let (pid, stopped) = (child.pid(), Arc::new(Barrier::new(2)));
                let stop = Arc::clone(&stopped);
                let replace = move || replace(pid, dying, caller, &stop);
                self.replacement = Some(thread::spawn(replace));
                stopped.wait();
            }
            "exempt-poller" => self.exempt = "iou-sqp-",
            "start-helper" => {
                let (kind, pid) = rest.split_once(' ').unwrap_or((rest, ""));
                let pid = pid.parse().unwrap_or(child.pid());
                self.helper = Some(start_helper(self.row, kind, pid));
            }
            "stop-helper" => self.helper = None,
            "limit-cpu" => {
                let tid = rest.parse().expect("a thread id");
                self.cpu_limit = Some(CpuLimit::of(tid).expect("a cgroup with a CPU limit"));
            }
            "await-main's-end" => child.wait_until(|child| procfs::is_main_ended(child.pid())),
            _ => panic!("{}: {line:?} is unknown", self.row.name),
        }
    }

    /// Checks the result of a call.
    fn check(&mut self, pid: u32, rest: &str) {
        let mut words = rest.splitn(5, ' ');
        let mut word = || words.next().expect("a result has five parts");
        let mark = Mark::parse(word());
        let took = Duration::from_micros(word().parse().expect("microseconds"));
        let timeout = Duration::from_micros(word().parse().expect("microseconds"));
        let in_old_state: usize = word().parse().expect("a number of threads");
        let result = word();
        let (mut outcome, mut text) = oracle::compare(pid, mark, result == "ok", self.exempt);
        if in_old_state > 0 {
            outcome = Outcome::Partial;
            text = format!("{in_old_state} threads find themselves in the old state");
        }
        if result != "ok" && took > timeout + GRACE {
            self.results.mismatches.push(format!("failed after {took:?}, not after {timeout:?}"));
        }
        let text =
            if text.is_empty() { result.to_owned() } else { format!("{result}; but {text}") };
        self.record(outcome, took, &text);
    }

    fn record(&mut self, outcome: Outcome, took: Duration, text: &str) {
        let mismatch = match self.row.expected().get(self.results.outcomes.len()) {
            Some(expected) => expected.mismatch(outcome, text),
            None => Some(format!("one result too many: {text}")),
        };
        self.results.mismatches.extend(mismatch);
        self.results.outcomes.push(outcome);
        self.results.times.push(took);
    }

    /// Under an effective fault, glibc's call is neither OK nor CLEAN.
    fn results_on_glibc(mut self) -> Results {
        let succeeds = |outcome: &Outcome| matches!(outcome, Outcome::Ok | Outcome::Clean);
        let is_effective = self.results.outcomes.iter().any(|outcome| !succeeds(outcome));
        self.results.mismatches.clear();
        if !is_effective {
            self.results.mismatches.push("the fault has no effect on glibc".into());
        }
        self.results
    }
}

/// Starts another process of the row's user, which attacks `pid`; returns once it has begun.
fn start_helper(row: &Row, kind: &str, pid: u32) -> Child {
    let mut command = Command::new("/proc/self/exe");
    command.args(["--helper", kind, &pid.to_string()]);
    if users()[1] == 0 && !matches!(row.start, Start::AsIs | Start::Root) {
        command.uid(PLAIN).gid(PLAIN);
    }
    let helper = Child::start(command, row.limit);
    helper.expect("ready");
    helper
}
