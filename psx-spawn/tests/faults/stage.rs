//! What a case's body has at hand: threads, the call, and the line to the supervisor.

use std::fmt::Display;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use std::{env, io, thread};

use psx::{Broadcast, Coverage, Errno, Error};

use crate::confine;
use crate::judge::Mark;
use crate::raw;
use crate::support::Line;

/// Whose broadcast is put to the fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    Psx,
    Glibc,
}

/// The environment variable that tells a case's process that it is glibc's turn.
pub(crate) const GLIBC: &str = "PSX_FAULTS_GLIBC";

/// How long a call waits whose fault will not go away.
pub(crate) const SHORT: Duration = Duration::from_secs(1);

/// How long a call waits by default.
const PATIENT: Duration = Duration::from_secs(5);

/// How long a call of a storm waits: ten thousand threads on a machine that somebody else is busy
/// with may take longer than a call waits by default.
const UNHURRIED: Duration = Duration::from_secs(60);

/// The user that root becomes.
const NOBODY: u32 = 65534;

/// The counting calls that have succeeded, over the timer slack that main began with.
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// One case's process.
#[derive(Clone)]
pub(crate) struct Stage {
    subject: Subject,
    line: Arc<Line>,
}

impl Stage {
    pub(crate) fn new() -> Self {
        let subject = if env::var_os(GLIBC).is_some() { Subject::Glibc } else { Subject::Psx };
        COUNT.store(raw::counted(), Ordering::Relaxed);
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
        Ok(move || handle.join().expect("a thread that ends well"))
    }

    /// Starts so many threads that do nothing, and have no descriptor.
    pub(crate) fn park(&self, threads: usize) {
        for _ in 0..threads {
            let _ = self.spawn("parked", || {
                loop {
                    thread::park();
                }
            });
        }
    }

    /// Eight parked threads, as in FAULTS.md.
    pub(crate) fn crew(&self) -> Crew {
        self.crew_that(|| true)
    }

    /// Eight parked threads that can be asked whether `attempt` shows the new state.
    pub(crate) fn crew_that(&self, attempt: fn() -> bool) -> Crew {
        self.crew_of(8, attempt)
    }

    /// The same with so many threads.
    pub(crate) fn crew_of(&self, threads: usize, attempt: fn() -> bool) -> Crew {
        let start = |i| {
            let (ours, mut theirs) = UnixStream::pair().expect("a socket pair");
            let _ = self.spawn(&format!("crew-{i}"), move || {
                while theirs.read_exact(&mut [0]).is_ok() {
                    theirs.write_all(&[attempt().into()]).expect("main still asks");
                }
            });
            ours
        };
        let crew = Crew((0..threads).map(start).collect());
        // Once they have answered, they are there.
        crew.strays();
        crew
    }

    /// Starts a thread that does `work` over and over, and returns once it has begun.
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

    /// Makes the change on all threads and tells the supervisor what came out.
    pub(crate) fn change(&self) {
        self.change_with(Broadcast::new(), PATIENT, 0);
    }

    /// The same with a timeout for a fault that will not go away by itself.
    pub(crate) fn change_soon(&self) {
        self.change_with(Broadcast::new().timeout(SHORT), SHORT, 0);
    }

    /// The same on the registered threads only.
    pub(crate) fn change_registered(&self) {
        self.change_with(Broadcast::new().coverage(Coverage::Registered), PATIENT, 0);
    }

    fn change_with(&self, broadcast: Broadcast, timeout: Duration, strays: usize) {
        let mark = self.mark();
        let start = Instant::now();
        let result = match (self.subject, mark) {
            // SAFETY: no code here relies on the user that it runs as.
            (Subject::Glibc, Mark::User(id)) => match unsafe { libc::setresuid(id, id, id) } {
                0 => Ok(()),
                _ => Err(Error::Os(Errno::from_raw(raw::errno()))),
            },
            (_, Mark::User(id)) => {
                let id = id as usize;
                // SAFETY: as above.
                unsafe { broadcast.syscall(libc::SYS_setresuid, [id, id, id, 0, 0, 0]) }.map(drop)
            }
            (_, Mark::Filters(_)) => {
                let add = || {
                    confine::filter(&[confine::ALLOW]);
                    Ok(0)
                };
                // SAFETY: one system call, and no filter that forbids anything.
                unsafe { broadcast.run(add) }.map(drop)
            }
            _ => {
                let args = [libc::PR_SET_NO_NEW_PRIVS as usize, 1, 0, 0, 0, 0];
                // SAFETY: nothing here executes a set-user-ID file.
                unsafe { broadcast.syscall(libc::SYS_prctl, args) }.map(drop)
            }
        };
        self.answer(mark, result, start.elapsed(), timeout, strays);
    }

