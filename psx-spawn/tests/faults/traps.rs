//! Signals that the kernel raises for what a thread itself does: a system call that a seccomp filter
//! traps, a fault in memory. The program handles them, as seccomp brokers and runtimes do.

use std::ffi::{CStr, CString, c_int, c_void};
use std::mem;
use std::ptr::{self, NonNull};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use libc::{siginfo_t, sock_filter, ucontext_t};
use psx::Broadcast;

use crate::case::Case;
use crate::case::Expected::{Clean, Ok};
use crate::confine::{self, ALLOW, DENY, if_equal, load, step};
use crate::judge::Mark;
use crate::raw;
use crate::refused::adoption_fails;
use crate::stage::Stage;
use crate::threads::await_thread;

pub(crate) const CASES: &[Case] = &[
    Case::new("trap-call", "a SIGSYS broker emulates the call that is broadcast", &[Ok], |stage| {
        behind_broker(stage, &[libc::SYS_setresuid, libc::SYS_prctl, libc::SYS_seccomp])
    }),
    Case::new("trap-round", "the same for the calls that a round lives on", &[Ok], |stage| {
        behind_broker(
            stage,
            &[
                libc::SYS_futex,
                libc::SYS_sched_yield,
                libc::SYS_rt_tgsigqueueinfo,
                libc::SYS_rt_sigaction,
                libc::SYS_gettid,
            ],
        );
    }),
    Case::new(
        "trap-refuses-gettid",
        "a SIGSYS broker that refuses gettid",
        &[Clean("RegistrationFailed", "")],
        |stage| behind_refusal(stage, libc::SYS_gettid),
    ),
    Case::new("trap-refuses-getpid", "one that refuses getpid; a thread adopts", &[Ok], |stage| {
        behind_refusal(stage, libc::SYS_getpid);
    }),
    Case::new(
        "trap-refuses-mask",
        "one that refuses rt_sigprocmask; a thread adopts",
        &[Clean("Handler", "rt_sigprocmask")],
        |stage| behind_refusal(stage, libc::SYS_rt_sigprocmask),
    ),
    Case::new(
        "trap-refuses-action",
        "one that refuses rt_sigaction",
        &[Clean("Handler", "rt_sigaction")],
        |stage| behind_refusal(stage, libc::SYS_rt_sigaction),
    ),
    Case::new(
        "trap-names",
        "the same for those that name threads, and a raw clone thread",
        &[Clean("Uncovered", "raw-clone")],
        |stage| {
            start_broker();
            confine::no_new_privs();
            let _crew = stage.crew();
            let tid = raw::start_raw_thread();
            await_thread(|name, _| name == "raw-clone", &tid.to_string());
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
            stage.change_soon();
            assert!(EMULATED.load(Ordering::Relaxed) > 0, "calls that the broker has emulated");
        },
    ),
    Case::new(
        "trap-open-elsewhere",
        "a broker's process opens files, before the first use: Require, Registered",
        &[Clean("ThreadCountUnavailable", "Registered"), Ok],
        |stage| {
            open_in_parent(&FILES_OF_SELF);
            let _crew = stage.crew();
            stage.change_soon();
            stage.change_registered();
        },
    ),
    Case::new(
        "trap-open-elsewhere-stat",
        "the same of /proc/self/stat alone, whose process has other threads",
        &[Clean("ThreadCountUnavailable", "Registered"), Ok],
        |stage| {
            open_in_parent(&["self/stat"]);
            let _crew = stage.crew();
            stage.change_soon();
            stage.change_registered();
        },
    ),
    Case::new(
        "trap-stat-refused",
        "a broker that opens every file but /proc/self/stat",
        &[Ok],
        |stage| {
            open_in("no-folder", &["self/stat"]);
            assert!(std::fs::File::open("/proc/self/status").is_ok());
            let _crew = stage.crew();
            stage.change();
        },
    ),
    Case::new(
        "trap-stat-refused-foreign",
        "the same, and a raw clone thread",
        &[Clean("Uncovered", "raw-clone")],
        |stage| {
            open_in("no-folder", &["self/stat"]);
            let _crew = stage.crew();
            let tid = raw::start_raw_thread();
            await_thread(|name, _| name == "raw-clone", &tid.to_string());
            stage.change_soon();
        },
    ),
    Case::new(
        "trap-open-elsewhere-later",
        "the same after the first use, and a raw clone thread",
        &[Clean("Uncovered", "1 thread that cannot be named")],
        |stage| {
            stage.adopt();
            open_in_parent(&FILES_OF_SELF);
            let _crew = stage.crew();
            raw::start_raw_thread();
            stage.change_soon();
        },
    ),
    // The same calls with fewer promises.
    Case::new(
        "no-openat2",
        "openat2 answered with EPERM, and a raw clone thread",
        &[Clean("Uncovered", "raw-clone")],
        |stage| {
            confine::no_new_privs();
            confine::filter(&[load(0), if_equal(libc::SYS_openat2 as u32), DENY, ALLOW]);
            let _crew = stage.crew();
            let tid = raw::start_raw_thread();
            await_thread(|name, _| name == "raw-clone", &tid.to_string());
            stage.change_soon();
        },
    ),
    Case::new(
        "fault-in-closure",
        "a guard page in the closure of a broadcast, opened by SIGSEGV's handler",
        &[Ok],
        fault_in_closure,
    ),
];

