//! The peers as processes: which of them this machine can build, and their protocol.
//!
//! Each program parks as many threads as its first argument says, prints `ready`, and then answers each line
//! `OP ROUNDS` with one line of that many numbers, in nanoseconds.

use std::env;
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use crate::PSX_CHILD;

/// A peer that does not answer within this time hangs.
const TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Floor,
    Glibc,
    Go,
    Libpsx,
    Musl,
    Psx,
}

pub(crate) struct Program {
    pub(crate) kind: Kind,
    pub(crate) name: String,
    pub(crate) ops: &'static [&'static str],
    command: PathBuf,
}

/// The programs that could be built, psx last, and why each of the others could not.
pub(crate) fn find() -> (Vec<Program>, Vec<String>) {
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("peers");
    fs::create_dir_all(&out).expect("the target directory takes a new folder");
    let mut found = Vec::new();
    let mut missing = Vec::new();
    for kind in [Kind::Floor, Kind::Glibc, Kind::Go, Kind::Libpsx, Kind::Musl] {
        match build(kind, &out) {
            Ok(program) => found.push(program),
            Err(reason) => missing.push(reason),
        }
    }
    found.push(Program {
        kind: Kind::Psx,
        name: "psx".into(),
        ops: &["one", "ids", "six"],
        command: env::current_exe().expect("a running program has a path"),
    });
    (found, missing)
}

fn build(kind: Kind, out: &Path) -> Result<Program, String> {
    let (name, source, ops): (_, _, &[_]) = match kind {
        Kind::Floor => ("signal floor".into(), "floor.c", &["one"]),
        Kind::Glibc => (glibc_name(), "setxid.c", &["one", "ids"]),
        Kind::Musl => (musl_name(), "setxid.c", &["one", "ids"]),
        Kind::Libpsx => (libpsx_name(), "libpsx.c", &["one", "ids", "six"]),
        Kind::Go => (go_name(), "allthreads.go", &["one", "ids", "six"]),
        Kind::Psx => unreachable!("psx is this program"),
    };
    let mut words = name.split_whitespace();
    let command = out.join(words.next().unwrap_or("peer"));
    let mut compiler = match kind {
        Kind::Musl => compiler("musl-gcc", &["-O2", "-static"]),
        Kind::Go => compiler("go", &["build"]),
        _ => compiler("cc", &["-O2"]),
    };
    compiler.arg("-o").arg(&command).arg(source);
    match kind {
        Kind::Go => {
            compiler.env("CGO_ENABLED", "0").env("GOCACHE", out.join("go-cache"));
        }
        Kind::Libpsx => {
            compiler.args(libpsx_flags());
        }
        _ => {
            compiler.arg("-pthread");
        }
    }
    let output = compiler.output().map_err(|error| {
        format!("{name}: {} does not start: {error}", compiler.get_program().to_string_lossy())
    })?;
    if output.status.success() {
        Ok(Program { kind, name, ops, command })
    } else {
        let errors = String::from_utf8_lossy(&output.stderr);
        let first = errors.lines().find(|line| line.contains("error")).unwrap_or(&errors);
        Err(format!("{name}: does not build here: {}", first.trim()))
    }
}

fn compiler(program: &str, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(args);
    command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers/programs"));
    command
}

fn glibc_name() -> String {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: returns a string that is part of the library.
        let version = unsafe { std::ffi::CStr::from_ptr(libc::gnu_get_libc_version()) };
        format!("glibc {}", version.to_string_lossy())
    }
    #[cfg(not(target_env = "gnu"))]
    "glibc".into()
}

fn musl_name() -> String {
    let loader = format!("/lib/ld-musl-{}.so.1", env::consts::ARCH);
    let about = Command::new(loader).output().map(|output| output.stderr).unwrap_or_default();
    let about = String::from_utf8_lossy(&about);
    named("musl", about.lines().find_map(|line| line.strip_prefix("Version ")))
}

fn go_name() -> String {
    let version = output_of(Command::new("go").arg("version"));
    named("Go", version.split_whitespace().find_map(|word| word.strip_prefix("go1.")))
        .replace("Go ", "Go 1.")
}

fn libpsx_name() -> String {
    named("libpsx", Some(output_of(pkg_config().arg("--modversion")).trim()))
}

/// Debian's libpsx up to 2.71 wraps every `pthread_create` by flags that pkg-config lists.
fn libpsx_flags() -> Vec<String> {
    let flags = output_of(pkg_config().args(["--cflags", "--libs"]));
    let flags = if flags.trim().is_empty() { "-lpsx" } else { &flags };
    flags.split_whitespace().chain(["-pthread"]).map(String::from).collect()
}

/// Looks for libpsx in `PSX_LIBPSX_PREFIX` first, so that another version than the
/// distribution's can be measured.
fn pkg_config() -> Command {
    let mut command = Command::new("pkg-config");
    if let Some(prefix) = env::var_os("PSX_LIBPSX_PREFIX") {
        command.env("PKG_CONFIG_PATH", Path::new(&prefix).join("lib/pkgconfig"));
    }
    command.arg("libpsx");
    command
}

fn output_of(command: &mut Command) -> String {
    let output = command.output().map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&output).into_owned()
}

fn named(name: &str, version: Option<&str>) -> String {
    format!("{name} {}", version.unwrap_or_default()).trim_end().to_owned()
}

/// A program with its threads parked.
pub(crate) struct Running {
    child: Child,
    requests: ChildStdin,
    answers: Receiver<String>,
}

impl Running {
    pub(crate) fn start(program: &Program, threads: usize) -> io::Result<Self> {
        let mut command = Command::new(&program.command);
        if program.kind == Kind::Psx {
            command.arg(PSX_CHILD);
        }
        let mut child = command
            .arg(threads.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let requests = child.stdin.take().expect("stdin is a pipe");
        let output = BufReader::new(child.stdout.take().expect("stdout is a pipe"));
        let (sender, answers) = mpsc::channel();
        // On another thread, because a read from a pipe has no timeout.
        thread::spawn(move || {
            output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        let running = Self { child, requests, answers };
        running.answer()?;
        Ok(running)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn rounds(&mut self, op: &str, rounds: usize) -> io::Result<Vec<u64>> {
        writeln!(self.requests, "{op} {rounds}")?;
        let answer = self.answer()?;
        let times: Result<Vec<_>, _> = answer.split_whitespace().map(str::parse).collect();
        times.map_err(|_| io::Error::other(format!("answered {answer:?}")))
    }

    fn answer(&self) -> io::Result<String> {
        self.answers.recv_timeout(TIMEOUT).map_err(|error| match error {
            mpsc::RecvTimeoutError::Timeout => {
                io::Error::other(format!("has not answered for {TIMEOUT:?}"))
            }
            mpsc::RecvTimeoutError::Disconnected => io::Error::other("ended"),
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
