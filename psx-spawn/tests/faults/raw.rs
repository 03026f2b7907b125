//! System calls as the kernel has them: most faults are things that libc would not let a program do.

use std::ffi::{CString, c_int, c_long, c_void};
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};

/// Makes a system call without touching errno or any thread-local, so that it also serves a thread
/// that has none.
///
/// # Safety
///
/// The call must be sound with these arguments.
pub(crate) unsafe fn call(nr: c_long, args: [usize; 6]) -> io::Result<usize> {
    let value: isize;
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the kernel's convention; that the call is sound is the caller's promise.
    unsafe {
        std::arch::asm!(
            "syscall",
            inlateout("rax") nr as isize => value,
            in("rdi") args[0], in("rsi") args[1], in("rdx") args[2],
            in("r10") args[3], in("r8") args[4], in("r9") args[5],
            lateout("rcx") _, lateout("r11") _,
            options(nostack),
        );
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above.
    unsafe {
        std::arch::asm!(
            "svc 0",
            in("x8") nr,
            inlateout("x0") args[0] => value,
            in("x1") args[1], in("x2") args[2], in("x3") args[3],
            in("x4") args[4], in("x5") args[5],
            options(nostack),
        );
    }
    if value < 0 { Err(io::Error::from_raw_os_error(-value as i32)) } else { Ok(value as usize) }
}

/// A system call that must succeed for the fault to be there at all.
pub(crate) fn must(what: &str, nr: c_long, args: [usize; 6]) -> usize {
    // SAFETY: each caller below passes what this call's manual page asks for.
    unsafe { call(nr, args) }.unwrap_or_else(|error| panic!("{what}: {error}"))
}

pub(crate) fn tid() -> u32 {
    must("gettid", libc::SYS_gettid, [0; 6]) as u32
}

/// Real, effective and saved user.
pub(crate) fn users() -> [u32; 3] {
    let mut ids = [0u32; 3];
    let [real, effective, saved] = ids.each_mut().map(|id| ptr::from_mut(id).addr());
    must("getresuid", libc::SYS_getresuid, [real, effective, saved, 0, 0, 0]);
    ids
}

/// The capability to raise hard limits.
pub(crate) const CAP_SYS_RESOURCE: usize = 24;

/// Whether a program that root starts may have this capability.
pub(crate) fn may_have(capability: usize) -> bool {
    let args = [libc::PR_CAPBSET_READ as usize, capability, 0, 0, 0, 0];
    must("prctl", libc::SYS_prctl, args) == 1
}

pub(crate) fn limit(resource: u32) -> [u64; 2] {
    let mut old = [0u64; 2];
    let at = old.as_mut_ptr().addr();
    must("prlimit", libc::SYS_prlimit64, [0, resource as usize, 0, at, 0, 0]);
    old
}

pub(crate) fn set_limit(resource: u32, [soft, hard]: [u64; 2]) {
    let new = [soft, hard];
    let at = new.as_ptr().addr();
    must("prlimit", libc::SYS_prlimit64, [0, resource as usize, at, 0, 0, 0]);
}

/// Blocks all 64 signals on the calling thread, those included that libc keeps for itself.
pub(crate) fn block_every_signal() {
    let all = u64::MAX;
    let how = libc::SIG_SETMASK as usize;
    let at = ptr::from_ref(&all).addr();
    must("rt_sigprocmask", libc::SYS_rt_sigprocmask, [how, at, 0, 8, 0, 0]);
}

/// Gives the calling thread a core only when no other thread wants it.
pub(crate) fn schedule_idle() {
    let priority = 0;
    let (policy, at) = (libc::SCHED_IDLE as usize, ptr::from_ref::<c_int>(&priority).addr());
    must("sched_setscheduler", libc::SYS_sched_setscheduler, [0, policy, at, 0, 0, 0]);
}

/// Undoes [`block_every_signal`].
pub(crate) fn unblock_every_signal() {
    let none = 0u64;
    let how = libc::SIG_SETMASK as usize;
    let at = ptr::from_ref(&none).addr();
    must("rt_sigprocmask", libc::SYS_rt_sigprocmask, [how, at, 0, 8, 0, 0]);
}

/// Whether the calling thread has been sent signal 33, and blocks it.
pub(crate) fn is_33_pending() -> bool {
    let mut pending = 0u64;
    let at = ptr::from_mut(&mut pending).addr();
    must("rt_sigpending", libc::SYS_rt_sigpending, [at, 8, 0, 0, 0, 0]);
    pending & 1 << 32 != 0
}

/// fork, without libc and its hooks: 0 in the child.
pub(crate) fn fork() -> libc::pid_t {
    must("clone", libc::SYS_clone, [libc::SIGCHLD as usize, 0, 0, 0, 0, 0]) as libc::pid_t
}

/// An ioctl without an argument that makes a descriptor.
pub(crate) fn ioctl(fd: c_int, request: usize) -> io::Result<OwnedFd> {
    // SAFETY: the requests below take no memory; a new descriptor belongs to the caller alone.
    unsafe {
        let made = call(libc::SYS_ioctl, [fd as usize, request, 0, 0, 0, 0])?;
        Ok(OwnedFd::from_raw_fd(made as c_int))
    }
}

/// Gives the calling process mounts of its own.
pub(crate) fn own_mounts() {
    must("unshare", libc::SYS_unshare, [libc::CLONE_NEWNS as usize, 0, 0, 0, 0, 0]);
    let flags = libc::MS_REC | libc::MS_PRIVATE;
    mount(Path::new("none"), Path::new("/"), None, flags);
}

pub(crate) fn mount(source: &Path, target: &Path, kind: Option<&str>, flags: libc::c_ulong) {
    let text = |bytes: &[u8]| CString::new(bytes).expect("a path without NUL");
    let [source, target] = [source, target].map(|path| text(path.as_os_str().as_bytes()));
    let kind = kind.map(|kind| text(kind.as_bytes()));
    let kind = kind.as_ref().map_or(0, |kind| kind.as_ptr().addr());
    let [source, target] = [&source, &target].map(|path| path.as_ptr().addr());
    must("mount", libc::SYS_mount, [source, target, kind, flags as usize, 0, 0]);
}

/// Takes /proc away from the calling process alone.
pub(crate) fn unmount_proc() {
    own_mounts();
    let flags = libc::MNT_DETACH as usize;
    must("umount2", libc::SYS_umount2, [c"/proc".as_ptr().addr(), flags, 0, 0, 0, 0]);
}

/// Makes `directory` the root of the file system.
pub(crate) fn change_root(directory: &Path) {
    let path = CString::new(directory.as_os_str().as_bytes()).expect("a path without NUL");
    must("chroot", libc::SYS_chroot, [path.as_ptr().addr(), 0, 0, 0, 0, 0]);
    must("chdir", libc::SYS_chdir, [c"/".as_ptr().addr(), 0, 0, 0, 0, 0]);
}

/// Adds one to the calling thread's timer slack: a counter that the kernel keeps for each thread,
/// passes on at clone, and gives away to everyone who asks.
pub(crate) fn count_one() {
    let next = counted() + 1;
    must("prctl", libc::SYS_prctl, [libc::PR_SET_TIMERSLACK as usize, next, 0, 0, 0, 0]);
}

/// What [`count_one`] has counted on the calling thread, plus what it started from.
pub(crate) fn counted() -> usize {
    must("prctl", libc::SYS_prctl, [libc::PR_GET_TIMERSLACK as usize, 0, 0, 0, 0, 0])
}

pub(crate) fn set_name(name: &std::ffi::CStr) {
    let at = name.as_ptr().addr();
    must("prctl", libc::SYS_prctl, [libc::PR_SET_NAME as usize, at, 0, 0, 0, 0]);
}

/// Ends the calling thread on the spot: no destructor, no word to libc.
pub(crate) fn leave() -> ! {
    must("exit", libc::SYS_exit, [0; 6]);
    unreachable!("the thread has left");
}

const STACK: usize = 64 << 10;

/// Runs `body` in a new task on a stack of its own that is never given back.
fn clone(body: extern "C" fn(*mut c_void) -> c_int, flags: c_int, argument: usize) -> u32 {
    let stack = Box::leak(vec![0u128; STACK / 16].into_boxed_slice());
    // SAFETY: the end of a fresh, aligned, leaked stack.
    let top = unsafe { stack.as_mut_ptr().add(stack.len()) };
    // SAFETY: `body` keeps to system calls, so that it can run on the creator's thread-locals.
    let child = unsafe { libc::clone(body, top.cast(), flags, argument as *mut c_void) };
    assert!(child > 0, "clone: {}", io::Error::last_os_error());
    child as u32
}

/// Starts a thread that neither libc nor psx knows of, called `raw-clone`.
pub(crate) fn start_raw_thread() -> u32 {
    extern "C" fn body(_: *mut c_void) -> c_int {
        set_name(c"raw-clone");
        loop {
            // SAFETY: ppoll of nothing for ever.
            let _ = unsafe { call(libc::SYS_ppoll, [0; 6]) };
        }
    }
    clone(body, THREAD, 0)
}

/// What makes a new task a thread of its creator's process.
const THREAD: c_int = libc::CLONE_VM
    | libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SIGHAND
    | libc::CLONE_THREAD
    | libc::CLONE_SYSVSEM;

/// Starts a thread that neither libc nor psx knows of, called `raw-clone`, which blocks all signals.
/// It stays only if the kernel gives it the id `wanted`.
pub(crate) fn start_raw_thread_with(wanted: u32) -> u32 {
    extern "C" fn body(wanted: *mut c_void) -> c_int {
        block_every_signal();
        if tid() as usize != wanted.addr() {
            return 0;
        }
        set_name(c"raw-clone");
        loop {
            // SAFETY: ppoll of nothing for ever.
            let _ = unsafe { call(libc::SYS_ppoll, [0; 6]) };
        }
    }
    clone(body, THREAD, wanted as usize)
}

/// Runs `body` on the thread-locals of the calling thread, which waits: in a child as of `vfork`, or
/// in a thread made by a raw clone.
pub(crate) fn borrow_thread_locals(body: fn(), as_thread: bool) {
    static DONE: AtomicU32 = AtomicU32::new(0);
    extern "C" fn start(body: *mut c_void) -> c_int {
        // SAFETY: the function that was given as an address below.
        let body: fn() = unsafe { std::mem::transmute(body) };
        body();
        DONE.store(1, Ordering::Release);
        // Not by return, which would be an exit of libc's.
        leave()
    }
    DONE.store(0, Ordering::Relaxed);
    let flags = if as_thread { THREAD } else { libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD };
    clone(start, flags, body as usize);
    while DONE.load(Ordering::Acquire) == 0 {
        std::hint::spin_loop();
    }
}

/// Goes into vfork, writes the child's id to `announce` from there, and comes back when `seconds`
/// are over.
pub(crate) fn vfork(announce: c_int, seconds: u32) {
    extern "C" fn body(argument: *mut c_void) -> c_int {
        let (announce, seconds) = (argument.addr() & 0xffff, argument.addr() >> 16);
        let pid = must("getpid", libc::SYS_getpid, [0; 6]) as u32;
        must("write", libc::SYS_write, [announce, ptr::from_ref(&pid).addr(), 4, 0, 0, 0]);
        let mut left = [seconds as u64, 0];
        let at = left.as_mut_ptr().addr();
        // A signal ends the sleep, and then the kernel says how much of it is left.
        // SAFETY: a time that outlives the call.
        while unsafe { call(libc::SYS_nanosleep, [at, at, 0, 0, 0, 0]) }.is_err() {}
        0
    }
    let argument = announce as usize | (seconds as usize) << 16;
    clone(body, libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD, argument);
}

#[cfg(target_arch = "x86_64")]
std::arch::global_asm!("faults_restorer:", "mov eax, 15", "syscall");

/// Installs `handler` for signal 33, which libc's own wrappers refuse to touch.
pub(crate) fn handle_33(handler: extern "C" fn(c_int)) {
    act_on_33(handler as *const () as usize, 0);
}

/// What a handler that is told more takes.
pub(crate) type Handler = extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void);

