// A program in the shapes of std's own examples, included once beneath `use std::thread` and once
// beneath `use psx::thread`.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

#[allow(unused_imports, reason = "that the names are there is the test")]
use thread::{
    AccessError, Builder, JoinHandle, LocalKey, Result as ThreadResult, Scope, ScopedJoinHandle,
    Thread, ThreadId, available_parallelism, current, panicking, park, park_timeout, scope, sleep,
    spawn, yield_now,
};
#[allow(unused_imports, deprecated, reason = "that the names are there is the test")]
use thread::{park_timeout_ms, sleep_ms};

std::thread_local!(static LOCAL: Cell<u32> = const { Cell::new(1) });

struct Pool {
    workers: Vec<JoinHandle<u32>>,
}

fn start_in<'scope>(scope: &'scope Scope<'scope, '_>, n: &'scope u32) -> ScopedJoinHandle<'scope, u32> {
    scope.spawn(move || *n + 1)
}

pub(crate) fn program() {
    // spawn, with a result, a channel, a panic.
    let handle = thread::spawn(|| "result".to_string());
    assert!(!handle.thread().id().eq(&current().id()));
    assert_eq!(handle.join().unwrap(), "result");
    let (sender, receiver) = mpsc::channel();
    let sending = thread::spawn(move || {
        let _ = sender.send(5);
    });
    assert_eq!(receiver.recv(), Ok(5));
    sending.join().expect("the sender has not panicked");
    let panicked: ThreadResult<()> = spawn(|| panic::resume_unwind(Box::new("told"))).join();
    assert_eq!(panicked.unwrap_err().downcast_ref(), Some(&"told"));

    // Builder, in one chain and step by step; a pool of handles.
    let mut builder = Builder::new();
    builder = builder.name("named".into()).stack_size(64 * 1024);
    assert!(format!("{builder:?}").contains("named"));
    let name = builder.spawn(|| current().name().map(str::to_owned)).unwrap().join().unwrap();
    assert_eq!(name.as_deref(), Some("named"));
    let numbers = Arc::new(Mutex::new(Vec::new()));
    let workers = (0..3).map(|n| {
        let numbers = Arc::clone(&numbers);
        thread::spawn(move || {
            numbers.lock().unwrap().push(n);
            n
        })
    });
    let pool = Pool { workers: workers.collect() };
    assert_eq!(pool.workers.into_iter().map(|worker| worker.join().unwrap()).sum::<u32>(), 3);

    // scope: borrowed and mutated locals, nested spawns, a named thread, a handle's result.
    let mut a = vec![1, 2, 3];
    let mut x = 0;
    thread::scope(|s| {
        s.spawn(|| assert_eq!(a.len(), 3));
        s.spawn(|| x += a[0] + a[2]);
    });
    a.push(4);
    assert_eq!(x, a.len());
    let n = 41;
    let more = thread::scope(|s| {
        let nested = s.spawn(|| s.spawn(|| n).join().unwrap());
        let named = Builder::new().name("scoped".into()).spawn_scoped(s, || n).unwrap();
        assert_eq!(nested.join().unwrap() + named.join().unwrap(), 82);
        start_in(s, &n).join().unwrap()
    });
    assert_eq!(more, 42);
    scope(|s| assert!(format!("{s:?}").starts_with("Scope")));

    // park and unpark; a thread-local; the rest.
    let flag = AtomicBool::new(false);
    thread::scope(|s| {
        let parked = s.spawn(|| {
            while !flag.load(Ordering::Acquire) {
                thread::park();
            }
        });
        flag.store(true, Ordering::Release);
        parked.thread().unpark();
    });
    LOCAL.with(|local| local.set(2));
    assert_eq!(spawn(|| LOCAL.get()).join().unwrap(), 1);
    park_timeout(Duration::ZERO);
    sleep(Duration::ZERO);
    yield_now();
    assert!(available_parallelism().is_ok() && !panicking());
    // SAFETY: the thread is joined while `n` lives.
    let unchecked = unsafe { Builder::new().spawn_unchecked(|| n).unwrap() };
    assert_eq!(unchecked.join().unwrap(), 41);
}

use std::panic;
