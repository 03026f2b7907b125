//! psx alone: what a round costs for each number of threads, and what a registered thread costs.
//!
//! The bench `peers` compares psx with others; this one compares psx before and after a change (`cargo bench -p
//! psx-spawn --bench rounds -- --save-baseline before`).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput};
use psx::{Broadcast, thread};
use psx_test_support::raw::syscall;

const SIZES: [usize; 7] = [1, 2, 10, 100, 1000, 5000, 10_000];

/// Threads that run until this is dropped.
struct Threads {
    end: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Threads {
    fn of(count: usize, body: fn(&AtomicBool)) -> Self {
        let end = Arc::new(AtomicBool::new(false));
        let arrived = Arc::new(Barrier::new(count + 1));
        let start = |_| {
            let (end, arrived) = (Arc::clone(&end), Arc::clone(&arrived));
            let run = move || {
                arrived.wait();
                body(&end);
            };
            thread::Builder::new().stack_size(64 * 1024).spawn(run).expect("a thread starts")
        };
        let threads = (0..count).map(start).collect();
        arrived.wait();
        Self { end, threads }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.thread().unpark();
            thread.join().expect("no panic");
        }
    }
}

fn park(end: &AtomicBool) {
    while !end.load(Ordering::Relaxed) {
        thread::park();
    }
}

fn compute(end: &AtomicBool) {
    while !end.load(Ordering::Relaxed) {
        std::hint::spin_loop();
    }
}

/// One call that changes nothing.
fn round() {
    let args = [libc::PR_SET_KEEPCAPS as usize, 0, 0, 0, 0, 0];
    // SAFETY: keepcaps is off in this process, and stays so.
    let report = unsafe { Broadcast::new().syscall(libc::SYS_prctl, args) };
    let _ = report.expect("a round succeeds");
}

/// As many calls as a privilege drop has steps, in one stop.
fn six_calls() {
    let args = [libc::PR_SET_KEEPCAPS as usize, 0, 0, 0, 0, 0];
    let step = || {
        for _ in 0..6 {
            // SAFETY: as in `round`.
            unsafe { syscall(libc::SYS_prctl, args) }?;
        }
        Ok(0)
    };
    // SAFETY: system calls, as in `round`.
    let report = unsafe { Broadcast::new().run(step) };
    let _ = report.expect("a round succeeds");
}

fn rounds(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("round");
    for count in SIZES {
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(BenchmarkId::new("parked", count), |bencher| {
            let _threads = Threads::of(count, park);
            bencher.iter(round);
        });
    }
    for count in [2, 8] {
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(BenchmarkId::new("computing", count), |bencher| {
            let _threads = Threads::of(count, compute);
            bencher.iter(round);
        });
    }
    group.finish();
    criterion.bench_function("six calls in one stop/parked/100", |bencher| {
        let _threads = Threads::of(100, park);
        bencher.iter(six_calls);
    });
}

fn threads(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("thread");
    group.bench_function("spawn and join/std", |bencher| {
        bencher.iter(|| std::thread::spawn(|| ()).join());
    });
    group.bench_function("spawn and join/psx", |bencher| {
        bencher.iter(|| thread::spawn(|| ()).join());
    });
    group.bench_function("spawn and join/std, adopted", |bencher| {
        bencher.iter(|| std::thread::spawn(adopt).join());
    });
    group.bench_function("adopt", |bencher| {
        bencher.iter_custom(|count| {
            let adoption = || std::thread::spawn(timed_adoption).join().expect("no panic");
            (0..count).map(|_| adoption()).sum()
        });
    });
    group.finish();
}

fn adopt() {
    thread::adopt().expect("a thread can register");
}

fn timed_adoption() -> Duration {
    let start = Instant::now();
    adopt();
    start.elapsed()
}

fn main() {
    adopt();
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3))
        .sample_size(20)
        .configure_from_args();
    rounds(&mut criterion);
    threads(&mut criterion);
    criterion.final_summary();
}