/// The same for a handler that wants to pass signals on: returns the address of the [`Handler`]
/// that was there.
pub(crate) fn put_over_33(handler: Handler) -> usize {
    act_on_33(handler as *const () as usize, libc::SA_SIGINFO as usize)
}

pub(crate) fn ignore_33() {
    act_on_33(libc::SIG_IGN, 0);
}

fn act_on_33(handler: usize, flags: usize) -> usize {
    const RESTART: usize = libc::SA_RESTART as usize;
    #[repr(C)]
    struct Action {
        handler: usize,
        flags: usize,
        restorer: usize,
        mask: u64,
    }
    #[cfg(target_arch = "x86_64")]
    let (flags, restorer) = {
        unsafe extern "C" {
            fn faults_restorer();
        }
        (flags | RESTART | 0x0400_0000, faults_restorer as *const () as usize)
    };
    #[cfg(not(target_arch = "x86_64"))]
    let (flags, restorer) = (flags | RESTART, 0);
    let action = Action { handler, flags, restorer, mask: 0 };
    let mut before = Action { handler: 0, flags: 0, restorer: 0, mask: 0 };
    let (at, old) = (ptr::from_ref(&action).addr(), ptr::from_mut(&mut before).addr());
    must("rt_sigaction", libc::SYS_rt_sigaction, [33, at, old, 8, 0, 0]);
    before.handler
}

