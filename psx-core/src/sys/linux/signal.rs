//! Signal 33: how psx summons a thread, and how other users of the signal still receive theirs.
//!
//! A summons is queued with `rt_tgsigqueueinfo`, with a code that no other sender uses and the address of
//! the [`Kernel`](super::Kernel) that it is for. Any other signal 33 goes to the handler that was installed
//! before. The kernel refuses positive codes and `SI_TKILL` from another process, but a process of the same
//! user may forge a summons. That does no harm: a thread answers only a round that has summoned its entry.

use core::ffi::{c_int, c_void};
use core::ptr;

use super::super::SendError;
use super::sync::{AtomicU32, Ordering, UnsafeCell};
use super::{mask, raw};
use crate::Errno;

/// The signal of a summons. No libc lets a program block it by `sigprocmask` or `pthread_sigmask`, and
/// `sigfillset` leaves it out; docs/signal-safety.md lists what blocks it all the same. glibc uses it for
/// its setxid broadcast, musl for thread cancellation.
pub(crate) const SUMMONS: c_int = 33;

/// The `si_code` of a summons: negative, as the kernel requires from user space.
const SI_PSX: c_int = -0x0070_7378;

/// The kernel's `siginfo_t`, with the fields of a queued signal.
#[repr(C)]
struct Info {
    signo: c_int,
    errno: c_int,
    code: c_int,
    _align: c_int,
    pid: u32,
    uid: u32,
    value: usize,
    _other_kinds: [u64; 4],
    /// Unused by any kind of signal. The kernel fills them with zeros, and refuses to queue a signal with
    /// other values (`SI_EXPANSION_SIZE`, Linux 4.20).
    visited: [u64; COPIES],
}

const _: () = assert!(size_of::<Info>() == 128);

/// How many copies of psx in one process can record the visited handlers of a signal.
const COPIES: usize = 8;

/// Queues a summons for the thread `tid` of this process, for the `Kernel` at `address`.
pub(super) fn summon(pid: u32, tid: u32, address: usize) -> Result<(), SendError> {
    let info = Info {
        signo: SUMMONS,
        errno: 0,
        code: SI_PSX,
        _align: 0,
        pid,
        uid: 0,
        value: address,
        _other_kinds: [0; 4],
        visited: [0; COPIES],
    };
    let args = [pid as usize, tid as usize, SUMMONS as usize, &raw const info as usize, 0, 0];
    // SAFETY: the kernel reads the information, which is ours. The signal goes to a thread of this process,
    // where psx's handler is first in line (invariant I9).
    match unsafe { raw::syscall(libc::SYS_rt_tgsigqueueinfo, args) } {
        Ok(_) => Ok(()),
        Err(errno) => Err(match errno.raw() {
            libc::EAGAIN => SendError::Full,
            libc::ESRCH => SendError::Gone,
            _ => SendError::Denied(errno),
        }),
    }
}

/// Whether this is a summons for the `Kernel` at `address`.
///
/// # Safety
///
/// `info` is null, or the argument of a handler with `SA_SIGINFO`, or a copy of that.
pub(crate) unsafe fn is_summons(info: *const libc::siginfo_t, address: usize) -> bool {
    let info = info.cast::<Info>();
    // SAFETY: the kernel's information has 128 bytes for every kind of signal.
    !info.is_null() && unsafe { (*info).code == SI_PSX && (*info).value == address }
}

/// How many bytes of the alternate stack are left below the calling function's frame. `usize::MAX` if the
/// handler runs on the thread's own stack, whose end is not known here.
///
/// # Safety
///
/// `context` is the argument of a handler with `SA_SIGINFO`.
pub(crate) unsafe fn stack_left(context: *const c_void) -> usize {
    // SAFETY: our caller's promise. `uc_stack` is zero if the thread has no alternate stack.
    let stack = unsafe { (*context.cast::<libc::ucontext_t>()).uc_stack };
    let here = (&raw const stack).addr();
    let left = here.checked_sub(stack.ss_sp.addr());
    left.filter(|&left| left < stack.ss_size).unwrap_or(usize::MAX)
}

/// The kernel's `struct sigaction`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
struct Action {
    handler: usize,
    flags: usize,
    restorer: usize,
    mask: u64,
}

#[cfg(target_arch = "x86_64")]
const SA_RESTORER: usize = 0x0400_0000;

