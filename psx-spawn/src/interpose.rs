//! Feature `interpose`: the program's `pthread_create` and `thrd_create`, so that every thread is
//! registered without a change to the code that starts it.
//!
//! A program's own definition of a libc function takes precedence over the libc's, for the program and
//! for every shared library that it loads. The libc's internal calls (a timer's helper thread), a
//! library loaded with `RTLD_DEEPBIND`, and `clone` do not use it: the coverage proof finds their
//! threads. docs/integration.md lists them.
//!
//! This function calls the libc's: with a shared libc the dynamic linker finds the next definition of
//! the name; a static libc has the function under a second, internal name, the same in glibc and musl.
//!
//! The parent does the same as in [`thread::spawn`](crate::thread::spawn). A thread that starts there
//! passes here too: the parent's guard is nested and does not wait, and redeeming the second ticket does
//! nothing.
//!
//! Nothing here needs initialisation, so a library's constructor may start threads before `main`. The
//! parent allocates before the thread exists. If the allocator starts its first thread in that
//! allocation, that thread is not registered, which ends the recursion.
//!
//! Contains `unsafe`: it replaces a C function.

use std::alloc::{Layout, alloc};
use std::arch::global_asm;
use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::ptr::{self, NonNull};

use psx_core::{SpawnGuard, Ticket};

use crate::Error;

/// The type of a start routine.
type Start = unsafe extern "C" fn(*mut c_void) -> *mut c_void;
type PthreadCreate = unsafe extern "C" fn(
    *mut libc::pthread_t,
    *const libc::pthread_attr_t,
    Start,
    *mut c_void,
) -> c_int;

/// The argument of [`begin`], on the heap: allocated by the parent, freed by the new thread.
struct StartArgs {
    ticket: Ticket,
    routine: StartRoutine,
}

/// The program's start routine and its argument. Returned in two registers.
#[repr(C)]
struct StartRoutine {
    start: Start,
    argument: *mut c_void,
}

thread_local! {
    /// Whether this thread is in [`prepare`]. Const-initialised and without a destructor, so that it
    /// can be read before and after every other thread-local.
    static PREPARING: Cell<bool> = const { Cell::new(false) };
}

/// Starts a registered thread: `pthread_create(3)` otherwise.
///
/// # Safety
///
/// As `pthread_create(3)`.
#[unsafe(no_mangle)]
unsafe extern "C" fn pthread_create(
    thread: *mut libc::pthread_t,
    attributes: *const libc::pthread_attr_t,
    start: Start,
    argument: *mut c_void,
) -> c_int {
    let Some(create) = real_pthread_create() else { return libc::ENOSYS };
    // SAFETY: the caller keeps the contract of pthread_create(3).
    let create_unregistered = || unsafe { create(thread, attributes, start, argument) };
    if PREPARING.replace(true) {
        return create_unregistered();
    }
    let prepared = prepare(StartRoutine { start, argument });
    PREPARING.set(false);
    let (_guard, args) = match prepared {
        Ok(prepared) => prepared,
        Err(Error::OutOfMemory | Error::Reentrant) => return libc::EAGAIN,
        // A failed registration must not make `pthread_create` fail.
        Err(_) => return create_unregistered(),
    };
    let args = Box::into_raw(args);
    // SAFETY: `begin` takes the box, once.
    let result = unsafe { create(thread, attributes, begin, args.cast()) };
    if result != 0 {
        // SAFETY: no thread was started, so the box is still this function's.
        drop(unsafe { Box::from_raw(args) });
    }
    result
}

/// The results of C11's function, with the numbers of glibc and musl.
mod thrd {
    use std::ffi::c_int;

    pub(super) const SUCCESS: c_int = 0;
    pub(super) const ERROR: c_int = 2;
    pub(super) const NOMEM: c_int = 3;
}

/// Starts a registered thread: C11's `thrd_create(3)` otherwise. The libc's own calls its
/// `pthread_create` by the internal name and not this module's.
///
/// A `thrd_t` is a `pthread_t` in both libcs. A C11 start routine returns an `int` and `Start` a pointer:
/// both are in the same register, and `thrd_join` reads the half that holds the `int`.
///
/// # Safety
///
/// As `thrd_create(3)`.
#[unsafe(no_mangle)]
unsafe extern "C" fn thrd_create(
    thread: *mut libc::pthread_t,
    start: Start,
    argument: *mut c_void,
) -> c_int {
    // SAFETY: the caller keeps the contract of thrd_create(3); null attributes are the default ones.
    match unsafe { pthread_create(thread, ptr::null(), start, argument) } {
        0 => thrd::SUCCESS,
        libc::ENOMEM => thrd::NOMEM,
        // As the standard says, and musl returns; glibc returns `thrd_error`.
        libc::EAGAIN if cfg!(target_env = "musl") => thrd::NOMEM,
        _ => thrd::ERROR,
    }
}

/// Enters the guard, takes the child's ticket and allocates its arguments.
fn prepare(routine: StartRoutine) -> Result<(SpawnGuard, Box<StartArgs>), Error> {
    let guard = SpawnGuard::enter()?;
    let ticket = guard.ticket()?;
    let layout = Layout::new::<StartArgs>();
    // SAFETY: the layout is not zero-sized.
    let args = NonNull::new(unsafe { alloc(layout) }).ok_or(Error::OutOfMemory)?;
    let args = args.cast::<StartArgs>();
    // SAFETY: allocated just now with the layout of StartArgs, by the allocator that Box frees with,
    // and written before the Box takes it.
    let args = unsafe {
        args.write(StartArgs { ticket, routine });
        Box::from_raw(args.as_ptr())
    };
    Ok((guard, args))
}

