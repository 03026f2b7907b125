//! psx's side of the comparison: the protocol of `peer.h` in a child process.

use std::ffi::{c_int, c_void};
use std::io::{self, BufRead, Write};
use std::mem::{self, MaybeUninit};
use std::ptr;
use std::sync::{Arc, Barrier};
use std::time::Instant;

use psx::privileges::ApplyError;
use psx::{Broadcast, Error, Privileges, Report, thread};

const STACK: usize = 64 * 1024;

/// Runs until standard input ends.
pub(crate) fn serve(threads: usize) -> io::Result<()> {
    thread::adopt()?;
    let parked = Arc::new(Barrier::new(threads + 1));
    for _ in 0..threads {
        let parked = Arc::clone(&parked);
        thread::Builder::new().stack_size(STACK).spawn(move || {
            parked.wait();
            loop {
                thread::park();
            }
        })?;
    }
    parked.wait();
    let now = Same::as_now()?;

    let mut out = io::stdout().lock();
    writeln!(out, "ready")?;
    for line in io::stdin().lock().lines() {
        let line = line?;
        let (op, rounds) = line.split_once(' ').expect("a request is OP ROUNDS");
        let rounds = rounds.parse().expect("a number of rounds");
        for time in answer(op, rounds, &now)? {
            write!(out, "{time} ")?;
        }
        writeln!(out)?;
    }
    Ok(())
}

fn answer(op: &str, rounds: usize, now: &Same) -> Result<Vec<u64>, ApplyError> {
    match op {
        "one" => timed(rounds, || Ok(now.uid_alone().map(drop)?)),
        "ids" => timed(rounds, || now.ids.apply().map(drop)),
        "six" => timed(rounds, || now.six.apply().map(drop)),
        "spawn-std" => timed(rounds, || joined(std::thread::spawn(|| ()))),
        "spawn-psx" => timed(rounds, || joined(thread::spawn(|| ()))),
        "spawn-adopt" => timed(rounds, || {
            joined(std::thread::spawn(|| thread::adopt().expect("a thread can register")))
        }),
        "create" => timed(rounds, || created(libc::pthread_create)),
        "create-libc" => {
            let create = real_pthread_create();
            timed(rounds, || created(create))
        }
        "adopt" => timed_adoptions(rounds),
        "memory" => Ok(vec![bytes_per_adoption(rounds)]),
        _ => unreachable!("the driver asked for {op}"),
    }
}

fn timed(
    rounds: usize,
    mut round: impl FnMut() -> Result<(), ApplyError>,
) -> Result<Vec<u64>, ApplyError> {
    (0..rounds).map(|_| nanoseconds(&mut round)).collect()
}

fn nanoseconds(run: impl FnOnce() -> Result<(), ApplyError>) -> Result<u64, ApplyError> {
    let start = Instant::now();
    run()?;
    Ok(start.elapsed().as_nanos() as u64)
}

fn joined(thread: std::thread::JoinHandle<()>) -> Result<(), ApplyError> {
    thread.join().expect("the thread does not panic");
    Ok(())
}

type PthreadCreate = unsafe extern "C" fn(
    *mut libc::pthread_t,
    *const libc::pthread_attr_t,
    extern "C" fn(*mut c_void) -> *mut c_void,
    *mut c_void,
) -> c_int;

/// The one that the feature `interpose` replaces.
fn real_pthread_create() -> PthreadCreate {
    // SAFETY: the name is a C string.
    let found = unsafe { libc::dlsym(libc::RTLD_NEXT, c"pthread_create".as_ptr()) };
    assert!(!found.is_null(), "a libc has pthread_create");
    // SAFETY: the function of that name has this type.
    unsafe { mem::transmute::<*mut c_void, PthreadCreate>(found) }
}

fn created(create: PthreadCreate) -> Result<(), ApplyError> {
    extern "C" fn nothing(argument: *mut c_void) -> *mut c_void {
        argument
    }
    let mut thread = MaybeUninit::uninit();
    // SAFETY: a thread that does nothing, and is joined if it was started.
    let result = unsafe {
        match create(thread.as_mut_ptr(), ptr::null(), nothing, ptr::null_mut()) {
            0 => libc::pthread_join(thread.assume_init(), ptr::null_mut()),
            error => error,
        }
    };
    assert_eq!(result, 0, "a thread starts and ends");
    Ok(())
}

/// Registration alone, each time in a new thread.
fn timed_adoptions(rounds: usize) -> Result<Vec<u64>, ApplyError> {
    let adoption = || nanoseconds(|| Ok(thread::adopt()?));
    (0..rounds).map(|_| std::thread::spawn(adoption).join().expect("no panic")).collect()
}

/// How much more the allocator has allocated after `threads` plain threads have registered.
fn bytes_per_adoption(threads: usize) -> u64 {
    let step = Arc::new(Barrier::new(threads + 1));
    let started: Vec<_> = (0..threads)
        .map(|_| {
            let step = Arc::clone(&step);
            let run = move || {
                step.wait();
                step.wait();
                thread::adopt().expect("a thread can register");
                step.wait();
                step.wait();
            };
            std::thread::Builder::new().stack_size(STACK).spawn(run).expect("a thread starts")
        })
        .collect();
    step.wait();
    let before = allocated();
    step.wait();
    step.wait();
    let after = allocated();
    step.wait();
    started.into_iter().for_each(|thread| thread.join().expect("no panic"));
    (after - before) as u64 / threads as u64
}

#[cfg(target_env = "gnu")]
fn allocated() -> usize {
    // SAFETY: reads the allocator's own counts.
    unsafe { libc::mallinfo2() }.uordblks
}

#[cfg(not(target_env = "gnu"))]
fn allocated() -> usize {
    0
}

/// The present state of the process, so that a change to it changes nothing.
struct Same {
    uid: usize,
    ids: Privileges,
    six: Privileges,
}

impl Same {
    fn as_now() -> io::Result<Self> {
        let threads = psx::threads()?;
        let main = threads.iter().find(|thread| thread.tid() == std::process::id());
        let now = main.expect("the main thread");
        let (uid, sets) = (now.uid.real, now.capabilities);
        let ids = || Privileges::new().groups(&now.groups).gid(now.gid.real).uid(uid);
        Ok(Self {
            uid: uid as usize,
            ids: ids(),
            six: ids().keep_capabilities().capabilities(sets).no_new_privs(),
        })
    }

    fn uid_alone(&self) -> Result<Report, Error> {
        let args = [self.uid, self.uid, self.uid, 0, 0, 0];
        // SAFETY: asks for the ids that every thread has.
        unsafe { Broadcast::new().syscall(libc::SYS_setresuid, args) }
    }
}