/// The action with psx's handler: `SA_ONSTACK` for programs with small stacks, `SA_RESTART` for the system
/// calls that the kernel can restart, a mask that lets only synchronous signals interrupt a stopped thread.
fn action(handler: Handler) -> Action {
    let flags = (libc::SA_SIGINFO | libc::SA_RESTART | libc::SA_ONSTACK) as usize;
    #[cfg(target_arch = "x86_64")]
    let (flags, restorer) = (flags | SA_RESTORER, restorer as *const () as usize);
    #[cfg(not(target_arch = "x86_64"))]
    let restorer = 0;
    Action { handler: handler as *const () as usize, flags, restorer, mask: mask::BLOCKED }
}

/// A handler with `SA_SIGINFO`.
pub(crate) type Handler = extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void);

// On x86_64 a handler returns to this. Unwinders and debuggers recognise a signal frame by exactly these
// instructions.
#[cfg(target_arch = "x86_64")]
core::arch::global_asm!(
    ".pushsection .text.psx_restorer,\"ax\",@progbits",
    ".balign 16",
    ".type psx_core_restorer,@function",
    ".local psx_core_restorer",
    "nop",
    "psx_core_restorer:",
    "mov $15, %rax",
    "syscall",
    ".size psx_core_restorer, . - psx_core_restorer",
    ".popsection",
    options(att_syntax)
);

#[cfg(target_arch = "x86_64")]
unsafe extern "C" {
    #[link_name = "psx_core_restorer"]
    safe fn restorer();
}

fn sigaction(new: Option<&Action>) -> Result<Action, Errno> {
    // No handler has this address.
    let mut old = Action { handler: usize::MAX, flags: 0, restorer: 0, mask: 0 };
    let args = [
        SUMMONS as usize,
        new.map_or(0, |new| ptr::from_ref(new) as usize),
        &raw mut old as usize,
        size_of::<u64>(),
        0,
        0,
    ];
    // SAFETY: the kernel reads one action and writes one, both ours. The new action's handler is
    // async-signal-safe (docs/signal-safety.md), and its restorer is the one above.
    unsafe { raw::syscall(libc::SYS_rt_sigaction, args) }?;
    if old.handler == usize::MAX { Err(raw::FORGED) } else { Ok(old) }
}

/// How many different handlers psx remembers before it gives up: one for the libc, some for the program's
/// own.
const CHAIN_LENGTH: usize = 8;

/// The handlers that were installed before psx's. In place, because a round that finds one may not
/// allocate; never overwritten, because a handler may be reading.
pub(super) struct Chain {
    /// The first `found` actions do not change any more (invariant I9).
    actions: UnsafeCell<[Action; CHAIN_LENGTH]>,
    /// Written under the round's lock (Release), read by any thread's handler (Acquire).
    found: AtomicU32,
    /// The index of the last found action, plus one; 0 for none. Written under the round's lock (Release),
    /// read by any thread's handler (Acquire).
    latest: AtomicU32,
}

// SAFETY: an action is written under the round's lock before `found` or `latest` includes it, and never
// again (invariant I9).
unsafe impl Sync for Chain {}

impl Chain {
    pub(super) const fn new() -> Self {
        const NONE: Action = Action { handler: libc::SIG_DFL, flags: 0, restorer: 0, mask: 0 };
        Self {
            actions: UnsafeCell::new([NONE; CHAIN_LENGTH]),
            found: AtomicU32::new(0),
            latest: AtomicU32::new(0),
        }
    }

    /// Makes `handler` the one that the kernel calls; returns whether another one had replaced it. glibc
    /// installs its own at the first `pthread_create`, musl at the first `pthread_cancel`, a program at any
    /// time.
    ///
    /// Only the holder of the round's lock calls this, also while threads are stopped: neither allocates
    /// nor locks.
    pub(super) fn confirm(&self, handler: Handler) -> Result<bool, Errno> {
        let ours = action(handler);
        let current = sigaction(None)?;
        if current.handler == ours.handler {
            return Ok(false);
        }
        // Remembered first: after the next call, psx receives that handler's signals.
        self.remember(current)?;
        let replaced = sigaction(Some(&ours))?;
        if replaced != current {
            self.remember(replaced)?;
        }
        Ok(true)
    }

