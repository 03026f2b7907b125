//! docs/signal-safety.md lists the system calls that psx makes, for programs behind a filter: here a
//! filter allows only those.

use std::collections::BTreeSet;
use std::ffi::{c_int, c_long, c_void};
use std::sync::mpsc;
use std::thread as std_thread;
use std::time::Duration;

use psx::{Broadcast, CapabilitySets, Divergence, Error, Privileges, thread};
use psx_test_support::process::{exit_now, fork, wait};
use psx_test_support::raw::{limit, set_limit};
use psx_test_support::seccomp::{self, ALLOW, give};
use psx_test_support::signal::{handle, set_mask};
use psx_test_support::threads::{idle, start_idlers, start_unregistered, tid};
use psx_test_support::{Case, Child, Ending, root};

use crate::kernel::{STRICT, broadcast_slack};

const PAGE: &str = include_str!("../../../docs/signal-safety.md");

const SHORT: Duration = Duration::from_millis(300);

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("syscalls::of_the_first_registration", |_| {
            allow_only(&["memory", "the first registration", "each registration"]);
            end(thread::adopt().is_ok());
        })
        .check(ends_well),
        Case::new("syscalls::of_a_later_registration", |_| {
            thread::adopt().unwrap();
            let (go, goes) = mpsc::channel();
            let (send, ready) = mpsc::channel();
            let later = std_thread::spawn(move || {
                send.send(()).unwrap();
                goes.recv().unwrap();
                end(thread::adopt().is_ok());
            });
            ready.recv().unwrap();
            allow_only(&["memory", "each registration", "a round"]);
            go.send(()).unwrap();
            later.join().unwrap();
        })
        .check(ends_well),
        Case::new("syscalls::of_a_round", |_| {
            idlers(3);
            allow_only(&["memory", "a round"]);
            let all = (2..100).all(|ns| broadcast_slack(STRICT, ns) == Ok(4));
            // SAFETY: does nothing.
            let closure = unsafe { STRICT.run(|| Ok(7)) };
            end(all && closure.is_ok_and(|report| report.threads() == 4));
        })
        .check(ends_well),
        Case::new("syscalls::of_a_round_that_misses_a_thread", |_| {
            idlers(2);
            start_unregistered("foreign", || ());
            allow_only(&["memory", "a round", MISSED]);
            let missed = broadcast_slack(STRICT, 1);
            end(matches!(missed, Err(Error::Uncovered(threads)) if threads.len() == 1));
        })
        .check(ends_well),
        Case::new("syscalls::of_a_round_that_is_late", |_| {
            idlers(2);
            let (send, ready) = mpsc::channel();
            thread::spawn(move || {
                set_mask(!0);
                send.send(tid()).unwrap();
                idle()
            });
            ready.recv().unwrap();
            allow_only(&["memory", "a round", MISSED]);
            let late = broadcast_slack(STRICT.timeout(SHORT), 1);
            end(matches!(late, Err(Error::Unreachable(threads)) if threads.len() == 1));
        })
        .check(ends_well),
        Case::new("syscalls::of_a_full_signal_queue", |_| {
            idlers(2);
            set_limit(libc::RLIMIT_SIGPENDING, [0, limit(libc::RLIMIT_SIGPENDING)[1]]);
            allow_only(&["memory", "a round", FULL]);
            end(broadcast_slack(STRICT, 1) == Ok(3));
        })
        .check(ends_well),
        Case::new("syscalls::of_a_threads_end", |_| {
            let (go, goes) = mpsc::channel();
            let ends = thread::spawn(move || goes.recv().unwrap());
            idlers(1);
            // The libc's and std's calls, and the end of the last round's handler.
            let others = [
                libc::SYS_rt_sigreturn,
                libc::SYS_exit,
                libc::SYS_madvise,
                libc::SYS_munmap,
                libc::SYS_rt_sigprocmask,
                libc::SYS_sigaltstack,
            ];
            allow_only_with(&["memory", "a thread's end"], &others);
            go.send(()).unwrap();
            end(ends.join().is_ok());
        })
        .check(ends_well),
        Case::new("syscalls::of_a_fork", |_| {
            idlers(2);
            let others = [libc::SYS_clone, libc::SYS_set_robust_list, libc::SYS_wait4];
            allow_only_with(&["memory", "a fork", "a round"], &others);
            let status = wait(fork(|| end(broadcast_slack(STRICT, 2) == Ok(1))));
            end(status.success() && broadcast_slack(STRICT, 3) == Ok(3));
        })
        .check(ends_well),
        Case::new("syscalls::of_a_batch", |_| {
            idlers(2);
            let steps =
                [libc::SYS_setgroups, libc::SYS_setresgid, libc::SYS_setresuid, libc::SYS_capset];
            allow_only_with(&["memory", "`Privileges`, before the round", "a round"], &steps);
            let batch = Privileges::new().groups(&[]).gid(65534).uid(65534).no_new_privs();
            end(batch.capabilities(CapabilitySets::empty()).apply().is_ok());
        })
        .needs(root)
        .check(ends_well),
        Case::new("syscalls::of_threads_and_verify", |_| {
            idlers(2);
            // The end of the last round's handler.
            let others = [libc::SYS_rt_sigreturn];
            allow_only_with(&["memory", "`psx::threads` and `verify`"], &others);
            let threads = psx::threads().is_ok_and(|threads| threads.len() == 3);
            end(threads && Privileges::new().no_new_privs().verify().is_ok());
        })
        .check(ends_well),
        Case::new("syscalls::of_the_end_of_the_process", |_| {
            idlers(2);
            allow_only(&["memory", "a round", "the end of the process"]);
            let strict = Broadcast::new().divergence(Divergence::Abort);
            // SAFETY: reads a number.
            let _ = unsafe { strict.syscall(libc::SYS_gettid, [0; 6]) };
            end(false);
        })
        .check(|child| {
            let (ending, output) = (child.end(), child.output());
            assert_eq!(ending, Ending::Killed(libc::SIGABRT), "{output}");
            assert!(output.contains("psx: fatal: "), "{output}");
        }),
    ]
}

