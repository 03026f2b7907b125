//! Random batches on random states, against a twin: a process in the same state that makes the bare
//! system calls. A batch takes effect exactly if all of the twin's calls do, with the same result, and
//! is refused before anything has changed otherwise.
//!
//! `PSX_TWIN=FIRST,COUNT cargo test -p psx-spawn --test privileges -- twin` tries other seeds.

mod batch;

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read, Write as _};
use std::os::fd::FromRawFd;
use std::time::Duration;
use std::{process, ptr};

use batch::Batch;

use crate::kernel::{parent_death_signal, prctl};
use crate::random::Random;
use crate::support::{Case, Line};
use crate::user_namespace::user_namespaces;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("twin::batches_and_bare_calls_agree", agree)
            .needs(user_namespaces)
            .limit(Duration::from_secs(3600)),
    ]
}

fn agree(_: &Line) {
    let (first, count) = Random::seeds("PSX_TWIN", 500);
    let [mut applied, mut refused] = [0; 2];
    for seed in first..first + count {
        let by_psx = run(seed, Batch::apply);
        let twin = run(seed, Batch::make_bare_calls);
        let [before, batch, outcome, after] = by_psx.each_ref().map(String::as_str);
        let [twin_before, twin_batch, twin_outcome, twin_after] =
            twin.each_ref().map(String::as_str);
        assert_eq!((before, batch), (twin_before, twin_batch), "seed {seed}");
        let story =
            || format!("seed {seed}: {batch}\nfrom {before}\npsx {outcome}, twin {twin_outcome}");
        match outcome {
            "applied" => {
                assert_eq!((twin_outcome, after), ("applied", twin_after), "{}", story());
                applied += 1;
            }
            "refused by psx's own rule" => assert_eq!(before, after, "{}", story()),
            _ => {
                assert!(outcome.starts_with("refused"), "{}", story());
                assert_ne!(twin_outcome, "applied", "{}", story());
                assert_eq!(before, after, "{}", story());
                refused += 1;
            }
        }
    }
    println!("{applied} applied, {refused} refused");
    assert!(applied > count / 10 && refused > count / 10, "{applied} applied, {refused} refused");
}

/// In a process of this seed: its state before the batch, the batch, its outcome, the state after.
fn run(seed: u64, make: fn(&Batch) -> String) -> [String; 4] {
    let mut random = Random::new(seed);
    let namespace = random.below(5);
    let [(unshared, unshares), (mapped, maps), (told, tells)] = [(); 3].map(|()| pipe());
    // SAFETY: this process has one thread.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        drop((unshared, maps, told));
        if namespace >= 2 {
            // SAFETY: a flag.
            assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWUSER) }, 0);
        }
        drop(unshares);
        // Until the other end is dropped.
        let _ = { mapped }.read(&mut [0]);
        random.state();
        let batch = Batch::random(&mut random);
        let before = state();
        let outcome = make(&batch);
        let lines = [before, format!("{batch:?}"), outcome, state()].join("\n");
        { tells }.write_all(lines.as_bytes()).unwrap();
        process::exit(0);
    }
    drop((unshares, mapped, tells));
    let _ = { unshared }.read(&mut [0]);
    let map = |file, text| fs::write(format!("/proc/{pid}/{file}"), text).unwrap();
    if namespace == 2 {
        map("setgroups", "deny");
    }
    if namespace >= 2 {
        map("uid_map", "0 0 10");
    }
    match namespace {
        2 => map("gid_map", "0 0 10"),
        3 => map("gid_map", "0 0 6\n9 9 1"),
        _ => {}
    }
    drop(maps);
    let mut text = String::new();
    { told }.read_to_string(&mut text).unwrap();
    // SAFETY: the child's status is not wanted.
    unsafe { libc::waitpid(pid, ptr::null_mut(), 0) };
    let lines: Vec<_> = text.lines().map(str::to_owned).collect();
    lines.try_into().unwrap_or_else(|_| panic!("seed {seed} has not told all"))
}

/// All that a batch may change, in one line.
fn state() -> String {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap();
    let mut text = String::new();
    for field in [
        "Uid",
        "Gid",
        "Groups",
        "CapInh",
        "CapPrm",
        "CapEff",
        "CapBnd",
        "CapAmb",
        "NoNewPrivs",
        "Seccomp",
    ] {
        let line = status.lines().find(|line| line.split(':').next() == Some(field)).unwrap();
        write!(text, "{} ", line.split_whitespace().collect::<Vec<_>>().join(" ")).unwrap();
    }
    let [bits, dumpable] = [libc::PR_GET_SECUREBITS, libc::PR_GET_DUMPABLE].map(prctl);
    write!(text, "bits {bits:#x} dumpable {dumpable} death {}", parent_death_signal()).unwrap();
    text
}

fn pipe() -> (File, File) {
    let mut ends = [0; 2];
    // SAFETY: the kernel writes two descriptors, which nothing else owns.
    unsafe {
        assert_eq!(
            libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC),
            0,
            "{}",
            io::Error::last_os_error()
        );
        (File::from_raw_fd(ends[0]), File::from_raw_fd(ends[1]))
    }
}
