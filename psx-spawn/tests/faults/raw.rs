//! System calls that only the fault table needs.

use std::ffi::{CStr, CString, c_int, c_void};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};

use psx::Errno;
use psx_test_support::process::exit_thread;
use psx_test_support::raw::{must, owned, prctl, slack, syscall};
use psx_test_support::signal::{Handler, set_mask};
use psx_test_support::threads::tid;

/// The capability to raise hard limits.
pub(crate) const CAP_SYS_RESOURCE: usize = 24;

/// Whether a program that root starts may have this capability.
pub(crate) fn may_have(capability: usize) -> bool {
    prctl(libc::PR_CAPBSET_READ, capability) == 1
}

/// Gives the calling thread a core only when no other thread needs it.
pub(crate) fn schedule_idle() {
    let priority = 0;
    let (policy, at) = (libc::SCHED_IDLE as usize, ptr::from_ref::<c_int>(&priority).addr());
    must(libc::SYS_sched_setscheduler, [0, policy, at, 0, 0, 0]);
}

/// Forks without the libc and its hooks. Returns 0 in the child.
pub(crate) fn fork() -> libc::pid_t {
    must(libc::SYS_clone, [libc::SIGCHLD as usize, 0, 0, 0, 0, 0]) as libc::pid_t
}

/// An ioctl without an argument that returns a new descriptor.
pub(crate) fn ioctl(fd: c_int, request: usize) -> Result<OwnedFd, Errno> {
    // SAFETY: these requests take no memory.
    unsafe { syscall(libc::SYS_ioctl, [fd as usize, request, 0, 0, 0, 0]) }.map(owned)
}

/// Moves the calling process to a new mount namespace.
pub(crate) fn unshare_mounts() {
    must(libc::SYS_unshare, [libc::CLONE_NEWNS as usize, 0, 0, 0, 0, 0]);
    let flags = libc::MS_REC | libc::MS_PRIVATE;
    mount(Path::new("none"), Path::new("/"), None, flags);
}

pub(crate) fn mount(source: &Path, target: &Path, kind: Option<&str>, flags: libc::c_ulong) {
    let text = |bytes: &[u8]| CString::new(bytes).expect("a path without NUL");
    let [source, target] = [source, target].map(|path| text(path.as_os_str().as_bytes()));
    let kind = kind.map(|kind| text(kind.as_bytes()));
    let kind = kind.as_ref().map_or(0, |kind| kind.as_ptr().addr());
    let [source, target] = [&source, &target].map(|path| path.as_ptr().addr());
    must(libc::SYS_mount, [source, target, kind, flags as usize, 0, 0]);
}

/// Unmounts /proc for the calling process alone.
pub(crate) fn unmount_proc() {
    unshare_mounts();
    let flags = libc::MNT_DETACH as usize;
    must(libc::SYS_umount2, [c"/proc".as_ptr().addr(), flags, 0, 0, 0, 0]);
}

/// Makes `directory` the root of the file system.
pub(crate) fn change_root(directory: &Path) {
    let path = CString::new(directory.as_os_str().as_bytes()).expect("a path without NUL");
    must(libc::SYS_chroot, [path.as_ptr().addr(), 0, 0, 0, 0, 0]);
    must(libc::SYS_chdir, [c"/".as_ptr().addr(), 0, 0, 0, 0, 0]);
}

/// Adds one to the calling thread's timer slack: a counter that the kernel keeps for each thread, and passes
/// on at clone.
pub(crate) fn count_one() {
    prctl(libc::PR_SET_TIMERSLACK, slack() + 1);
}

pub(crate) fn set_name(name: &CStr) {
    prctl(libc::PR_SET_NAME, name.as_ptr().addr());
}

/// Waits until the process ends, with system calls only.
pub(crate) fn wait_forever() -> ! {
    loop {
        // SAFETY: ppoll without descriptors and timeout.
        let _ = unsafe { syscall(libc::SYS_ppoll, [0; 6]) };
    }
}

const STACK: usize = 64 << 10;

/// Runs `body` in a new task, on a new stack that is never freed.
fn clone(body: extern "C" fn(*mut c_void) -> c_int, flags: c_int, argument: usize) -> u32 {
    let stack = Box::leak(vec![0u128; STACK / 16].into_boxed_slice());
    // SAFETY: the end of a fresh, aligned, leaked stack.
    let top = unsafe { stack.as_mut_ptr().add(stack.len()) };
    // SAFETY: `body` makes system calls only, so that it can run with the creator's thread-locals.
    let child = unsafe { libc::clone(body, top.cast(), flags, argument as *mut c_void) };
    assert!(child > 0, "clone: {}", io::Error::last_os_error());
    child as u32
}

