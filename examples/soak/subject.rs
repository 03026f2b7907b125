//! The process under test: its threads, and the checkpoints at which the oracle inspects them.

use std::fmt::Display;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::AsRawFd;
use std::panic;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use psx::thread;
use psx_examples::workers::Workers;
use psx_test_support::process::{exit_now, exit_thread};
use psx_test_support::raw::{must, slack};
use psx_test_support::{Line, Random};

use crate::count::{self, PAUSE};
use crate::tally::{self, Event, Tally};
use crate::{faults, lock_holders, spawn};

/// The line to the oracle.
static LINE: OnceLock<Line> = OnceLock::new();
static IS_OVER: AtomicBool = AtomicBool::new(false);

/// Reports a failure to the oracle, and ends the process without exit handlers: other threads may hold their
/// locks.
pub(crate) fn fail(what: impl Display) -> ! {
    let what = what.to_string().replace('\n', " ");
    if let Some(line) = LINE.get() {
        let _ = line.try_send(format_args!("fail {what}"));
    }
    exit_now(1)
}

/// A thread with so small a stack that there may be many.
pub(crate) fn builder(name: &str) -> thread::Builder {
    thread::Builder::new().name(name.to_owned()).stack_size(128 << 10)
}

/// The process from start to end. Its standard input is the line to the oracle.
pub(crate) fn run(seed: u64, time: Duration) -> io::Result<()> {
    LINE.get_or_init(Line::of_child);
    panic::set_hook(Box::new(|info| fail(info)));
    let null = OpenOptions::new().write(true).open("/dev/null")?;
    must(libc::SYS_dup3, [null.as_raw_fd() as usize, 1, 0, 0, 0, 0]);
    lock_holders::share_one_arena();
    count::begin();
    count::round(Duration::from_secs(30)).map_err(io::Error::other)?;
    let director = builder("director").spawn(move || direct(seed, time))?;
    if Random::new(seed).coin() {
        // The others continue without main, which stays as a zombie.
        exit_thread();
    }
    director.join().map_err(|_| io::Error::other("the director panicked"))
}

/// What a thread repeats.
type Work = fn(&mut Random);

/// Starts all threads, pauses for the oracle each second, and ends all threads.
fn direct(seed: u64, time: Duration) {
    let start = Instant::now();
    let mut random = Random::stream(seed, 1);
    let works: [(&str, u64, Work); 5] = [
        ("caller", 2 + random.below(3), call),
        ("parent", 2, spawn::spawn),
        ("faults", 1, faults::fault),
        ("locks", 2, lock_holders::hold),
        ("uring", 1, lock_holders::ring),
    ];
    let mut streams = 2..;
    let mut threads = Vec::new();
    for (name, size, work) in works {
        for stream in streams.by_ref().take(size as usize) {
            let mut random = Random::stream(seed, stream);
            let body = move || {
                while !IS_OVER.load(Ordering::Relaxed) {
                    work(&mut random);
                }
            };
            threads.push(expect(builder(name).spawn(body)));
        }
    }
    let mut workers = start_workers(&mut random);
    send("ready");
    while start.elapsed() < time {
        let second = Duration::from_secs(1);
        thread::sleep(second.min(time.saturating_sub(start.elapsed())));
        let paused = checkpoint();
        if random.below(3) == 0 {
            end_workers(workers);
            drop(paused);
            workers = start_workers(&mut random);
        }
    }
    IS_OVER.store(true, Ordering::Relaxed);
    for thread in threads {
        expect(thread.join().map_err(|_| io::Error::other("it panicked")));
    }
    end_workers(workers);
    drop(checkpoint());
    send("done");
}

/// A call to psx, and half of the time a pause.
fn call(random: &mut Random) {
    count::call(random);
    if random.coin() {
        thread::sleep(Duration::from_micros(random.below(4_000)));
    }
}

/// Pauses rounds while the oracle reads every thread's number, and until the result is dropped.
fn checkpoint() -> impl Drop {
    let paused = PAUSE.write().unwrap_or_else(|e| fail(e));
    count::check("the director");
    send(format_args!("checkpoint {} {}", count::expected(), Tally::now()));
    match LINE.get().map(Line::read) {
        Some(Ok(word)) if word == "go" => paused,
        other => fail(format_args!("the oracle sent {other:?}")),
    }
}

fn start_workers(random: &mut Random) -> Workers<usize> {
    let size = 1 + random.below(12);
    let workers = expect(Workers::start(size as usize, slack));
    (0..size).for_each(|_| tally::count(Event::Worker));
    workers
}

/// Ends the workers, while rounds pause or have ended, and checks the number of each.
fn end_workers(workers: Workers<usize>) {
    for (name, number) in expect(workers.end()) {
        let expected = count::expected();
        if number != expected {
            fail(format_args!("worker {name} has counted {number} rounds, not {expected}"));
        }
        tally::count(Event::Ended);
    }
}

fn send(what: impl Display) {
    if LINE.get().is_none_or(|line| line.try_send(what).is_err()) {
        fail("the oracle has ended");
    }
}

fn expect<T>(result: io::Result<T>) -> T {
    result.unwrap_or_else(|error| fail(format_args!("a thread: {error}")))
}
