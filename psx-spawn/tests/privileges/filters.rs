//! Random programs as seccomp filters: psx refuses those that the kernel refuses, and no others.
//!
//! `PSX_FILTERS=FIRST,COUNT cargo test -p psx-spawn --test privileges -- filters` tries other seeds.

use libc::sock_filter;
use psx::Privileges;
use psx::privileges::{ApplyError, Cause, Precondition, Step};
use psx_test_support::process::fork_and_wait;
use psx_test_support::{Case, Line, Random, seccomp};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("filters::psx_and_the_kernel_agree", agree)
            .limit(std::time::Duration::from_secs(3600)),
    ]
}

/// The exit status of a process whose program was refused; otherwise it was installed.
const REFUSED: i32 = 22;

fn agree(_: &Line) {
    for program in EDGES {
        let program: Vec<_> =
            program.iter().map(|&(code, jt, jf, k)| at(code, jt, jf, k)).collect();
        let by_kernel = is_refused_in_a_child(&program, install);
        assert_eq!(is_refused_in_a_child(&program, apply), by_kernel, "{program:#x?}");
    }
    let (first, count) = Random::seeds("PSX_FILTERS", 500);
    let mut refused = 0;
    for seed in first..first + count {
        let program = random_program(&mut Random::new(seed));
        let by_kernel = is_refused_in_a_child(&program, install);
        assert_eq!(is_refused_in_a_child(&program, apply), by_kernel, "seed {seed}: {program:#x?}");
        refused += u64::from(by_kernel);
    }
    println!("{refused} of {count} refused");
    assert!((count / 10..count - count / 10).contains(&refused), "{refused} of {count} refused");
}

fn is_refused_in_a_child(program: &[sock_filter], install: fn(&[sock_filter]) -> bool) -> bool {
    // A filter may refuse the child its exit: then a signal ends it.
    let status = fork_and_wait(|| if install(program) { 0 } else { REFUSED });
    status.code() == Some(REFUSED)
}

fn install(program: &[sock_filter]) -> bool {
    seccomp::no_new_privs();
    seccomp::try_install(program, 0).is_ok()
}

/// What passes psx's check must pass the kernel's.
fn apply(program: &[sock_filter]) -> bool {
    match Privileges::new().no_new_privs().seccomp(program).apply() {
        Ok(_) => true,
        Err(ApplyError::Step(error)) => {
            let unmet = Cause::Precondition(Precondition::FilterInstruction { index: 0 });
            let is_same = std::mem::discriminant(error.cause()) == std::mem::discriminant(&unmet);
            assert!(is_same && error.failed() == Step::Seccomp, "partial: {error}");
            false
        }
        Err(error) => panic!("{error}"),
    }
}

fn at(code: u16, jt: u8, jf: u8, k: u32) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

/// Instructions as code, two jumps and value.
type Program = &'static [(u16, u8, u8, u32)];

/// Each rule at its limit, and just beyond it: random programs seldom have these.
const EDGES: [Program; 18] = [
    &[(0x34, 0, 0, 0), END],                                   // divided by 0
    &[(0x34, 0, 0, 1), END],                                   // by 1
    &[(0x05, 0, 0, 1), END],                                   // a jump past the end
    &[(0x05, 0, 0, 0), END],                                   // to the end
    &[(0x05, 0, 0, u32::MAX), END],                            // back
    &[(0x15, 1, 0, 0), END],                                   // a branch past the end
    &[(0x15, 0, 1, 0), END],                                   // the other one
    &[(0x64, 0, 0, 31), END],                                  // shifted by 31
    &[(0x74, 0, 0, 32), END],                                  // by 32
    &[(0x20, 0, 0, 60), END],                                  // the last word of the data
    &[(0x20, 0, 0, 64), END],                                  // beyond it
    &[(0x02, 0, 0, 15), (0x60, 0, 0, 15), END],                // the last word of memory
    &[(0x02, 0, 0, 16), END],                                  // beyond it
    &[(0x60, 0, 0, 0), END],                                   // not stored
    &[(0x05, 0, 0, 1), (0x60, 0, 0, 0), END],                  // not stored, but never reached
    &[(0x15, 0, 1, 0), (0x02, 0, 0, 0), (0x60, 0, 0, 0), END], // stored on one way of two
    &[(0x02, 0, 0, 0), (0x15, 0, 0, 0), (0x61, 0, 0, 0), END], // on both
    &[(0x20, 0, 0, 0)],                                        // without an end
];

const END: (u16, u8, u8, u32) = (0x06, 0, 0, libc::SECCOMP_RET_ALLOW);

fn random_program(random: &mut Random) -> Vec<sock_filter> {
    /// Codes that filters may have, and then some that only other programs may have.
    const CODES: [u16; 48] = [
        0x20, 0x20, 0x80, 0x81, 0x00, 0x01, 0x60, 0x61, 0x02, 0x03, 0x60, 0x61, 0x02, 0x03, 0x04,
        0x0c, 0x14, 0x24, 0x34, 0x3c, 0x44, 0x5c, 0x64, 0x6c, 0x74, 0x84, 0xa4, 0xac, 0x07, 0x87,
        0x05, 0x05, 0x15, 0x1d, 0x25, 0x35, 0x45, 0x4d, 0x15, 0x06, 0x16, // other programs:
        0x94, 0x9c, 0x28, 0x30, 0x40, 0xb1, 0x8c,
    ];
    let mut program: Vec<_> = (0..random.below(6))
        .map(|_| sock_filter {
            code: if random.one_in(30) { random.below(512) as u16 } else { random.of(&CODES) },
            jt: random.of(&[0, 0, 0, 1, 1, 2, 5]),
            jf: random.of(&[0, 0, 0, 1, 1, 2, 5]),
            k: random.of(&[0, 0, 1, 1, 2, 3, 4, 4, 8, 15, 16, 31, 32, 60, 62, 64]),
        })
        .collect();
    if !random.one_in(10) {
        let code = random.of(&[0x06, 0x06, 0x16]);
        program.push(sock_filter { code, jt: 0, jf: 0, k: libc::SECCOMP_RET_ALLOW });
    }
    if program.is_empty() {
        program.push(sock_filter { code: 0x06, jt: 0, jf: 0, k: libc::SECCOMP_RET_ALLOW });
    }
    program
}