    /// What the change leaves on every thread: another user for those who have a privilege to
    /// lose, else no_new_privs, else one seccomp filter more.
    fn mark(&self) -> Mark {
        match raw::users() {
            [0, 0, 0] => Mark::User(NOBODY),
            [real, effective, _] if effective != real => Mark::User(real),
            _ if !confine::has_no_new_privs() => Mark::NoNewPrivs,
            _ => Mark::Filters(confine::filters() + 1),
        }
    }

    /// Tells the supervisor what a call came to, and goes on when all threads have been looked at.
    /// `strays` are threads that have found themselves in the old state.
    pub(crate) fn answer(
        &self,
        mark: Mark,
        result: Result<(), Error>,
        took: Duration,
        timeout: Duration,
        strays: usize,
    ) {
        let said = match result {
            Ok(()) => "ok".to_owned(),
            Err(error) => {
                let debug = format!("{error:?}");
                let kind = debug.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
                format!("{kind} {error}")
            }
        };
        let (took, timeout) = (took.as_micros(), timeout.as_micros());
        self.ask(format_args!("answer {mark} {took} {timeout} {strays} {said}"));
    }

    /// Adds one to every thread's kernel-kept counter.
    pub(crate) fn count(&self) -> Result<Duration, Error> {
        let start = Instant::now();
        let add = || {
            raw::count_one();
            Ok(0)
        };
        // SAFETY: two system calls that touch no memory.
        let _ = unsafe { Broadcast::new().timeout(UNHURRIED).run(add) }?;
        let took = start.elapsed();
        COUNT.fetch_add(1, Ordering::Release);
        Ok(took)
    }

    /// Counts `rounds` times, without a pause.
    pub(crate) fn count_to(&self, rounds: usize) -> Result<Vec<Duration>, Error> {
        (0..rounds).map(|_| self.count()).collect()
    }

    /// The last call of a storm: the change itself if every counting call went well.
    pub(crate) fn conclude(&self, counted: Result<Vec<Duration>, Error>, strays: usize) {
        match counted {
            Ok(mut times) => {
                times.sort();
                if let [_, .., slowest] = times[..] {
                    self.note(format_args!("median {:.1?}, slowest {slowest:.1?}", median(&times)));
                }
                self.change_with(Broadcast::new().timeout(UNHURRIED), UNHURRIED, strays);
            }
            Err(error) => self.answer(self.mark(), Err(error), UNHURRIED, UNHURRIED, 0),
        }
    }

    /// Notes for how long at most a thread stood still, during `body`, that has nothing to do with the
    /// fault: one that reads the clock every millisecond. The scheduler's delays count as well.
    pub(crate) fn noting_stops(&self, body: impl FnOnce(&Self)) {
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
        // A machine that is busy with other things adds its own.
        assert!(longest < PATIENT + Duration::from_secs(1), "a stop of {longest:?}");
    }

    /// Adds to the row's end.
    pub(crate) fn note(&self, text: impl Display) {
        self.ask(format_args!("note {text}"));
    }

    /// Asks the supervisor for something, and waits until it is done.
    pub(crate) fn ask(&self, what: impl Display) {
        self.line.say(what);
        self.line.hear("go");
    }
}

/// The middle of a sorted list.
pub(crate) fn median(times: &[Duration]) -> Duration {
    times[times.len() / 2]
}

/// Begins to count from where the calling thread stands.
pub(crate) fn start_count() {
    COUNT.store(raw::counted(), Ordering::Release);
}

/// Whether the calling thread has made every counting call that is over.
pub(crate) fn keeps_up() -> bool {
    let count = COUNT.load(Ordering::Acquire);
    raw::counted() >= count
}

/// Whether the calling thread has made every counting call, and none twice. For quiet times.
pub(crate) fn is_level() -> bool {
    raw::counted() == COUNT.load(Ordering::Acquire)
}

/// Parked threads.
pub(crate) struct Crew(Vec<UnixStream>);

impl Crew {
    /// How many find themselves in the old state.
    pub(crate) fn strays(&self) -> usize {
        let says_new = |mut thread: &UnixStream| {
            let mut answer = [0];
            thread
                .write_all(&[0])
                .and_then(|()| thread.read_exact(&mut answer))
                .expect("an answer");
            answer == [1]
        };
        self.0.iter().filter(|thread| !says_new(thread)).count()
    }
}