    /// Adds an action, unless it is known: a program may install its handler again after each round.
    fn remember(&self, action: Action) -> Result<(), Errno> {
        // Relaxed: written under the same lock.
        let found = self.found.load(Ordering::Relaxed) as usize;
        // SAFETY: the first `found` actions are only read.
        let known = self.actions.with(|actions| unsafe {
            (&*actions)[..found].iter().position(|known| *known == action)
        });
        let index = match known {
            Some(index) => index,
            None if found == CHAIN_LENGTH => return Err(Errno::from_raw(libc::ENOSPC)),
            None => {
                // SAFETY: no handler reads this action before `found` or `latest` includes it.
                self.actions.with_mut(|actions| unsafe {
                    (&raw mut (*actions)[found]).write(action);
                });
                // Release pairs with the Acquire in `pass_on`, for a handler that reads an older `latest`.
                self.found.store(found as u32 + 1, Ordering::Release);
                found
            }
        };
        // Release pairs with the Acquire in `pass_on`.
        self.latest.store(index as u32 + 1, Ordering::Release);
        Ok(())
    }

    /// Passes a signal that is not a summons to the handler that was installed before. Async-signal-safe.
    ///
    /// A handler that was installed after psx's may pass the signal on to psx's, as its predecessor; then
    /// the next handler that has not had the signal gets it. The signal's information records which have
    /// had it: the kernel's copy on this thread's stack lives for this delivery only, also where a handler
    /// leaves by `siglongjmp`, and needs no thread-local.
    ///
    /// Without an earlier handler the signal is dropped: the default action would end the program, and any
    /// process of the same user can send the signal.
    ///
    /// # Safety
    ///
    /// `info` is null, or the argument of a handler with `SA_SIGINFO`, or a writable copy of that.
    pub(super) unsafe fn pass_on(
        &self,
        signal: c_int,
        info: *mut libc::siginfo_t,
        context: *mut c_void,
    ) {
        // SAFETY: our caller's promise.
        let Some(visited) = (unsafe { self.visited(info) }) else { return };
        // SAFETY: part of the information.
        let before = unsafe { *visited };
        // Acquire pairs with the Release in `remember`: `latest`, and all actions found before it, are
        // visible. The latest first, then from the newest to the oldest.
        let latest = self.latest.load(Ordering::Acquire) as usize;
        let found = self.found.load(Ordering::Acquire) as usize;
        let mut candidates =
            latest.checked_sub(1).into_iter().chain((0..found.min(CHAIN_LENGTH)).rev());
        let Some(index) = candidates.find(|index| before & 1 << index == 0) else { return };
        // SAFETY: as above.
        unsafe { *visited = before | 1 << index };
        self.call(index, signal, info, context);
        // SAFETY: as above; the handler has returned to this frame, so the information still exists.
        unsafe { *visited = before };
    }

    /// The word of the information in which this chain records the handlers that have had the signal: one
    /// bit each in the low eight; the rest is the chain's address, which tells it from another copy's word.
    /// `None` if all words are taken.
    ///
    /// # Safety
    ///
    /// As [`Chain::pass_on`].
    unsafe fn visited(&self, info: *mut libc::siginfo_t) -> Option<*mut u64> {
        const { assert!(CHAIN_LENGTH == 8, "one bit each") };
        let own = (ptr::from_ref(self).addr() as u64) << CHAIN_LENGTH;
        let info = info.cast::<Info>();
        if info.is_null() {
            return None;
        }
        // SAFETY: part of the information.
        let mut words = (0..COPIES).map(|i| unsafe { &raw mut (*info).visited[i] });
        words.find(|&word| {
            // SAFETY: our caller's promise.
            let seen = unsafe { *word };
            if seen == 0 {
                // SAFETY: as above.
                unsafe { *word = own };
            }
            seen == 0 || seen >> CHAIN_LENGTH << CHAIN_LENGTH == own
        })
    }

    fn call(&self, index: usize, signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
        // SAFETY: `latest` or `found` includes it, so it is written and does not change (invariant I9).
        let Action { handler, flags, .. } =
            self.actions.with(|actions| unsafe { (&raw const (*actions)[index]).read() });
        if handler == libc::SIG_DFL || handler == libc::SIG_IGN {
            return;
        }
        if flags & libc::SA_SIGINFO as usize == 0 {
            // SAFETY: a handler installed without SA_SIGINFO has this type.
            let handler: extern "C" fn(c_int) = unsafe { core::mem::transmute(handler) };
            handler(signal);
        } else {
            // SAFETY: a handler installed with SA_SIGINFO has this type.
            let handler: Handler = unsafe { core::mem::transmute(handler) };
            handler(signal, info, context);
        }
    }
}
