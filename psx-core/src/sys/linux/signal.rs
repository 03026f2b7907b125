//! Signal 33: how a thread is summoned, and how everyone else who uses that number gets theirs.
//!
//! A summons is queued with `rt_tgsigqueueinfo` and carries a code that no other sender uses and
//! the address of the registry that it is for. Whatever arrives without them belongs to the
//! handler that was installed before ours. The kernel refuses positive codes and `SI_TKILL` from
//! outside, but lets a process of the same user forge ours: that does no harm, since a thread
//! answers only a round that has summoned its entry.

use core::ffi::{c_int, c_void};
use core::ptr;

use super::super::SendError;
use super::sync::{AtomicU32, Ordering, UnsafeCell};
use super::{mask, raw};
use crate::Errno;

/// The one signal that no libc lets a program block by `sigprocmask` or `pthread_sigmask`, and that
/// `sigfillset` leaves out. docs/signal-safety.md lists what blocks it all the same. glibc uses it for its own
/// setxid broadcast, musl for thread cancellation.
pub(crate) const SUMMONS: c_int = 33;

/// The `si_code` of a summons: negative, as the kernel demands of a code from user space.
const CODE: c_int = -0x0070_7378;

/// A signal's information in the kernel's layout, as far as a queued signal uses it.
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
    /// Past what any kind of signal uses. The kernel fills these with zeros, and refuses a signal
    /// queued with anything else in them (`SI_EXPANSION_SIZE`, Linux 4.20).
    notes: [u64; NOTES],
}

const _: () = assert!(size_of::<Info>() == 128);

/// How many copies of psx can take a note in one signal's information.
const NOTES: usize = 8;

/// Queues a summons for the thread `tid` of this process, on behalf of the registry at `registry`.
pub(super) fn summon(pid: u32, tid: u32, runtime: usize) -> Result<(), SendError> {
    let info = Info {
        signo: SUMMONS,
        errno: 0,
        code: CODE,
        _align: 0,
        pid,
        uid: 0,
        value: runtime,
        _other_kinds: [0; 4],
        notes: [0; NOTES],
    };
    let args = [pid as usize, tid as usize, SUMMONS as usize, &raw const info as usize, 0, 0];
    // SAFETY: the kernel reads the information, which is ours. The signal goes to a thread of this
    // process, where our handler is first in line (invariant I9).
    match unsafe { raw::syscall(libc::SYS_rt_tgsigqueueinfo, args) } {
        Ok(_) => Ok(()),
        Err(errno) => Err(match errno.raw() {
            libc::EAGAIN => SendError::Full,
            libc::ESRCH => SendError::Gone,
            _ => SendError::Denied(errno),
        }),
    }
}

/// Whether this is a summons by the registry at `registry`.
///
/// # Safety
///
/// `info` is null, or points to what the kernel gave to a handler with `SA_SIGINFO`, or to a copy.
pub(crate) unsafe fn is_summons(info: *const libc::siginfo_t, runtime: usize) -> bool {
    let info = info.cast::<Info>();
    // SAFETY: the kernel's information is 128 bytes long, whatever kind of signal it is about.
    !info.is_null() && unsafe { (*info).code == CODE && (*info).value == runtime }
}

/// How many bytes are left below the calling function's frame on the alternate stack that a handler runs
/// on. Where it runs on the thread's own stack, whose end is not known here: as many as there can be.
///
/// # Safety
///
/// `context` is what the kernel gave to a handler with `SA_SIGINFO`.
pub(crate) unsafe fn stack_left(context: *const c_void) -> usize {
    // SAFETY: as our caller promises. The stack is described at the same place on all machines that
    // psx builds for, and is all zero where the thread has none.
    let stack = unsafe { (*context.cast::<libc::ucontext_t>()).uc_stack };
    let here = (&raw const stack).addr();
    let left = here.checked_sub(stack.ss_sp.addr());
    left.filter(|&left| left < stack.ss_size).unwrap_or(usize::MAX)
}

