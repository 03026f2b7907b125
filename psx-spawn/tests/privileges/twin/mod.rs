//! Random batches on random states, compared with a twin (P8): a process in the same state that makes the
//! bare system calls. A batch takes effect exactly if all of the twin's calls do, with the same result;
//! otherwise it is refused before anything has changed.
//!
//! `PSX_TWIN=FIRST,COUNT cargo test -p psx-spawn --test privileges -- twin` tries other seeds.

mod batch;

use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write as _};
use std::os::fd::AsRawFd;
use std::time::Duration;

use batch::Batch;

use psx_test_support::process::{fork, wait};
use psx_test_support::raw::{must, pipe};
use psx_test_support::{Case, Line, Random, procfs};

use crate::kernel::{parent_death_signal, prctl};
use crate::random;
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
        let report =
            || format!("seed {seed}: {batch}\nfrom {before}\npsx {outcome}, twin {twin_outcome}");
        match outcome {
            "applied" => {
                assert_eq!((twin_outcome, after), ("applied", twin_after), "{}", report());
                applied += 1;
            }
            "refused by psx's own rule" => assert_eq!(before, after, "{}", report()),
            _ => {
                assert!(outcome.starts_with("refused"), "{}", report());
                assert_ne!(twin_outcome, "applied", "{}", report());
                assert_eq!(before, after, "{}", report());
                refused += 1;
            }
        }
    }
    println!("{applied} applied, {refused} refused");
    assert!(applied > count / 10 && refused > count / 10, "{applied} applied, {refused} refused");
}

/// In a process of this seed: the state before the batch, the batch, its outcome, the state after.
fn run(seed: u64, make: fn(&Batch) -> String) -> [String; 4] {
    let mut random = Random::new(seed);
    let namespace = random.below(5);
    let [(unshared, unshares), (mapped, maps), (received, sends)] = [(); 3].map(|()| pipe());
    let pid = fork(|| {
        // Ends that this process has inherited too.
        for end in [&unshared, &maps, &received] {
            must(libc::SYS_close, [end.as_raw_fd() as usize, 0, 0, 0, 0, 0]);
        }
        if namespace >= 2 {
            must(libc::SYS_unshare, [libc::CLONE_NEWUSER as usize, 0, 0, 0, 0, 0]);
        }
        must(libc::SYS_close, [unshares.as_raw_fd() as usize, 0, 0, 0, 0, 0]);
        // Until the other end is closed.
        let _ = (&mapped).read(&mut [0]);
        random::state(&mut random);
        let batch = Batch::random(&mut random);
        let before = state();
        let outcome = make(&batch);
        let lines = [before, format!("{batch:?}"), outcome, state()].join("\n");
        (&sends).write_all(lines.as_bytes()).unwrap();
        0
    });
    drop((unshares, mapped, sends));
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
    { received }.read_to_string(&mut text).unwrap();
    wait(pid);
    let lines: Vec<_> = text.lines().map(str::to_owned).collect();
    lines.try_into().unwrap_or_else(|_| panic!("seed {seed} has sent too little"))
}

/// All that a batch may change, in one line.
fn state() -> String {
    let task = procfs::this_task();
    let fields = "Uid Gid Groups CapInh CapPrm CapEff CapBnd CapAmb NoNewPrivs Seccomp";
    let mut text = String::new();
    for field in fields.split(' ') {
        write!(text, "{field}: {} ", task.field(field)).unwrap();
    }
    let [bits, dumpable] = [libc::PR_GET_SECUREBITS, libc::PR_GET_DUMPABLE].map(prctl);
    write!(text, "bits {bits:#x} dumpable {dumpable} death {}", parent_death_signal()).unwrap();
    text
}
