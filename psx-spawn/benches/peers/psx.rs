//! psx's own side of the comparison: the protocol of `peer.h` in a process of its own.

use std::ffi::c_long;
use std::io::{self, BufRead, Write};
use std::sync::{Arc, Barrier};
use std::time::Instant;

use libc::{gid_t, uid_t};
use psx::{Broadcast, Errno, Error, Report, thread};

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
    let now = Credentials::of_this_process()?;

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

fn answer(op: &str, rounds: usize, now: &Credentials) -> Result<Vec<u64>, Error> {
    match op {
        "one" => timed(rounds, || now.uid_alone().map(drop)),
        "ids" => timed(rounds, || now.ids().map(drop)),
        "six" => timed(rounds, || now.six().map(drop)),
        "spawn-std" => timed(rounds, || joined(std::thread::spawn(|| ()))),
        "spawn-psx" => timed(rounds, || joined(thread::spawn(|| ()))),
        "spawn-adopt" => timed(rounds, || {
            joined(std::thread::spawn(|| thread::adopt().expect("a thread can register")))
        }),
        "adopt" => timed_adoptions(rounds),
        "memory" => Ok(vec![bytes_per_adoption(rounds)]),
        _ => unreachable!("the driver asked for {op}"),
    }
}

fn timed(rounds: usize, mut round: impl FnMut() -> Result<(), Error>) -> Result<Vec<u64>, Error> {
    (0..rounds).map(|_| nanoseconds(&mut round)).collect()
}

fn nanoseconds(run: impl FnOnce() -> Result<(), Error>) -> Result<u64, Error> {
    let start = Instant::now();
    run()?;
    Ok(start.elapsed().as_nanos() as u64)
}

fn joined(thread: std::thread::JoinHandle<()>) -> Result<(), Error> {
    thread.join().expect("the thread does not panic");
    Ok(())
}

/// Registration alone, each time in a new thread.
fn timed_adoptions(rounds: usize) -> Result<Vec<u64>, Error> {
    let adoption = || nanoseconds(thread::adopt);
    (0..rounds).map(|_| std::thread::spawn(adoption).join().expect("no panic")).collect()
}

/// What the allocator has given out more once `threads` plain threads have registered.
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

/// What the process has already, so that asking for it again changes nothing.
struct Credentials {
    uid: uid_t,
    gid: gid_t,
    groups: Vec<gid_t>,
    header: [u32; 2],
    capabilities: [u32; 6],
}

impl Credentials {
    fn of_this_process() -> io::Result<Self> {
        const CAPABILITY_VERSION_3: u32 = 0x2008_0522;
        let mut groups = vec![0; 65536];
        // SAFETY: the buffer has the length that is passed.
        let count = unsafe { libc::getgroups(groups.len() as i32, groups.as_mut_ptr()) };
        groups.truncate(usize::try_from(count).map_err(|_| io::Error::last_os_error())?);
        let mut now = Self {
            // SAFETY: reads one number.
            uid: unsafe { libc::getuid() },
            // SAFETY: the same.
            gid: unsafe { libc::getgid() },
            groups,
            header: [CAPABILITY_VERSION_3, 0],
            capabilities: [0; 6],
        };
        let (header, data) = (now.header.as_mut_ptr(), now.capabilities.as_mut_ptr());
        // SAFETY: version 3 reads a header of two words and writes six.
        match unsafe { libc::syscall(libc::SYS_capget, header, data) } {
            0 => Ok(now),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn uid_alone(&self) -> Result<Report, Error> {
        let uid = self.uid as usize;
        // SAFETY: asks for the ids that every thread has.
        unsafe { Broadcast::new().syscall(libc::SYS_setresuid, [uid, uid, uid, 0, 0, 0]) }
    }

    fn ids(&self) -> Result<Report, Error> {
        // SAFETY: `raw` makes bare system calls, which ask for what every thread has.
        unsafe { Broadcast::new().run(|| self.make_id_calls()) }
    }

    fn six(&self) -> Result<Report, Error> {
        let capabilities = [self.header.as_ptr() as usize, self.capabilities.as_ptr() as usize, 0];
        let step = || {
            raw(libc::SYS_prctl, [libc::PR_SET_KEEPCAPS as usize, 1, 0])?;
            self.make_id_calls()?;
            raw(libc::SYS_capset, capabilities)?;
            raw(libc::SYS_prctl, [libc::PR_SET_NO_NEW_PRIVS as usize, 1, 0])
        };
        // SAFETY: as above.
        unsafe { Broadcast::new().run(step) }
    }

    fn make_id_calls(&self) -> Result<usize, Errno> {
        let (uid, gid) = (self.uid as usize, self.gid as usize);
        raw(libc::SYS_setgroups, [self.groups.len(), self.groups.as_ptr() as usize, 0])?;
        raw(libc::SYS_setresgid, [gid, gid, gid])?;
        raw(libc::SYS_setresuid, [uid, uid, uid])
    }
}

fn raw(number: c_long, args: [usize; 3]) -> Result<usize, Errno> {
    // SAFETY: the callers pass pointers that outlive the call, and ask for what is so already.
    // The fourth and fifth arguments have to be zero for PR_SET_NO_NEW_PRIVS.
    let value = unsafe { libc::syscall(number, args[0], args[1], args[2], 0usize, 0usize) };
    if value < 0 {
        // SAFETY: errno belongs to this thread.
        return Err(Errno::from_raw(unsafe { *libc::__errno_location() }));
    }
    Ok(value as usize)
}