/// Registers the new thread and returns the routine to jump to.
unsafe extern "C" fn redeem(args: *mut c_void) -> StartRoutine {
    // SAFETY: `pthread_create` made the box and passes it to this thread alone.
    let StartArgs { ticket, routine } = *unsafe { Box::from_raw(args.cast::<StartArgs>()) };
    ticket.redeem();
    routine
}

// The first function of a registered thread: calls `redeem` and jumps to the routine that it returns,
// with nothing left on the stack. `pthread_exit` and cancellation end a glibc thread by unwinding from
// `start` to the thread's first frame. With `panic = "abort"`, a Rust frame in between would end the
// process.
#[cfg(target_arch = "x86_64")]
global_asm!(
    ".pushsection .text.psx_interpose_begin,\"ax\",@progbits",
    ".globl psx_interpose_begin",
    ".hidden psx_interpose_begin",
    ".type psx_interpose_begin,@function",
    "psx_interpose_begin:",
    ".cfi_startproc",
    "endbr64",
    "sub rsp, 8",
    ".cfi_adjust_cfa_offset 8",
    "call {redeem}",
    "add rsp, 8",
    ".cfi_adjust_cfa_offset -8",
    "mov rdi, rdx",
    "jmp rax",
    ".cfi_endproc",
    ".size psx_interpose_begin, . - psx_interpose_begin",
    ".popsection",
    redeem = sym redeem,
);
#[cfg(target_arch = "aarch64")]
global_asm!(
    ".pushsection .text.psx_interpose_begin,\"ax\",@progbits",
    ".globl psx_interpose_begin",
    ".hidden psx_interpose_begin",
    ".type psx_interpose_begin,@function",
    "psx_interpose_begin:",
    ".cfi_startproc",
    "hint #34", // bti c
    "stp x29, x30, [sp, #-16]!",
    ".cfi_adjust_cfa_offset 16",
    ".cfi_offset x29, -16",
    ".cfi_offset x30, -8",
    "bl {redeem}",
    "ldp x29, x30, [sp], #16",
    ".cfi_adjust_cfa_offset -16",
    ".cfi_restore x29",
    ".cfi_restore x30",
    "mov x16, x0",
    "mov x0, x1",
    "br x16",
    ".cfi_endproc",
    ".size psx_interpose_begin, . - psx_interpose_begin",
    ".popsection",
    redeem = sym redeem,
);

unsafe extern "C" {
    #[link_name = "psx_interpose_begin"]
    fn begin(args: *mut c_void) -> *mut c_void;
}

/// The libc's `pthread_create`. `None` only in a static program that rustc did not link, and whose linker
/// was not told to keep the function (docs/integration.md).
#[cfg(not(target_feature = "crt-static"))]
fn real_pthread_create() -> Option<PthreadCreate> {
    use std::mem;
    use std::sync::atomic::{AtomicPtr, Ordering};

    /// Relaxed: every thread finds the same address.
    static FOUND: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());
    let mut found = FOUND.load(Ordering::Relaxed);
    if found.is_null() {
        // SAFETY: the name is a C string.
        found = unsafe { libc::dlsym(libc::RTLD_NEXT, c"pthread_create".as_ptr()) };
        if found.is_null() {
            found = weak_pthread_create();
        }
        FOUND.store(found, Ordering::Relaxed);
    }
    // SAFETY: null, or a function of that type.
    unsafe { mem::transmute::<*mut c_void, Option<PthreadCreate>>(found) }
}

/// The libc's `pthread_create`. A program that rustc links with a static libc has no other definition to
/// find at run time. A reference to this name makes the linker include the libc's function.
#[cfg(target_feature = "crt-static")]
fn real_pthread_create() -> Option<PthreadCreate> {
    unsafe extern "C" {
        fn __pthread_create(
            thread: *mut libc::pthread_t,
            attributes: *const libc::pthread_attr_t,
            start: Start,
            argument: *mut c_void,
        ) -> c_int;
    }
    Some(__pthread_create)
}

// The address of a static libc's function if the program has it, else null: a weak reference, which
// stable Rust cannot declare.
#[cfg(all(not(target_feature = "crt-static"), target_arch = "x86_64"))]
global_asm!(
    ".pushsection .text.psx_interpose_weak,\"ax\",@progbits",
    ".weak __pthread_create",
    ".globl psx_interpose_weak",
    ".hidden psx_interpose_weak",
    ".type psx_interpose_weak,@function",
    "psx_interpose_weak:",
    ".cfi_startproc",
    "endbr64",
    "mov rax, qword ptr [rip + __pthread_create@GOTPCREL]",
    "ret",
    ".cfi_endproc",
    ".size psx_interpose_weak, . - psx_interpose_weak",
    ".popsection",
);
#[cfg(all(not(target_feature = "crt-static"), target_arch = "aarch64"))]
global_asm!(
    ".pushsection .text.psx_interpose_weak,\"ax\",@progbits",
    ".weak __pthread_create",
    ".globl psx_interpose_weak",
    ".hidden psx_interpose_weak",
    ".type psx_interpose_weak,@function",
    "psx_interpose_weak:",
    ".cfi_startproc",
    "hint #34", // bti c
    "adrp x0, :got:__pthread_create",
    "ldr x0, [x0, #:got_lo12:__pthread_create]",
    "ret",
    ".cfi_endproc",
    ".size psx_interpose_weak, . - psx_interpose_weak",
    ".popsection",
);

#[cfg(not(target_feature = "crt-static"))]
unsafe extern "C" {
    #[link_name = "psx_interpose_weak"]
    safe fn weak_pthread_create() -> *mut c_void;
}
