//! Starts the process that is soaked, reads each of its threads' numbers from outside, disturbs it
//! with signals, and tells what came out.

use std::io::{self, IsTerminal, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use std::{fs, thread};

use psx_examples::status::tids;
use psx_examples::table::{Table, counted};

use crate::line::Line;
use crate::signals;
use crate::tally::{Event, Tally};

/// The longest that the subject may be silent: it speaks each second.
const SILENCE: Duration = Duration::from_secs(120);

struct Judge {
    subject: Child,
    line: Line,
    start: Instant,
    tally: Tally,
    checkpoints: u64,
    looks: u64,
    /// Whether this process may read another's timer slack.
    sees: bool,
    signals: Arc<AtomicU64>,
    on_terminal: bool,
}

/// Runs the soak. An error is what went wrong, in words.
pub(crate) fn run(seed: u64, time: Duration) -> Result<(), String> {
    println!("seed {seed}, {} s", time.as_secs());
    let mut judge = Judge::start(seed, time).map_err(|e| format!("cannot start: {e}"))?;
    let verdict = judge.listen();
    if judge.on_terminal {
        print!("\r\x1b[K");
    }
    if verdict.is_err() {
        // Gone already, more often than not.
        let _ = judge.subject.kill();
    }
    let end = judge.subject.wait().map_err(|e| format!("cannot wait: {e}"))?;
    verdict?;
    if !end.success() {
        return Err(format!("the process ended with {end}"));
    }
    judge.sum_up();
    Ok(())
}

impl Judge {
    fn start(seed: u64, time: Duration) -> io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_read_timeout(Some(SILENCE))?;
        let subject = Command::new("/proc/self/exe")
            .args(["--subject".into(), seed.to_string(), time.as_secs().to_string()])
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .spawn()?;
        Ok(Self {
            subject,
            line: Line(ours),
            start: Instant::now(),
            tally: Tally::default(),
            checkpoints: 0,
            looks: 0,
            sees: true,
            signals: Arc::default(),
            on_terminal: io::stdout().is_terminal(),
        })
    }

    /// Does what the subject asks for, until it says that it is done.
    fn listen(&mut self) -> Result<(), String> {
        let is_over = Arc::new(AtomicBool::new(false));
        let mut disturber = None;
        let verdict = loop {
            let words = match self.line.hear() {
                Ok(words) => words,
                Err(error) => break Err(self.silence(&error)),
            };
            match words.split_once(' ').unwrap_or((&words, "")) {
                ("ready", _) => {
                    let (pid, count, over) =
                        (self.subject.id(), self.signals.clone(), is_over.clone());
                    disturber = Some(thread::spawn(move || signals::disturb(pid, &count, &over)));
                }
                ("checkpoint", rest) => {
                    if let Err(what) = self.look(rest) {
                        break Err(what);
                    }
                    if let Err(error) = self.line.say("go") {
                        break Err(self.silence(&error));
                    }
                    self.show();
                }
                ("done", _) => break Ok(()),
                ("fail", what) => break Err(what.to_owned()),
                _ => break Err(format!("the process said {words:?}")),
            }
        };
        is_over.store(true, Ordering::Relaxed);
        if disturber.is_some_and(|disturber| disturber.join().is_err()) {
            return Err("the sender of signals panicked".to_owned());
        }
        verdict
    }

    /// Why nothing more is to be heard from the subject.
    fn silence(&mut self, error: &io::Error) -> String {
        match self.subject.try_wait() {
            Ok(Some(status)) => match status.signal() {
                Some(signal) => format!("the process was killed by signal {signal}"),
                None => format!("the process ended with {status}"),
            },
            _ if error.kind() == io::ErrorKind::UnexpectedEof => {
                "the process hung up in the middle".to_owned()
            }
            _ => format!(
                "the process has been silent for {} s, with these threads:\n{}",
                SILENCE.as_secs(),
                whereabouts(self.subject.id())
            ),
        }
    }

    /// Reads every thread's number while rounds pause: all must have the one that they should.
    fn look(&mut self, rest: &str) -> Result<(), String> {
        let (expected, tally) = rest.split_once(' ').ok_or("a checkpoint without a number")?;
        self.tally = tally.parse()?;
        self.checkpoints += 1;
        for tid in tids(self.subject.id()).unwrap_or_default() {
            let path = format!("/proc/{}/task/{tid}", self.subject.id());
            let Some((name, state)) = name_and_state(&path) else { continue };
            // What runs no code of the program's: the dead, and the kernel's own.
            if matches!(state, 'Z' | 'X') || name.starts_with("iou-wrk-") {
                continue;
            }
            match fs::read_to_string(format!("/proc/{tid}/timerslack_ns")) {
                Ok(number) if number.trim() == expected => self.looks += 1,
                Ok(number) => {
                    let number = number.trim();
                    return Err(format!(
                        "thread {tid} ({name}) has counted {number} rounds, not {expected}"
                    ));
                }
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => self.sees = false,
                // Gone in between.
                Err(_) => {}
            }
        }
        Ok(())
    }

    fn show(&self) {
        let now = self.start.elapsed().as_secs();
        let tally = &self.tally;
        let (born, faults) = (tally.sum(&Event::BIRTHS), tally.sum(&Event::FAULTS));
        let line = format!(
            "{now:>5} s  {} rounds  {born} threads born, {} died  {faults} faults  {} signals  \
             slowest stop {:.1?}",
            tally.of(Event::Round),
            tally.of(Event::Died),
            self.signals.load(Ordering::Relaxed),
            tally.slowest_stop(),
        );
        if self.on_terminal {
            print!("\r{line}\x1b[K");
        } else {
            println!("{line}");
        }
        // Whoever has closed our output does not want to know.
        let _ = io::stdout().flush();
    }

    fn sum_up(&self) {
        let mut table = Table::new(["happened", "times"]);
        for event in Event::ALL {
            table.push([event.what().to_owned(), self.tally.of(event).to_string()]);
        }
        let signals = self.signals.load(Ordering::Relaxed);
        table.push(["stray and forged signals 33 sent".to_owned(), signals.to_string()]);
        print!("{table}");
        let checkpoints = counted(self.checkpoints as usize, "checkpoint");
        match self.sees {
            true => println!(
                "No thread was in the wrong state: {checkpoints}, {} looks at threads from \
                 outside. Slowest stop {:.1?}.",
                self.looks,
                self.tally.slowest_stop()
            ),
            false => println!(
                "No thread was in the wrong state by its own account: {checkpoints}. To look at \
                 them from outside takes root (CAP_SYS_NICE). Slowest stop {:.1?}.",
                self.tally.slowest_stop()
            ),
        }
    }
}

/// From a thread's `stat`; none if it is gone.
fn name_and_state(task: &str) -> Option<(String, char)> {
    let stat = fs::read_to_string(format!("{task}/stat")).ok()?;
    let (name, rest) = stat.split_once('(')?.1.rsplit_once(") ")?;
    Some((name.to_owned(), rest.chars().next()?))
}

/// A line for each thread: what it is called, and where in the kernel it waits.
fn whereabouts(pid: u32) -> String {
    let line = |tid| {
        let path = format!("/proc/{pid}/task/{tid}");
        let (name, state) = name_and_state(&path)?;
        let read = |file| fs::read_to_string(format!("{path}/{file}")).unwrap_or_default();
        let [syscall, channel] = ["syscall", "wchan"].map(read);
        Some(format!("  {tid} ({name}) {state} {} {}", syscall.trim(), channel.trim()))
    };
    tids(pid).into_iter().flatten().filter_map(line).collect::<Vec<_>>().join("\n")
}
