//! The alternate signal stack of the main thread, if it is the one that Rust's std made. Contains `unsafe`:
//! it maps memory and gives it to the kernel as a stack.
//!
//! Need: signal 33 is delivered on a thread's alternate stack if it has one (`SA_ONSTACK`).
//! `std::process::exit` unmaps the main thread's, on the thread that calls it. If that is another thread,
//! the kernel still has that stack for the main thread, and no thread can change another one's: the next
//! summons of the main thread would end the process by SIGSEGV instead of with its status. Design: the main
//! thread moves to a stack of psx, which is never unmapped. std's handler, which reports a stack overflow,
//! runs there too.

use core::ptr;

use super::raw;
use super::sync::{AtomicU32, Ordering};
use crate::Errno;

/// The size of the stack in bytes, without the kernel's frame.
const HANDLER_SIZE: usize = 64 * 1024;

/// How many calls into psx look for std's stack. Limited, because a seccomp filter may forbid `sigaltstack`
/// later.
const TRIES: u32 = 8;

pub(super) struct MainStack {
    /// How many calls have looked; [`TRIES`] if nothing is left to do. Relaxed: only the main thread reads
    /// and writes it.
    tries: AtomicU32,
}

impl MainStack {
    pub(super) const fn new() -> Self {
        Self { tries: AtomicU32::new(0) }
    }

    /// Moves the main thread, which calls this, from std's alternate stack to one that stays mapped.
    ///
    /// A stack that the program made itself stays: the program may read its address from the kernel and
    /// free it. If there is no stack yet (functions that run before `main` run before std's start), if the
    /// thread is on it at this moment, or if there is no memory, the next calls try again, [`TRIES`] times
    /// in all.
    pub(super) fn replace_std_stack(&self) {
        let tries = self.tries.load(Ordering::Relaxed);
        if tries == TRIES {
            return;
        }
        self.tries.store(tries + 1, Ordering::Relaxed);
        let Ok(current) = sigaltstack(None) else { return };
        if current.ss_flags & (libc::SS_DISABLE | libc::SS_ONSTACK) != 0 {
            return;
        }
        if !is_like_std(&current) || move_to_own().is_ok() {
            self.tries.store(TRIES, Ordering::Relaxed);
        }
    }
}

/// Whether it has the size, alignment and flags of std's.
fn is_like_std(stack: &libc::stack_t) -> bool {
    stack.ss_flags == 0
        && stack.ss_size == libc::SIGSTKSZ.max(getauxval(libc::AT_MINSIGSTKSZ))
        && stack.ss_sp as usize % page_size() == 0
}

/// Maps a stack with a guard page below it, and moves the calling thread there.
fn move_to_own() -> Result<(), Errno> {
    let guard = page_size();
    let size = (HANDLER_SIZE + getauxval(libc::AT_MINSIGSTKSZ)).next_multiple_of(guard);
    let address = raw::mmap_anonymous(guard + size, libc::MAP_STACK)?;
    let stack = libc::stack_t {
        ss_sp: ptr::with_exposed_provenance_mut(address + guard),
        ss_flags: 0,
        ss_size: size,
    };
    let protect = [address, guard, libc::PROT_NONE as usize, 0, 0, 0];
    // SAFETY: the lowest page of our own mapping, below the stack.
    let moved = unsafe { raw::syscall(libc::SYS_mprotect, protect) }
        .and_then(|_| sigaltstack(Some(&stack)).map(drop));
    if moved.is_err() {
        // SAFETY: our own mapping, which the kernel does not use as a stack.
        unsafe { raw::munmap(address, guard + size) };
    }
    moved
}

/// Returns the calling thread's alternate stack, and sets it to `new` if given.
fn sigaltstack(new: Option<&libc::stack_t>) -> Result<libc::stack_t, Errno> {
    let mut old = libc::stack_t { ss_sp: ptr::null_mut(), ss_flags: 0, ss_size: 0 };
    let args =
        [new.map_or(0, |new| ptr::from_ref(new) as usize), &raw mut old as usize, 0, 0, 0, 0];
    // SAFETY: the kernel reads one `stack_t` and writes one, both ours. A new stack is never unmapped, and
    // no other thread uses it.
    unsafe { raw::syscall(libc::SYS_sigaltstack, args) }?;
    Ok(old)
}

fn page_size() -> usize {
    getauxval(libc::AT_PAGESZ).max(4096)
}

/// A value of the auxiliary vector; 0 if the kernel did not set it.
fn getauxval(kind: libc::c_ulong) -> usize {
    // SAFETY: getauxval(3) only reads.
    unsafe { libc::getauxval(kind) as usize }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The test's thread has a stack of the same kind as the main thread's.
    #[test]
    fn a_stack_of_std_is_replaced_once() {
        let main = MainStack::new();
        let of_std = sigaltstack(None).unwrap();
        assert!(is_like_std(&of_std));
        main.replace_std_stack();
        let ours = sigaltstack(None).unwrap();
        assert!(ours.ss_size >= HANDLER_SIZE && ours.ss_sp != of_std.ss_sp);
        sigaltstack(Some(&of_std)).unwrap();
        main.replace_std_stack();
        assert_eq!(sigaltstack(None).unwrap().ss_sp, of_std.ss_sp);
    }

    #[test]
    fn a_stack_of_the_program_stays() {
        let of_std = sigaltstack(None).unwrap();
        let mut memory = vec![0_u8; 2 * libc::SIGSTKSZ];
        let own =
            libc::stack_t { ss_sp: memory.as_mut_ptr().cast(), ss_flags: 0, ss_size: memory.len() };
        sigaltstack(Some(&own)).unwrap();
        MainStack::new().replace_std_stack();
        assert_eq!(sigaltstack(Some(&of_std)).unwrap().ss_sp, own.ss_sp);
    }

    #[test]
    fn a_missing_stack_is_looked_for_again() {
        let of_std = sigaltstack(None).unwrap();
        let none = libc::stack_t { ss_flags: libc::SS_DISABLE, ..of_std };
        sigaltstack(Some(&none)).unwrap();
        let main = MainStack::new();
        main.replace_std_stack();
        assert_eq!(sigaltstack(None).unwrap().ss_flags, libc::SS_DISABLE);
        sigaltstack(Some(&of_std)).unwrap();
        main.replace_std_stack();
        assert_ne!(sigaltstack(None).unwrap().ss_sp, of_std.ss_sp);
    }
}