// The system call instruction that filters let pass, with the arguments of `syscall(2)`.
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

/// The system call that the broker refuses; none has this number before one is set.
static REFUSED: AtomicUsize = AtomicUsize::new(usize::MAX);

/// What the interrupted code gets for its system call.
fn answer([nr, a, b, c, d, e, f]: [usize; 7]) -> usize {
    if nr == REFUSED.load(Ordering::Relaxed) {
        return -libc::EPERM as usize;
    }
    let b = path_for_broker(nr, b);
    // SAFETY: the call is the one that the interrupted code has asked for.
    unsafe { faults_broker_call(nr, a, b, c, d, e, f) }
}

/// Makes the trapped call and hands its result to the code that was interrupted.
extern "C" fn emulate(_: c_int, _: *mut siginfo_t, context: *mut c_void) {
    let context = context.cast::<ucontext_t>();
    EMULATED.fetch_add(1, Ordering::Relaxed);
    // SAFETY: the kernel hands a ucontext_t to a handler with SA_SIGINFO.
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

/// The files that the broker opens elsewhere, and their paths in our parent.
static ELSEWHERE: OnceLock<Vec<(&str, CString)>> = OnceLock::new();

/// From now on files are opened by a broker, as Chromium's does it: another process opens them, for which
/// `/proc/self` is its own. (Here the handler does, under the other process's name.)
fn open_in_parent(files: &[&'static str]) {
    open_in(&std::os::unix::process::parent_id().to_string(), files);
}

/// From now on a broker opens these files of `/proc/self` in that folder of `/proc`.
fn open_in(folder: &str, files: &[&'static str]) {
    let path = |file: &str| CString::new(file.replace("self", &format!("/proc/{folder}")));
    let paths = files.iter().map(|&file| (file, path(file).expect("a path"))).collect();
    ELSEWHERE.set(paths).expect("the first broker");
    start_broker();
    confine::no_new_privs();
    // Which it does not know.
    confine::filter(&[load(0), if_equal(libc::SYS_openat2 as u32), DENY, ALLOW]);
    confine::filter(&trap(&[libc::SYS_openat]));
}

/// The path that a call is to be made with.
fn path_for_broker(nr: usize, path: usize) -> usize {
    let is_open = nr as i64 == libc::SYS_openat;
    let Some(files) = ELSEWHERE.get().filter(|_| is_open) else { return path };
    // SAFETY: the path of a call that the program makes.
    let asked = unsafe { CStr::from_ptr(ptr::with_exposed_provenance(path)) };
    let file = files.iter().find(|(file, _)| file.as_bytes() == asked.to_bytes());
    file.map_or(path, |(_, elsewhere)| elsewhere.as_ptr().expose_provenance())
}

/// Installs `handler` with no flag but SA_SIGINFO and SA_ONSTACK.
fn handle(signal: c_int, handler: extern "C" fn(c_int, *mut siginfo_t, *mut c_void)) {
    // SAFETY: all-zero bytes are a valid action, of which the handler and the flags are filled in.
    unsafe {
        let mut action: libc::sigaction = mem::zeroed();
        action.sa_sigaction = handler as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        assert_eq!(libc::sigaction(signal, &action, ptr::null_mut()), 0);
    }
}

fn start_broker() {
    handle(libc::SIGSYS, emulate);
}

/// A filter that traps `calls`, unless they come from the broker's own instruction.
fn trap(calls: &[i64]) -> Vec<sock_filter> {
    const TRAP: sock_filter = step(libc::BPF_RET, libc::SECCOMP_RET_TRAP, 0, 0);
    let broker = faults_broker_return as *const () as u64;
    // The instruction pointer, eight bytes into seccomp_data, in halves.
    let mut filter = vec![
        load(8),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, broker as u32, 0, 3),
        load(12),
        if_equal((broker >> 32) as u32),
        ALLOW,
        load(0),
    ];
    filter.extend(calls.iter().flat_map(|&nr| [if_equal(nr as u32), TRAP]));
    filter.push(ALLOW);
    filter
}

/// Eight threads and main behind a broker, and a call on all of them.
fn behind_broker(stage: &Stage, calls: &[i64]) {
    start_broker();
    confine::no_new_privs();
    let _crew = stage.crew();
    trap_on_all(calls);
    stage.change();
    assert!(EMULATED.load(Ordering::Relaxed) > 0, "calls that the broker has emulated");
}

/// The same behind a broker that refuses a call. A thread that is refused as it registers ends well.
fn behind_refusal(stage: &Stage, call: i64) {
    start_broker();
    confine::no_new_privs();
    let _crew = stage.crew();
    stage.count().expect("a first round");
    REFUSED.store(call as usize, Ordering::Relaxed);
    trap_on_all(&[call]);
    if call != libc::SYS_rt_sigaction {
        adoption_fails();
    }
    stage.change_soon();
}

/// Puts the filter on every thread of the process, registered or not.
fn trap_on_all(calls: &[i64]) {
    confine::filter_all(&trap(calls));
}

const PAGE: usize = 64 << 10;
const PAGES: usize = 64;

/// The first of the pages, one for each run of the closure.
static PAGES_AT: AtomicUsize = AtomicUsize::new(0);

/// Opens the page that was touched.
extern "C" fn open_page(_: c_int, info: *mut siginfo_t, _: *mut c_void) {
    // SAFETY: the kernel hands a siginfo_t to a handler with SA_SIGINFO.
    let at = unsafe { (*info).si_addr() }.addr() & !(PAGE - 1);
    let pages = PAGES_AT.load(Ordering::Relaxed);
    if !(pages..pages + PAGES * PAGE).contains(&at) {
        // SAFETY: _exit(2) ends the process and has no other precondition.
        unsafe { libc::_exit(102) };
    }
    let access = (libc::PROT_READ | libc::PROT_WRITE) as usize;
    raw::must("mprotect", libc::SYS_mprotect, [at, PAGE, access, 0, 0, 0]);
}

fn fault_in_closure(stage: &Stage) {
    let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as usize;
    let size = (PAGES + 1) * PAGE;
    let map = [0, size, libc::PROT_NONE as usize, flags, usize::MAX, 0];
    let pages = raw::must("mmap", libc::SYS_mmap, map).next_multiple_of(PAGE);
    PAGES_AT.store(pages, Ordering::Relaxed);
    handle(libc::SIGSEGV, open_page);
    let _crew = stage.crew();
    let runs = AtomicUsize::new(0);
    let filters = confine::filters() + 1;
    confine::no_new_privs();
    stage.count().expect("a round before");
    let start = Instant::now();
    let closure = || {
        let page = pages + PAGE * runs.fetch_add(1, Ordering::Relaxed);
        let page = NonNull::new(ptr::with_exposed_provenance_mut::<u8>(page)).expect("mapped");
        // SAFETY: a page of our own, which the handler makes writable.
        unsafe { page.write_volatile(1) };
        confine::no_new_privs();
        confine::filter(&[ALLOW]);
        Result::Ok(0)
    };
    // SAFETY: a write to a page of this run's own, and system calls.
    let result = unsafe { Broadcast::new().run(closure) };
    let timeout = Duration::from_secs(5);
    stage.answer(Mark::Filters(filters), result.map(drop), start.elapsed(), timeout, 0);
}