/// Starts a thread without the libc and psx, called `raw-clone`.
pub(crate) fn start_raw_thread() -> u32 {
    extern "C" fn body(_: *mut c_void) -> c_int {
        set_name(c"raw-clone");
        wait_forever()
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

/// Starts such a thread that blocks all signals. It stays only if the kernel gives it the id `wanted`.
pub(crate) fn start_raw_thread_with(wanted: u32) -> u32 {
    extern "C" fn body(wanted: *mut c_void) -> c_int {
        set_mask(!0);
        if tid() as usize != wanted.addr() {
            return 0;
        }
        set_name(c"raw-clone");
        wait_forever()
    }
    clone(body, THREAD, wanted as usize)
}

/// Runs `body` with the thread-locals of the calling thread, which waits: in a child as by `vfork`, or in a
/// thread started by a raw clone.
pub(crate) fn borrow_thread_locals(body: fn(), as_thread: bool) {
    static DONE: AtomicU32 = AtomicU32::new(0);
    extern "C" fn start(body: *mut c_void) -> c_int {
        // SAFETY: the function that was given as an address below.
        let body: fn() = unsafe { std::mem::transmute(body) };
        body();
        DONE.store(1, Ordering::Release);
        // Not by return, by which the libc would exit.
        exit_thread()
    }
    DONE.store(0, Ordering::Relaxed);
    let flags = if as_thread { THREAD } else { libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD };
    clone(start, flags, body as usize);
    while DONE.load(Ordering::Acquire) == 0 {
        std::hint::spin_loop();
    }
}

/// Calls vfork, writes the child's id to `announce` from there, and returns after `seconds`.
pub(crate) fn vfork(announce: c_int, seconds: u32) {
    extern "C" fn body(argument: *mut c_void) -> c_int {
        let (announce, seconds) = (argument.addr() & 0xffff, argument.addr() >> 16);
        let pid = must(libc::SYS_getpid, [0; 6]) as u32;
        must(libc::SYS_write, [announce, ptr::from_ref(&pid).addr(), 4, 0, 0, 0]);
        let mut left = [seconds as u64, 0];
        let at = left.as_mut_ptr().addr();
        // After a signal the kernel has written how much of the sleep is left.
        // SAFETY: a time that outlives the call.
        while unsafe { syscall(libc::SYS_nanosleep, [at, at, 0, 0, 0, 0]) }.is_err() {}
        0
    }
    let argument = announce as usize | (seconds as usize) << 16;
    clone(body, libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD, argument);
}

#[cfg(target_arch = "x86_64")]
std::arch::global_asm!("faults_restorer:", "mov eax, 15", "syscall");

/// Installs `handler` for signal 33, which the libc's wrappers refuse.
pub(crate) fn handle_33(handler: extern "C" fn(c_int)) {
    act_on_33(handler as *const () as usize, 0);
}

/// The same for a handler that passes signals on. Returns the address of the previous [`Handler`].
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
    must(libc::SYS_rt_sigaction, [33, at, old, 8, 0, 0]);
    before.handler
}

/// Becomes the user `real`, with `effective` as effective and saved user, and drops the groups.
pub(crate) fn become_user(real: u32, effective: u32) {
    let (real, effective) = (real as usize, effective as usize);
    must(libc::SYS_setgroups, [0; 6]);
    must(libc::SYS_setresgid, [real, real, real, 0, 0, 0]);
    must(libc::SYS_setresuid, [real, effective, effective, 0, 0, 0]);
}

/// Stops one thread of another process, as a debugger does, until the calling thread calls [`untrace`].
pub(crate) fn trace(tid: i32) {
    let args = [libc::PTRACE_SEIZE as usize, tid as usize, 0, 0, 0, 0];
    must(libc::SYS_ptrace, args);
    let args = [libc::PTRACE_INTERRUPT as usize, tid as usize, 0, 0, 0, 0];
    must(libc::SYS_ptrace, args);
    let flags = libc::__WALL as usize;
    must(libc::SYS_wait4, [tid as usize, 0, flags, 0, 0, 0]);
}

pub(crate) fn untrace(tid: i32) {
    let args = [libc::PTRACE_DETACH as usize, tid as usize, 0, 0, 0, 0];
    must(libc::SYS_ptrace, args);
}

/// Makes a FIFO: a thread that opens it waits until another one opens its other end.
pub(crate) fn make_fifo(path: &Path) {
    let path = CString::new(path.as_os_str().as_bytes()).expect("a path without NUL");
    let (at, mode) = (path.as_ptr().addr(), (libc::S_IFIFO | 0o600) as usize);
    must(libc::SYS_mknodat, [libc::AT_FDCWD as usize, at, mode, 0, 0, 0]);
}

/// Makes `fd` refer to the file that `by` refers to.
pub(crate) fn replace(fd: c_int, by: c_int) {
    must(libc::SYS_dup3, [by as usize, fd as usize, 0, 0, 0, 0]);
}
