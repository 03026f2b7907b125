//! Signals that the kernel raises for what a thread does: a system call that a seccomp filter traps, a memory
//! fault. The program handles them, as seccomp brokers and runtimes do (P4, P7, P10).

use std::ffi::{CStr, CString, c_int, c_void};
use std::ptr::{self, NonNull};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use libc::{siginfo_t, sock_filter, ucontext_t};
use psx::Broadcast;
use psx_test_support::process::exit_now;
use psx_test_support::raw::must;
use psx_test_support::seccomp::{self, ALLOW, deny, give, if_equal, load, skip_unless};
use psx_test_support::signal::handle;

use crate::context::Context;
use crate::oracle::Mark;
use crate::raw;
use crate::refused::adoption_fails;
use crate::row::Expected::{Clean, Ok};
use crate::row::Row;
use crate::threads::start_named_raw_thread;

pub(crate) const ROWS: &[Row] = &[
    Row::new(
        "trap-call",
        "a SIGSYS broker emulates the call that is broadcast",
        &[Ok],
        |context| {
            behind_broker(context, &[libc::SYS_setresuid, libc::SYS_prctl, libc::SYS_seccomp])
        },
    ),
    Row::new("trap-round", "the same for the calls that a round makes", &[Ok], |context| {
        behind_broker(
            context,
            &[
                libc::SYS_futex,
                libc::SYS_sched_yield,
                libc::SYS_rt_tgsigqueueinfo,
                libc::SYS_rt_sigaction,
                libc::SYS_gettid,
            ],
        );
    }),
    Row::new(
        "trap-refuses-gettid",
        "a SIGSYS broker that refuses gettid",
        &[Clean("RegistrationFailed", "")],
        |context| behind_refusal(context, libc::SYS_gettid),
    ),
    Row::new("trap-refuses-getpid", "one that refuses getpid; a thread adopts", &[Ok], |context| {
        behind_refusal(context, libc::SYS_getpid);
    }),
    Row::new(
        "trap-refuses-mask",
        "one that refuses rt_sigprocmask; a thread adopts",
        &[Clean("Handler", "rt_sigprocmask")],
        |context| behind_refusal(context, libc::SYS_rt_sigprocmask),
    ),
    Row::new(
        "trap-refuses-action",
        "one that refuses rt_sigaction",
        &[Clean("Handler", "rt_sigaction")],
        |context| behind_refusal(context, libc::SYS_rt_sigaction),
    ),
    Row::new(
        "trap-names",
        "the same for those that name threads, and a raw clone thread",
        &[Clean("Uncovered", "raw-clone")],
        |context| {
            start_broker();
            seccomp::no_new_privs();
            let _probes = context.probes();
            start_named_raw_thread();
            trap_on_all(&[
                libc::SYS_openat,
                libc::SYS_openat2,
                libc::SYS_pread64,
                libc::SYS_fstatfs,
                libc::SYS_read,
                libc::SYS_close,
                libc::SYS_getdents64,
                libc::SYS_lseek,
                libc::SYS_fstat,
                libc::SYS_newfstatat,
                libc::SYS_nanosleep,
            ]);
            context.change_soon();
            assert!(EMULATED.load(Ordering::Relaxed) > 0, "no call was emulated");
        },
    ),
    Row::new(
        "trap-open-elsewhere",
        "a broker's process opens files, before the first use: Require, Registered",
        &[Clean("ThreadCountUnavailable", "Registered"), Ok],
        |context| {
            open_in_parent(&FILES_OF_SELF);
            let _probes = context.probes();
            context.change_soon();
            context.change_registered();
        },
    ),
    Row::new(
        "trap-open-elsewhere-stat",
        "the same of /proc/self/stat alone, whose process has other threads",
        &[Clean("ThreadCountUnavailable", "Registered"), Ok],
        |context| {
            open_in_parent(&["self/stat"]);
            let _probes = context.probes();
            context.change_soon();
            context.change_registered();
        },
    ),
    Row::new(
        "trap-stat-refused",
        "a broker that opens every file but /proc/self/stat",
        &[Ok],
        |context| {
            open_in("no-folder", &["self/stat"]);
            assert!(std::fs::File::open("/proc/self/status").is_ok());
            let _probes = context.probes();
            context.change();
        },
    ),
    Row::new(
        "trap-stat-refused-foreign",
        "the same, and a raw clone thread",
        &[Clean("Uncovered", "raw-clone")],
        |context| {
            open_in("no-folder", &["self/stat"]);
            let _probes = context.probes();
            start_named_raw_thread();
            context.change_soon();
        },
    ),
    Row::new(
        "trap-open-elsewhere-later",
        "the same after the first use, and a raw clone thread",
        &[Clean("Uncovered", "1 thread that cannot be named")],
        |context| {
            context.adopt();
            open_in_parent(&FILES_OF_SELF);
            let _probes = context.probes();
            raw::start_raw_thread();
            context.change_soon();
        },
    ),
    // The same calls without openat2's RESOLVE flags.
    Row::new(
        "no-openat2",
        "openat2 answered with EPERM, and a raw clone thread",
        &[Clean("Uncovered", "raw-clone")],
        |context| {
            seccomp::no_new_privs();
            seccomp::install(&deny(&[libc::SYS_openat2]));
            let _probes = context.probes();
            start_named_raw_thread();
            context.change_soon();
        },
    ),
    Row::new(
        "fault-in-closure",
        "a guard page in the closure of a broadcast, opened by SIGSEGV's handler",
        &[Ok],
        fault_in_closure,
    ),
];

