//! Starts the process under test, reads each of its threads' numbers from outside, disturbs it with signals,
//! and prints the result.

use std::io::{self, IsTerminal, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use std::{fs, thread};

use psx_examples::table::{Table, counted};
use psx_test_support::Line;
use psx_test_support::procfs::{name_and_state, thread_states, tids};

use crate::signals;
use crate::tally::{Event, Tally};

/// The subject sends a line each second; after this time without one it hangs.
const SILENCE: Duration = Duration::from_secs(120);

struct Oracle {
    subject: Child,
    line: Line,
    start: Instant,
    tally: Tally,
    checkpoints: u64,
    inspected: u64,
    /// Whether this process may read another's timer slack.
    sees: bool,
    signals: Arc<AtomicU64>,
    on_terminal: bool,
}

/// Runs the soak. An error is a description of what went wrong.
pub(crate) fn run(seed: u64, time: Duration) -> Result<(), String> {
    println!("seed {seed}, {} s", time.as_secs());
    let mut oracle = Oracle::start(seed, time).map_err(|e| format!("cannot start: {e}"))?;
    let result = oracle.listen();
    if oracle.on_terminal {
        print!("\r\x1b[K");
    }
    if result.is_err() {
        // It has usually ended already.
        let _ = oracle.subject.kill();
    }
    let end = oracle.subject.wait().map_err(|e| format!("cannot wait: {e}"))?;
    result?;
    if !end.success() {
        return Err(format!("the process ended with {end}"));
    }
    oracle.sum_up();
    Ok(())
}

impl Oracle {
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
            line: Line::new(ours, None),
            start: Instant::now(),
            tally: Tally::default(),
            checkpoints: 0,
            inspected: 0,
            sees: true,
            signals: Arc::default(),
            on_terminal: io::stdout().is_terminal(),
        })
    }

    /// Handles the subject's lines, until it is done.
    fn listen(&mut self) -> Result<(), String> {
        let is_over = Arc::new(AtomicBool::new(false));
        let mut disturber = None;
        let result = loop {
            let words = match self.line.read() {
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
                    if let Err(what) = self.inspect(rest) {
                        break Err(what);
                    }
                    if let Err(error) = self.line.try_send("go") {
                        break Err(self.silence(&error));
                    }
                    self.show();
                }
                ("done", _) => break Ok(()),
                ("fail", what) => break Err(what.to_owned()),
                _ => break Err(format!("the process sent {words:?}")),
            }
        };
        is_over.store(true, Ordering::Relaxed);
        if disturber.is_some_and(|disturber| disturber.join().is_err()) {
            return Err("the sender of signals panicked".to_owned());
        }
        result
    }

    /// Why the subject sends nothing more.
    fn silence(&mut self, error: &io::Error) -> String {
        match self.subject.try_wait() {
            Ok(Some(status)) => match status.signal() {
                Some(signal) => format!("the process was killed by signal {signal}"),
                None => format!("the process ended with {status}"),
            },
            _ if error.kind() == io::ErrorKind::UnexpectedEof => {
                "the process closed its line".to_owned()
            }
            _ => format!(
                "the process has been silent for {} s, with these threads:\n{}",
                SILENCE.as_secs(),
                thread_states(self.subject.id())
            ),
        }
    }

    /// Reads every thread's number while rounds pause: all must be the expected one.
    fn inspect(&mut self, rest: &str) -> Result<(), String> {
        let (expected, tally) = rest.split_once(' ').ok_or("a checkpoint without a number")?;
        self.tally = tally.parse()?;
        self.checkpoints += 1;
        let pid = self.subject.id();
        for tid in tids(pid) {
            let Some((name, state)) = name_and_state(pid, tid) else { continue };
            // Ended threads and the kernel's run no code of the program.
            if matches!(state, 'Z' | 'X') || name.starts_with("iou-wrk-") {
                continue;
            }
            match fs::read_to_string(format!("/proc/{tid}/timerslack_ns")) {
                Ok(number) if number.trim() == expected => self.inspected += 1,
                Ok(number) => {
                    let number = number.trim();
                    return Err(format!(
                        "thread {tid} ({name}) has counted {number} rounds, not {expected}"
                    ));
                }
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => self.sees = false,
                // It has ended meanwhile.
                Err(_) => {}
            }
        }
        Ok(())
    }

    fn show(&self) {
        let now = self.start.elapsed().as_secs();
        let tally = &self.tally;
        let (started, faults) = (tally.sum(&Event::STARTS), tally.sum(&Event::FAULTS));
        let line = format!(
            "{now:>5} s  {} rounds  {started} threads started, {} ended  {faults} faults  {} signals  \
             slowest stop {:.1?}",
            tally.of(Event::Round),
            tally.of(Event::Ended),
            self.signals.load(Ordering::Relaxed),
            tally.slowest_stop(),
        );
        if self.on_terminal {
            print!("\r{line}\x1b[K");
        } else {
            println!("{line}");
        }
        // A closed output is not a failure of the soak.
        let _ = io::stdout().flush();
    }

    fn sum_up(&self) {
        let mut table = Table::new(["happened", "times"]);
        for event in Event::ALL {
            table.push([event.what().to_owned(), self.tally.of(event).to_string()]);
        }
        let signals = self.signals.load(Ordering::Relaxed);
        table.push(["plain and forged signals 33 sent".to_owned(), signals.to_string()]);
        print!("{table}");
        let checkpoints = counted(self.checkpoints as usize, "checkpoint");
        match self.sees {
            true => println!(
                "No thread was in the wrong state: {checkpoints}, {} threads inspected from \
                 outside. Slowest stop {:.1?}.",
                self.inspected,
                self.tally.slowest_stop()
            ),
            false => println!(
                "No thread found itself in the wrong state: {checkpoints}. To inspect them from \
                 outside takes root (CAP_SYS_NICE). Slowest stop {:.1?}.",
                self.tally.slowest_stop()
            ),
        }
    }
}
