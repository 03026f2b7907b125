//! The process that is soaked: its threads, and the checkpoints at which its judge looks at them.

use std::fmt::Display;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::panic;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use psx::thread;
use psx_examples::raw;
use psx_examples::workers::Crew;

use crate::count::{self, PAUSE};
use crate::line::Line;
use crate::random::Random;
use crate::tally::{self, Event, Tally};
use crate::{births, company, faults};

/// The line to the judge.
static LINE: OnceLock<Line> = OnceLock::new();
static IS_OVER: AtomicBool = AtomicBool::new(false);

/// Tells the judge what has gone wrong, and ends the process on the spot: other threads may hold
/// what an orderly exit would want.
pub(crate) fn fail(what: impl Display) -> ! {
    let what = what.to_string().replace('\n', " ");
    if let Some(line) = LINE.get() {
        let _ = line.say(format_args!("fail {what}"));
    }
    // SAFETY: _exit(2) ends the process and has no other precondition.
    unsafe { libc::_exit(1) }
}

/// A thread with so small a stack that there may be many.
pub(crate) fn builder(name: &str) -> thread::Builder {
    thread::Builder::new().name(name.to_owned()).stack_size(128 << 10)
}

/// The whole life of the process. Its standard input is the line to the judge.
pub(crate) fn run(seed: u64, time: Duration) -> io::Result<()> {
    LINE.get_or_init(|| Line(UnixStream::from(io::stdin().as_fd().try_clone_to_owned().unwrap())));
    panic::set_hook(Box::new(|info| fail(info)));
    let null = OpenOptions::new().write(true).open("/dev/null")?;
    // SAFETY: two descriptors that are open; whoever writes to standard output has said nothing.
    raw::checked(unsafe { libc::dup2(null.as_raw_fd(), 1) }.into())?;
    company::share_one_arena();
    count::begin();
    count::round(Duration::from_secs(30)).map_err(io::Error::other)?;
    let director = builder("director").spawn(move || direct(seed, time))?;
    if Random::new(seed, 0).coin() {
        // The others go on without main, whose remains the kernel keeps.
        // SAFETY: ends the calling thread, in which nothing is left to be done.
        let _ = unsafe { raw::syscall(libc::SYS_exit, [0; 5]) };
    }
    director.join().map_err(|_| io::Error::other("the director panicked"))
}

/// What a thread does over and over.
type Work = fn(&mut Random);

/// Starts everything, has the judge look each second, and ends everything.
fn direct(seed: u64, time: Duration) {
    let start = Instant::now();
    let mut random = Random::new(seed, 1);
    let works: [(&str, u64, Work); 5] = [
        ("caller", 2 + random.below(3), call),
        ("parent", 2, births::birth),
        ("faults", 1, faults::fault),
        ("company", 2, company::hold),
        ("uring", 1, company::ring),
    ];
    let mut streams = 2..;
    let mut staff = Vec::new();
    for (name, size, work) in works {
        for stream in streams.by_ref().take(size as usize) {
            let mut random = Random::new(seed, stream);
            let body = move || {
                while !IS_OVER.load(Ordering::Relaxed) {
                    work(&mut random);
                }
            };
            staff.push(expect(builder(name).spawn(body)));
        }
    }
    let mut crew = hire(&mut random);
    say("ready");
    while start.elapsed() < time {
        let second = Duration::from_secs(1);
        thread::sleep(second.min(time.saturating_sub(start.elapsed())));
        let others = checkpoint();
        if random.below(3) == 0 {
            dismiss(crew);
            drop(others);
            crew = hire(&mut random);
        }
    }
    IS_OVER.store(true, Ordering::Relaxed);
    for thread in staff {
        expect(thread.join().map_err(|_| io::Error::other("it panicked")));
    }
    dismiss(crew);
    drop(checkpoint());
    say("done");
}

/// A call to psx, and as often as not a moment without.
fn call(random: &mut Random) {
    count::call(random);
    if random.coin() {
        thread::sleep(Duration::from_micros(random.below(4_000)));
    }
}

/// Has rounds pause while the judge reads every thread's number. They pause until the result is
/// dropped.
fn checkpoint() -> impl Drop {
    let nobody = PAUSE.write().unwrap_or_else(|e| fail(e));
    count::check("the director");
    say(format_args!("checkpoint {} {}", count::expected(), Tally::now()));
    match LINE.get().map(Line::hear) {
        Some(Ok(word)) if word == "go" => nobody,
        other => fail(format_args!("the judge said {other:?}")),
    }
}

fn hire(random: &mut Random) -> Crew<usize> {
    let size = 1 + random.below(12);
    let crew = expect(Crew::start(size as usize, count::own));
    (0..size).for_each(|_| tally::count(Event::Worker));
    crew
}

/// Ends the workers' work, while rounds pause or are over, and looks at the number of each.
fn dismiss(crew: Crew<usize>) {
    for (name, number) in expect(crew.dismiss()) {
        let expected = count::expected();
        if number != expected {
            fail(format_args!("worker {name} has counted {number} rounds, not {expected}"));
        }
        tally::count(Event::Died);
    }
}

fn say(what: impl Display) {
    if LINE.get().is_none_or(|line| line.say(what).is_err()) {
        fail("the judge is gone");
    }
}

fn expect<T>(result: io::Result<T>) -> T {
    result.unwrap_or_else(|error| fail(format_args!("a thread: {error}")))
}