// The system call instruction that filters allow, with the arguments of `syscall(2)`.
#[cfg(target_arch = "x86_64")]
std::arch::global_asm!(
    ".globl faults_broker_call",
    "faults_broker_call:",
    "mov rax, rdi",
    "mov rdi, rsi",
    "mov rsi, rdx",
    "mov rdx, rcx",
    "mov r10, r8",
    "mov r8, r9",
    "mov r9, [rsp + 8]",
    "syscall",
    ".globl faults_broker_return",
    "faults_broker_return:",
    "ret",
);
#[cfg(target_arch = "aarch64")]
std::arch::global_asm!(
    ".globl faults_broker_call",
    "faults_broker_call:",
    "mov x8, x0",
    "mov x0, x1",
    "mov x1, x2",
    "mov x2, x3",
    "mov x3, x4",
    "mov x4, x5",
    "mov x5, x6",
    "svc 0",
    ".globl faults_broker_return",
    "faults_broker_return:",
    "ret",
);

unsafe extern "C" {
    fn faults_broker_call(
        nr: usize,
        a: usize,
        b: usize,
        c: usize,
        d: usize,
        e: usize,
        f: usize,
    ) -> usize;
    fn faults_broker_return();
}

static EMULATED: AtomicUsize = AtomicUsize::new(0);

/// The system call that the broker refuses; no call has the initial number.
static REFUSED: AtomicUsize = AtomicUsize::new(usize::MAX);

/// The result that the interrupted code gets for its system call.
fn answer([nr, a, b, c, d, e, f]: [usize; 7]) -> usize {
    if nr == REFUSED.load(Ordering::Relaxed) {
        return -libc::EPERM as usize;
    }
    let b = path_for_broker(nr, b);
    // SAFETY: the call is the one that the interrupted code has asked for.
    unsafe { faults_broker_call(nr, a, b, c, d, e, f) }
}

/// Makes the trapped call and passes its result to the interrupted code.
extern "C" fn emulate(_: c_int, _: *mut siginfo_t, context: *mut c_void) {
    let context = context.cast::<ucontext_t>();
    EMULATED.fetch_add(1, Ordering::Relaxed);
    // SAFETY: the kernel passes a ucontext_t to a handler with SA_SIGINFO.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        {
            let registers = &mut (*context).uc_mcontext.gregs;
            let call = [
                libc::REG_RAX,
                libc::REG_RDI,
                libc::REG_RSI,
                libc::REG_RDX,
                libc::REG_R10,
                libc::REG_R8,
                libc::REG_R9,
            ]
            .map(|register| registers[register as usize] as usize);
            registers[libc::REG_RAX as usize] = answer(call) as i64;
        }
        #[cfg(target_arch = "aarch64")]
        {
            let registers = &mut (*context).uc_mcontext.regs;
            let [a, b, c, d, e, f, _, _, nr, ..] = registers.map(|register| register as usize);
            registers[0] = answer([nr, a, b, c, d, e, f]) as u64;
        }
    }
}

/// What psx opens in its own process.
const FILES_OF_SELF: [&str; 3] = ["self/status", "self/stat", "self/task"];

/// The files that the broker opens elsewhere, and their paths there.
static ELSEWHERE: OnceLock<Vec<(&str, CString)>> = OnceLock::new();