/// A siginfo_t that says no more than signal and code.
pub(crate) fn signal_info(signal: i32, code: i32) -> [i32; 32] {
    let mut info = [0; 32];
    (info[0], info[2]) = (signal, code);
    info
}

/// Queues `signal` with `code` to one thread.
pub(crate) fn queue(pid: u32, tid: u32, signal: i32, code: i32) -> io::Result<usize> {
    let info = signal_info(signal, code);
    let args = [pid as usize, tid as usize, signal as usize, info.as_ptr().addr(), 0, 0];
    // SAFETY: `info` outlives the call; a signal's effect is its receiver's affair.
    unsafe { call(libc::SYS_rt_tgsigqueueinfo, args) }
}

/// tgkill, or kill where `tid` is none.
pub(crate) fn kill(pid: u32, tid: Option<u32>, signal: i32) -> io::Result<usize> {
    let (pid, signal) = (pid as usize, signal as usize);
    let (nr, args) = match tid {
        Some(tid) => (libc::SYS_tgkill, [pid, tid as usize, signal, 0, 0, 0]),
        None => (libc::SYS_kill, [pid, signal, 0, 0, 0, 0]),
    };
    // SAFETY: a signal's effect is its receiver's affair.
    unsafe { call(nr, args) }
}

/// libc's errno of the calling thread.
pub(crate) fn errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or_default()
}