/// An action in the form that `rt_sigaction` takes.
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

/// `SA_ONSTACK` for programs with small stacks, `SA_RESTART` for the calls that the kernel can
/// resume, a mask that lets nothing but the synchronous signals interrupt a stopped thread.
fn ours(handler: Handler) -> Action {
    let flags = (libc::SA_SIGINFO | libc::SA_RESTART | libc::SA_ONSTACK) as usize;
    #[cfg(target_arch = "x86_64")]
    let (flags, restorer) = (flags | SA_RESTORER, restorer as *const () as usize);
    #[cfg(not(target_arch = "x86_64"))]
    let restorer = 0;
    Action { handler: handler as *const () as usize, flags, restorer, mask: mask::BLOCKED }
}

/// What a handler with `SA_SIGINFO` looks like.
pub(crate) type Handler = extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void);

// On x86_64 a handler returns into this. The instructions are exactly those by which unwinders and
// debuggers recognise a signal frame.
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
    // No handler is at this address.
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
    // async-signal-safe (docs/signal-safety.md) and its restorer is the one above.
    unsafe { raw::syscall(libc::SYS_rt_sigaction, args) }?;
    // A filter has answered in the kernel's place.
    if old.handler == usize::MAX { Err(Errno::from_raw(libc::ENOSYS)) } else { Ok(old) }
}

/// How many different handlers can have been in our place before psx gives up: one for the libc,
/// some for the program's own experiments.
const CHAIN: usize = 8;

/// Those who had signal 33 before us. In place, because a round may not allocate any more when it
/// finds them, and never overwritten, because a handler may be reading.
pub(super) struct Chain {
    /// The actions found so far. The first `found` of them do not change any more (invariant I9).
    actions: UnsafeCell<[Action; CHAIN]>,
    /// How many. Written under the round's lock (Release), read by any thread's handler (Acquire).
    found: AtomicU32,
    /// The one found last, plus one; 0 for none. Written under the round's lock (Release), read by
    /// any thread's handler (Acquire).
    latest: AtomicU32,
}

// SAFETY: see `actions`: an action is written under the round's lock before `latest` shows it, and
// never again (invariant I9).
unsafe impl Sync for Chain {}

impl Chain {
    pub(super) const fn new() -> Self {
        const NONE: Action = Action { handler: libc::SIG_DFL, flags: 0, restorer: 0, mask: 0 };
        Self {
            actions: UnsafeCell::new([NONE; CHAIN]),
            found: AtomicU32::new(0),
            latest: AtomicU32::new(0),
        }
    }

    /// Makes sure that `handler` is the one that the kernel calls. glibc installs its own at the
    /// first `pthread_create`, musl at the first `pthread_cancel`, a program when it likes.
    ///
    /// Only the holder of the round's lock calls this.
    /// Returns whether it was not. Neither allocates nor locks: a round also asks while threads are stopped.
    pub(super) fn confirm(&self, handler: Handler) -> Result<bool, Errno> {
        let ours = ours(handler);
        let current = sigaction(None)?;
        if current.handler == ours.handler {
            return Ok(false);
        }
        // Remembered first: from the next call on, signals for it come to us.
        self.remember(current)?;
        let replaced = sigaction(Some(&ours))?;
        if replaced != current {
            self.remember(replaced)?;
        }
        Ok(true)
    }

    /// A program that puts its handler back after each round takes one place, not many.
    fn remember(&self, action: Action) -> Result<(), Errno> {
        // Relaxed: written under the same lock.
        let found = self.found.load(Ordering::Relaxed) as usize;
        // SAFETY: those found so far are only read from now on.
        let known = self.actions.with(|actions| unsafe {
            (&*actions)[..found].iter().position(|known| *known == action)
        });
        let index = match known {
            Some(index) => index,
            None if found == CHAIN => return Err(Errno::from_raw(libc::ENOSPC)),
            None => {
                // SAFETY: no handler reads this one before `latest` shows it.
                self.actions.with_mut(|actions| unsafe {
                    (&raw mut (*actions)[found]).write(action);
                });
                // Release, for whoever sees the number before `latest`.
                self.found.store(found as u32 + 1, Ordering::Release);
                found
            }
        };
        // Release pairs with the Acquire in `pass_on`.
        self.latest.store(index as u32 + 1, Ordering::Release);
        Ok(())
    }

