//! psx by itself: what a round costs at each size, and what a registered thread costs.
//!
//! Beside its peers it is measured by the bench `peers`; this one is for comparing psx with itself
//! before and after a change (`cargo bench -p psx-spawn --bench rounds -- --save-baseline before`).

use std::ffi::c_long;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput};
use psx::{Broadcast, Errno, thread};

const SIZES: [usize; 7] = [1, 2, 10, 100, 1000, 5000, 10_000];

/// Threads that stay until this is dropped.
struct Crowd {
    leave: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Crowd {
    fn of(count: usize, stay: fn(&AtomicBool)) -> Self {
        let leave = Arc::new(AtomicBool::new(false));
        let arrived = Arc::new(Barrier::new(count + 1));
        let start = |_| {
            let (leave, arrived) = (Arc::clone(&leave), Arc::clone(&arrived));
            let run = move || {
                arrived.wait();
                stay(&leave);
            };
            thread::Builder::new().stack_size(64 * 1024).spawn(run).expect("a thread starts")
        };
        let threads = (0..count).map(start).collect();
        arrived.wait();
        Self { leave, threads }
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.leave.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.thread().unpark();
            thread.join().expect("the crowd does not panic");
        }
    }
}

fn park(leave: &AtomicBool) {
    while !leave.load(Ordering::Relaxed) {
        thread::park();
    }
}

fn compute(leave: &AtomicBool) {
    while !leave.load(Ordering::Relaxed) {
        std::hint::spin_loop();
    }
}

/// One call that asks for what is so already.
fn round() {
    let args = [libc::PR_SET_KEEPCAPS as usize, 0, 0, 0, 0, 0];
    // SAFETY: keepcaps is off in this process, and stays so.
    let report = unsafe { Broadcast::new().syscall(libc::SYS_prctl, args) };
    let _ = report.expect("a round goes through");
}

/// As many calls as a privilege drop has steps, in one stop.
fn six_calls() {
    let step = || {
        for _ in 0..6 {
            raw(libc::SYS_prctl, libc::PR_SET_KEEPCAPS as usize)?;
        }
        Ok(0)
    };
    // SAFETY: bare system calls, as in `round`.
    let report = unsafe { Broadcast::new().run(step) };
    let _ = report.expect("a round goes through");
}

fn raw(number: c_long, first: usize) -> Result<usize, Errno> {
    // SAFETY: the callers pass no pointer.
    match unsafe { libc::syscall(number, first, 0usize, 0usize, 0usize, 0usize) } {
        // SAFETY: errno belongs to this thread.
        ..0 => Err(Errno::from_raw(unsafe { *libc::__errno_location() })),
        value => Ok(value as usize),
    }
}

fn rounds(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("round");
    for count in SIZES {
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(BenchmarkId::new("parked", count), |bencher| {
            let _crowd = Crowd::of(count, park);
            bencher.iter(round);
        });
    }
    for count in [2, 8] {
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(BenchmarkId::new("computing", count), |bencher| {
            let _crowd = Crowd::of(count, compute);
            bencher.iter(round);
        });
    }
    group.finish();
    criterion.bench_function("six calls in one stop/parked/100", |bencher| {
        let _crowd = Crowd::of(100, park);
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