/// Becomes `real` for good, with `effective` (and so the same saved user after an exec), and drops
/// the groups.
pub(crate) fn become_user(real: u32, effective: u32) {
    let (real, effective) = (real as usize, effective as usize);
    must("setgroups", libc::SYS_setgroups, [0; 6]);
    must("setresgid", libc::SYS_setresgid, [real, real, real, 0, 0, 0]);
    must("setresuid", libc::SYS_setresuid, [real, effective, effective, 0, 0, 0]);
}

/// Stops one thread of another process, as a debugger does. For the calling thread to [`untrace`].
pub(crate) fn trace(tid: i32) {
    let args = [libc::PTRACE_SEIZE as usize, tid as usize, 0, 0, 0, 0];
    must("ptrace", libc::SYS_ptrace, args);
    let args = [libc::PTRACE_INTERRUPT as usize, tid as usize, 0, 0, 0, 0];
    must("ptrace", libc::SYS_ptrace, args);
    let flags = libc::__WALL as usize;
    must("wait4", libc::SYS_wait4, [tid as usize, 0, flags, 0, 0, 0]);
}

pub(crate) fn untrace(tid: i32) {
    let args = [libc::PTRACE_DETACH as usize, tid as usize, 0, 0, 0, 0];
    must("ptrace", libc::SYS_ptrace, args);
}

/// Makes a FIFO, which blocks whoever opens it until somebody opens its other end.
pub(crate) fn make_fifo(path: &Path) {
    let path = CString::new(path.as_os_str().as_bytes()).expect("a path without NUL");
    let (at, mode) = (path.as_ptr().addr(), (libc::S_IFIFO | 0o600) as usize);
    must("mknodat", libc::SYS_mknodat, [libc::AT_FDCWD as usize, at, mode, 0, 0, 0]);
}

/// Maps `size` bytes of `fd`, shared with whoever else has them.
pub(crate) fn map_file(fd: usize, size: usize, offset: usize) -> *mut u8 {
    let protection = (libc::PROT_READ | libc::PROT_WRITE) as usize;
    let flags = (libc::MAP_SHARED | libc::MAP_POPULATE) as usize;
    let at = must("mmap", libc::SYS_mmap, [0, size, protection, flags, fd, offset]);
    ptr::with_exposed_provenance_mut(at)
}

pub(crate) fn unmap(at: *mut u8, size: usize) {
    must("munmap", libc::SYS_munmap, [at.addr(), size, 0, 0, 0, 0]);
}

pub(crate) fn close(fd: usize) {
    must("close", libc::SYS_close, [fd, 0, 0, 0, 0, 0]);
}

/// Makes `fd` mean the file that `by` means.
pub(crate) fn replace(fd: c_int, by: c_int) {
    must("dup3", libc::SYS_dup3, [by as usize, fd as usize, 0, 0, 0, 0]);
}