const MISSED: &str = "a round that misses a thread, or is late";
const FULL: &str = "a full signal queue";

fn ends_well(child: &mut Child) {
    assert_eq!(child.end(), Ending::Exited(0), "{}", child.output());
}

/// Threads that wait, and have started completely: a round has reached them.
fn idlers(count: usize) {
    start_idlers(count);
    broadcast_slack(STRICT, 1).unwrap();
}

/// Ends the process without exit handlers.
fn end(well: bool) -> ! {
    exit_now(if well { 0 } else { 2 })
}

/// From now on every thread may make only the system calls in these rows of the page, `prctl` for the
/// calls that are broadcast here, and those that end the process. Any other is printed on standard error,
/// and ends the process.
fn allow_only(rows: &[&str]) {
    allow_only_with(rows, &[]);
}

/// The same, and calls that psx does not make.
fn allow_only_with(rows: &[&str], others: &[c_long]) {
    let mut allowed = BTreeSet::from([libc::SYS_exit_group, libc::SYS_write, libc::SYS_prctl]);
    allowed.extend(others);
    for row in rows {
        allowed.extend(listed(row).iter().map(|name| number(name)));
    }
    handle(libc::SIGSYS, 0, print_refused);
    seccomp::no_new_privs();
    let trap = give(libc::SECCOMP_RET_TRAP);
    seccomp::install_on_all(&seccomp::filter(allowed, ALLOW, trap));
}

extern "C" fn print_refused(_: c_int, info: *mut libc::siginfo_t, _: *mut c_void) {
    // SAFETY: the kernel's information, 128 bytes; the call's number is its seventh word.
    let mut nr = unsafe { info.cast::<u32>().add(6).read() };
    let mut text = *b"refused: system call 000, which docs/signal-safety.md does not list here\n";
    for digit in text[21..24].iter_mut().rev() {
        *digit = b'0' + (nr % 10) as u8;
        nr /= 10;
    }
    // SAFETY: bytes that outlive the call.
    unsafe { libc::write(2, text.as_ptr().cast(), text.len()) };
    end(false)
}

/// The system calls in a row of the page's table.
fn listed(row: &str) -> Vec<&'static str> {
    let begin = format!("| {row} | ");
    let line = PAGE.lines().find_map(|line| line.strip_prefix(&begin));
    let cell = line.unwrap_or_else(|| panic!("no row {row:?}")).split(" | ").next();
    cell.expect("a cell").split('`').skip(1).step_by(2).collect()
}

fn number(name: &str) -> c_long {
    match name {
        "capget" => libc::SYS_capget,
        "getgroups" => libc::SYS_getgroups,
        "getresgid" => libc::SYS_getresgid,
        "getresuid" => libc::SYS_getresuid,
        "brk" => libc::SYS_brk,
        "clock_gettime" => libc::SYS_clock_gettime,
        "close" => libc::SYS_close,
        "fcntl" => libc::SYS_fcntl,
        "fstat" => libc::SYS_fstat,
        "fstatfs" => libc::SYS_fstatfs,
        "futex" => libc::SYS_futex,
        "getdents64" => libc::SYS_getdents64,
        "getpid" => libc::SYS_getpid,
        "gettid" => libc::SYS_gettid,
        "lseek" => libc::SYS_lseek,
        "madvise" => libc::SYS_madvise,
        "mmap" => libc::SYS_mmap,
        "mprotect" => libc::SYS_mprotect,
        "munmap" => libc::SYS_munmap,
        "nanosleep" => libc::SYS_nanosleep,
        "newfstatat" => libc::SYS_newfstatat,
        "openat" => libc::SYS_openat,
        "openat2" => libc::SYS_openat2,
        "ppoll" => libc::SYS_ppoll,
        "prctl" => libc::SYS_prctl,
        "pread64" => libc::SYS_pread64,
        "prlimit64" => libc::SYS_prlimit64,
        "read" => libc::SYS_read,
        "rt_sigaction" => libc::SYS_rt_sigaction,
        "rt_sigprocmask" => libc::SYS_rt_sigprocmask,
        "rt_sigreturn" => libc::SYS_rt_sigreturn,
        "rt_tgsigqueueinfo" => libc::SYS_rt_tgsigqueueinfo,
        "sched_getaffinity" => libc::SYS_sched_getaffinity,
        "sched_yield" => libc::SYS_sched_yield,
        "sigaltstack" => libc::SYS_sigaltstack,
        "statx" => libc::SYS_statx,
        "tgkill" => libc::SYS_tgkill,
        "write" => libc::SYS_write,
        "exit_group" => libc::SYS_exit_group,
        _ => panic!("{name} is not in this test's list of numbers"),
    }
}