/// From now on a broker opens files, as Chromium's does: another process opens them, whose `/proc/self` is
/// another one. (Here the handler opens them, in the other process's folder.)
fn open_in_parent(files: &[&'static str]) {
    open_in(&std::os::unix::process::parent_id().to_string(), files);
}

/// From now on a broker opens these files of `/proc/self` in that folder of `/proc`.
fn open_in(folder: &str, files: &[&'static str]) {
    let path = |file: &str| CString::new(file.replace("self", &format!("/proc/{folder}")));
    let paths = files.iter().map(|&file| (file, path(file).expect("a path"))).collect();
    ELSEWHERE.set(paths).expect("the first broker");
    start_broker();
    seccomp::no_new_privs();
    // The broker does not handle openat2.
    seccomp::install(&deny(&[libc::SYS_openat2]));
    seccomp::install(&trap(&[libc::SYS_openat]));
}

/// The path that the broker passes to a call.
fn path_for_broker(nr: usize, path: usize) -> usize {
    let is_open = nr as i64 == libc::SYS_openat;
    let Some(files) = ELSEWHERE.get().filter(|_| is_open) else { return path };
    // SAFETY: the path of a call that the program makes.
    let asked = unsafe { CStr::from_ptr(ptr::with_exposed_provenance(path)) };
    let file = files.iter().find(|(file, _)| file.as_bytes() == asked.to_bytes());
    file.map_or(path, |(_, elsewhere)| elsewhere.as_ptr().expose_provenance())
}

fn start_broker() {
    handle(libc::SIGSYS, libc::SA_ONSTACK, emulate);
}

/// A filter that traps `calls`, unless they come from the broker's own instruction.
fn trap(calls: &[i64]) -> Vec<sock_filter> {
    let trap = give(libc::SECCOMP_RET_TRAP);
    let broker = faults_broker_return as *const () as u64;
    // The instruction pointer, eight bytes into seccomp_data, in halves.
    let mut filter = vec![
        load(8),
        skip_unless(broker as u32, 3),
        load(12),
        if_equal((broker >> 32) as u32),
        ALLOW,
    ];
    filter.extend(seccomp::filter(calls.iter().copied(), trap, ALLOW));
    filter
}

/// Eight threads and main behind a broker, and a call on all of them.
fn behind_broker(context: &Context, calls: &[i64]) {
    start_broker();
    seccomp::no_new_privs();
    let _probes = context.probes();
    trap_on_all(calls);
    context.change();
    assert!(EMULATED.load(Ordering::Relaxed) > 0, "no call was emulated");
}

/// The same behind a broker that refuses a call. A thread whose registration fails ends normally.
fn behind_refusal(context: &Context, call: i64) {
    start_broker();
    seccomp::no_new_privs();
    let _probes = context.probes();
    context.count().expect("a first round");
    REFUSED.store(call as usize, Ordering::Relaxed);
    trap_on_all(&[call]);
    if call != libc::SYS_rt_sigaction {
        adoption_fails();
    }
    context.change_soon();
}

/// Puts the filter on every thread of the process, registered or not.
fn trap_on_all(calls: &[i64]) {
    seccomp::install_on_all(&trap(calls));
}

const PAGE: usize = 64 << 10;
const PAGES: usize = 64;

/// The first of the pages, one for each run of the closure.
static PAGES_AT: AtomicUsize = AtomicUsize::new(0);

/// Makes the page of the fault accessible.
extern "C" fn open_page(_: c_int, info: *mut siginfo_t, _: *mut c_void) {
    // SAFETY: the kernel passes a siginfo_t to a handler with SA_SIGINFO.
    let at = unsafe { (*info).si_addr() }.addr() & !(PAGE - 1);
    let pages = PAGES_AT.load(Ordering::Relaxed);
    if !(pages..pages + PAGES * PAGE).contains(&at) {
        exit_now(102);
    }
    let access = (libc::PROT_READ | libc::PROT_WRITE) as usize;
    must(libc::SYS_mprotect, [at, PAGE, access, 0, 0, 0]);
}

fn fault_in_closure(context: &Context) {
    let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as usize;
    let size = (PAGES + 1) * PAGE;
    let map = [0, size, libc::PROT_NONE as usize, flags, usize::MAX, 0];
    let pages = must(libc::SYS_mmap, map).next_multiple_of(PAGE);
    PAGES_AT.store(pages, Ordering::Relaxed);
    handle(libc::SIGSEGV, libc::SA_ONSTACK, open_page);
    let _probes = context.probes();
    let runs = AtomicUsize::new(0);
    let filters = seccomp::filters() + 1;
    seccomp::no_new_privs();
    context.count().expect("a round before");
    let start = Instant::now();
    let closure = || {
        let page = pages + PAGE * runs.fetch_add(1, Ordering::Relaxed);
        let page = NonNull::new(ptr::with_exposed_provenance_mut::<u8>(page)).expect("mapped");
        // SAFETY: this run's page, which the handler makes writable.
        unsafe { page.write_volatile(1) };
        seccomp::no_new_privs();
        seccomp::install(&[ALLOW]);
        Result::Ok(0)
    };
    // SAFETY: a write to this run's page, and system calls.
    let result = unsafe { Broadcast::new().run(closure) };
    let timeout = Duration::from_secs(5);
    context.report(Mark::Filters(filters), result.map(drop), start.elapsed(), timeout, 0);
}