    /// Hands a signal that is not ours to the handler that was there before. Async-signal-safe.
    ///
    /// A handler that came after us may pass the signal on to us, as the one before it: then it goes
    /// to the next that has not had it. Which have had it is noted in the signal's information. That
    /// is the kernel's copy on the stack of this thread: it is there for this delivery alone, also
    /// where a handler leaves by `siglongjmp`, and takes no thread-local.
    ///
    /// Where there was none, the signal ends here: the default action would end the program, and
    /// any process of the same user could have sent it.
    ///
    /// # Safety
    ///
    /// `info` is null, or points to what the kernel gave to a handler with `SA_SIGINFO`, or to a
    /// copy of that, which can be written to.
    pub(super) unsafe fn pass_on(
        &self,
        signal: c_int,
        info: *mut libc::siginfo_t,
        context: *mut c_void,
    ) {
        // SAFETY: our caller's promise.
        let Some(note) = (unsafe { self.note(info) }) else { return };
        // SAFETY: inside of the information that was given to us.
        let before = unsafe { *note };
        // Acquire pairs with the Release in `remember`: with `latest` all that were found before it
        // are seen. Then from the newest to the oldest.
        let latest = self.latest.load(Ordering::Acquire) as usize;
        let found = self.found.load(Ordering::Acquire) as usize;
        let mut candidates = latest.checked_sub(1).into_iter().chain((0..found.min(CHAIN)).rev());
        let Some(index) = candidates.find(|index| before & 1 << index == 0) else { return };
        // SAFETY: as above.
        unsafe { *note = before | 1 << index };
        self.call(index, signal, info, context);
        // SAFETY: as above; the handler has returned to this frame, so the information is there.
        unsafe { *note = before };
    }

    /// Where this chain notes which of its handlers have had a signal: the eight low bits; the rest
    /// is the chain's address, which tells it from another copy's. `None` where there is no room.
    ///
    /// # Safety
    ///
    /// As [`Chain::pass_on`].
    unsafe fn note(&self, info: *mut libc::siginfo_t) -> Option<*mut u64> {
        const { assert!(CHAIN == 8, "one bit each") };
        let own = (ptr::from_ref(self).addr() as u64) << CHAIN;
        let info = info.cast::<Info>();
        if info.is_null() {
            return None;
        }
        // SAFETY: inside of the information.
        let mut notes = (0..NOTES).map(|i| unsafe { &raw mut (*info).notes[i] });
        notes.find(|&note| {
            // SAFETY: our caller lets us read and write it.
            let seen = unsafe { *note };
            if seen == 0 {
                // SAFETY: as above.
                unsafe { *note = own };
            }
            seen == 0 || seen >> CHAIN << CHAIN == own
        })
    }

    fn call(&self, index: usize, signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
        // SAFETY: shown by `latest` or `found`, so written and not changing any more (invariant I9).
        let Action { handler, flags, .. } =
            self.actions.with(|actions| unsafe { (&raw const (*actions)[index]).read() });
        if handler == libc::SIG_DFL || handler == libc::SIG_IGN {
            return;
        }
        if flags & libc::SA_SIGINFO as usize == 0 {
            // SAFETY: whoever installed this handler without SA_SIGINFO gave it this type.
            let handler: extern "C" fn(c_int) = unsafe { core::mem::transmute(handler) };
            handler(signal);
        } else {
            // SAFETY: whoever installed this handler with SA_SIGINFO gave it this type.
            let handler: Handler = unsafe { core::mem::transmute(handler) };
            handler(signal, info, context);
        }
    }
}
