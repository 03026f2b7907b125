//! What a row's process uses: threads, the call, and the line to the supervisor.

use std::fmt::Display;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use std::{env, io, thread};

use psx::{Broadcast, Coverage, Errno, Error};
use psx_test_support::process::users;
use psx_test_support::raw::{errno, prctl, slack};
use psx_test_support::threads::idle;
use psx_test_support::{Line, Probe, seccomp};

use crate::oracle::Mark;
use crate::raw;

/// The broadcast that the fault is applied to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    Psx,
    Glibc,
}

/// The environment variable that selects glibc in a row's process.
pub(crate) const GLIBC: &str = "PSX_FAULTS_GLIBC";

/// The timeout of a call under a fault that does not end.
pub(crate) const SHORT: Duration = Duration::from_secs(1);

/// The default timeout.
const DEFAULT: Duration = Duration::from_secs(5);

/// The timeout under load: with ten thousand threads on a busy machine, a call may take longer than the
/// default.
const LONG: Duration = Duration::from_secs(60);

/// The user that root becomes.
const NOBODY: u32 = 65534;

/// The counting calls that have succeeded, plus the timer slack that main began with.
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// One row's process.
#[derive(Clone)]
pub(crate) struct Context {
    subject: Subject,
    line: Arc<Line>,
}

impl Context {
    pub(crate) fn new() -> Self {
        let subject = if env::var_os(GLIBC).is_some() { Subject::Glibc } else { Subject::Psx };
        COUNT.store(slack(), Ordering::Relaxed);
        Self { subject, line: Arc::new(Line::of_child()) }
    }

    /// Uses psx for the first time.
    pub(crate) fn adopt(&self) {
        if self.subject == Subject::Psx {
            psx::thread::adopt().expect("the first use of psx");
        }
    }

    /// Starts a thread and returns how to wait for its end.
    pub(crate) fn spawn<F>(&self, name: &str, body: F) -> impl FnOnce() + use<F>
    where
        F: FnOnce() + Send + 'static,
    {
        self.try_spawn(name, 256 << 10, body).expect("a thread")
    }

    /// The same, with a stack of this many bytes, where it may fail.
    pub(crate) fn try_spawn<F>(
        &self,
        name: &str,
        stack: usize,
        body: F,
    ) -> io::Result<impl FnOnce() + use<F>>
    where
        F: FnOnce() + Send + 'static,
    {
        let name = name.to_owned();
        let handle = match self.subject {
            Subject::Psx => psx::thread::Builder::new().name(name).stack_size(stack).spawn(body)?,
            Subject::Glibc => {
                std::thread::Builder::new().name(name).stack_size(stack).spawn(body)?
            }
        };
        Ok(move || handle.join().expect("a thread that does not panic"))
    }

    /// Starts threads that do nothing, and have no descriptor.
    pub(crate) fn park(&self, threads: usize) {
        for _ in 0..threads {
            let _ = self.spawn("parked", || idle());
        }
    }

    /// Eight parked threads.
    pub(crate) fn probes(&self) -> Probes {
        self.probes_that(|| true)
    }

    /// Eight parked threads that can be asked whether `attempt` shows the new state.
    pub(crate) fn probes_that(&self, attempt: fn() -> bool) -> Probes {
        self.probes_of(8, attempt)
    }

    /// The same with `threads` threads.
    pub(crate) fn probes_of(&self, threads: usize, attempt: fn() -> bool) -> Probes {
        let spawn = |i| Probe::start_by(|body| drop(self.spawn(&format!("probe-{i}"), body)));
        let probes = Probes { probes: (0..threads).map(spawn).collect(), attempt };
        // Once they have answered, they have started.
        probes.in_old_state();
        probes
    }

    /// Starts a thread that repeats `work`, and returns once it has begun.
    pub(crate) fn busy(&self, name: &str, mut work: impl FnMut() + Send + 'static) {
        let (mut begun, mut begin) = UnixStream::pair().expect("a socket pair");
        let _ = self.spawn(name, move || {
            work();
            begin.write_all(&[0]).expect("the starter waits");
            loop {
                work();
            }
        });
        begun.read_exact(&mut [0]).expect("a thread that has begun");
    }

    /// Makes the change on all threads and reports the result to the supervisor.
    pub(crate) fn change(&self) {
        self.change_with(Broadcast::new(), DEFAULT, 0);
    }

    /// The same with the timeout for a fault that does not end.
    pub(crate) fn change_soon(&self) {
        self.change_soon_by(Broadcast::new());
    }

    /// The same by this broadcast.
    pub(crate) fn change_soon_by(&self, broadcast: Broadcast) {
        self.change_with(broadcast.timeout(SHORT), SHORT, 0);
    }

    /// The same on the registered threads only.
    pub(crate) fn change_registered(&self) {
        self.change_with(Broadcast::new().coverage(Coverage::Registered), DEFAULT, 0);
    }

    fn change_with(&self, broadcast: Broadcast, timeout: Duration, in_old_state: usize) {
        let mark = self.mark();
        let start = Instant::now();
        let result = match (self.subject, mark) {
            // SAFETY: no code here relies on the user that it runs as.
            (Subject::Glibc, Mark::User(id)) => match unsafe { libc::setresuid(id, id, id) } {
                0 => Ok(()),
                _ => Err(Error::Os(Errno::from_raw(errno()))),
            },
            (_, Mark::User(id)) => {
                let id = id as usize;
                // SAFETY: as above.
                unsafe { broadcast.syscall(libc::SYS_setresuid, [id, id, id, 0, 0, 0]) }.map(drop)
            }
            (_, Mark::Filters(_)) => {
                let add = || {
                    seccomp::install(&[seccomp::ALLOW]);
                    Ok(0)
                };
                // SAFETY: one system call, and a filter that allows everything.
                unsafe { broadcast.run(add) }.map(drop)
            }
            _ => {
                let args = [libc::PR_SET_NO_NEW_PRIVS as usize, 1, 0, 0, 0, 0];
                // SAFETY: nothing here executes a set-user-ID file.
                unsafe { broadcast.syscall(libc::SYS_prctl, args) }.map(drop)
            }
        };
        self.report(mark, result, start.elapsed(), timeout, in_old_state);
    }

    /// What the change does to every thread: sets another user where there is a privilege to lose, else
    /// no_new_privs, else adds a seccomp filter.
    fn mark(&self) -> Mark {
        match users() {
            [0, 0, 0] => Mark::User(NOBODY),
            [real, effective, _] if effective != real => Mark::User(real),
            _ if prctl(libc::PR_GET_NO_NEW_PRIVS, 0) == 0 => Mark::NoNewPrivs,
            _ => Mark::Filters(seccomp::filters() + 1),
        }
    }

    /// Reports the result of a call to the supervisor, and returns when all threads have been inspected.
    /// `in_old_state` is how many threads have found themselves in the old state.
    pub(crate) fn report(
        &self,
        mark: Mark,
        result: Result<(), Error>,
        took: Duration,
        timeout: Duration,
        in_old_state: usize,
    ) {
        let result = match result {
            Ok(()) => "ok".to_owned(),
            Err(error) => {
                let debug = format!("{error:?}");
                let kind = debug.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
                format!("{kind} {error}")
            }
        };
        let (took, timeout) = (took.as_micros(), timeout.as_micros());
        self.ask(format_args!("result {mark} {took} {timeout} {in_old_state} {result}"));
    }

    /// Adds one to the counter that the kernel keeps for each thread.
    pub(crate) fn count(&self) -> Result<Duration, Error> {
        let start = Instant::now();
        let add = || {
            raw::count_one();
            Ok(0)
        };
        // SAFETY: two system calls that touch no memory.
        let _ = unsafe { Broadcast::new().timeout(LONG).run(add) }?;
        let took = start.elapsed();
        COUNT.fetch_add(1, Ordering::Release);
        Ok(took)
    }

    /// Counts `rounds` times, without a pause.
    pub(crate) fn count_to(&self, rounds: usize) -> Result<Vec<Duration>, Error> {
        (0..rounds).map(|_| self.count()).collect()
    }

    /// The last call: the change itself if every counting call has succeeded.
    pub(crate) fn conclude(&self, counted: Result<Vec<Duration>, Error>, in_old_state: usize) {
        match counted {
            Ok(mut times) => {
                times.sort();
                if let [_, .., slowest] = times[..] {
                    self.note(format_args!("median {:.1?}, slowest {slowest:.1?}", median(&times)));
                }
                self.change_with(Broadcast::new().timeout(LONG), LONG, in_old_state);
            }
            Err(error) => self.report(self.mark(), Err(error), LONG, LONG, 0),
        }
    }

    /// Notes how long at most a thread that the fault does not concern stood still during `body`: it reads
    /// the clock every millisecond. The scheduler's delays count as well. Fails if that is `limit` or longer.
    pub(crate) fn noting_stops(&self, limit: Duration, body: impl FnOnce(&Self)) {
        static LONGEST: AtomicUsize = AtomicUsize::new(0);
        static BEATS: AtomicUsize = AtomicUsize::new(0);
        let mut last = Instant::now();
        self.busy("heartbeat", move || {
            thread::sleep(Duration::from_millis(1));
            let now = Instant::now();
            LONGEST.fetch_max((now - last).as_micros() as usize, Ordering::Relaxed);
            last = now;
            BEATS.fetch_add(1, Ordering::Release);
        });
        LONGEST.store(0, Ordering::Relaxed);
        body(self);
        // A stop that has just ended is seen at the next beat.
        let enough = BEATS.load(Ordering::Acquire) + 2;
        while BEATS.load(Ordering::Acquire) < enough {
            thread::yield_now();
        }
        let longest = Duration::from_micros(LONGEST.load(Ordering::Relaxed) as u64);
        self.note(format_args!("longest stop {longest:.1?}"));
        assert!(longest < limit, "a stop of {longest:?}");
    }

    /// Adds a note to the end of the row.
    pub(crate) fn note(&self, text: impl Display) {
        self.ask(format_args!("note {text}"));
    }

    /// Asks the supervisor for something, and waits until it is done.
    pub(crate) fn ask(&self, what: impl Display) {
        self.line.send(what);
        self.line.expect("go");
    }
}

/// The middle of a sorted list.
pub(crate) fn median(times: &[Duration]) -> Duration {
    times[times.len() / 2]
}

/// Begins to count from the calling thread's value.
pub(crate) fn start_count() {
    COUNT.store(slack(), Ordering::Release);
}

/// Whether the calling thread has made every counting call that has returned.
pub(crate) fn keeps_up() -> bool {
    let count = COUNT.load(Ordering::Acquire);
    slack() >= count
}

/// Whether the calling thread has made every counting call, and none twice. For use between the calls.
pub(crate) fn is_level() -> bool {
    slack() == COUNT.load(Ordering::Acquire)
}

/// Parked threads, each of which can make an attempt.
pub(crate) struct Probes {
    probes: Vec<Probe>,
    attempt: fn() -> bool,
}

impl Probes {
    /// How many find themselves in the old state.
    pub(crate) fn in_old_state(&self) -> usize {
        self.probes.iter().filter(|probe| !probe.ask(self.attempt)).count()
    }
}
