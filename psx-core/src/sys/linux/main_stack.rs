//! The alternate signal stack of the main thread, where it is the one that Rust's std made.
//! Contains `unsafe`: it maps memory and gives it to the kernel as a stack.
//!
//! Signal 33 is delivered on a thread's alternate stack where it has one (`SA_ONSTACK`). std unmaps
//! main's in `std::process::exit`, on whichever thread that is called. Where it is another thread,
//! main still has that stack set, and no thread can change another's: the next summons for main
//! would end the process by SIGSEGV instead of with its status. So main moves to a stack of psx's,
//! which is never unmapped. std's handler, which reports a stack overflow, runs there as well.

use core::ptr;

use super::raw;
use super::sync::{AtomicU32, Ordering};
use crate::Errno;

/// What handlers on it may use beyond the kernel's frame.
const ROOM: usize = 64 * 1024;

/// How often main looks for std's stack: a program without one is not to ask at each call, which a filter
/// on system calls may forbid later.
const TRIES: u32 = 8;

pub(super) struct MainStack {
    /// How often main has looked; [`TRIES`] where nothing is left to do. Relaxed: only the main thread
    /// reads and writes it.
    tries: AtomicU32,
}

impl MainStack {
    pub(super) const fn new() -> Self {
        Self { tries: AtomicU32::new(0) }
    }

    /// Moves the calling thread, the main thread, from std's alternate stack to one that stays.
    ///
    /// A stack that the program made itself is left alone: the program may ask the kernel for it, and
    /// free what it gets. Where there is none yet (functions that run before `main` come before std's
    /// start), where main is on it at this moment, or where memory is short, the next call tries again, up to
    /// [`TRIES`] times.
    pub(super) fn replace_std_stack(&self) {
        let tries = self.tries.load(Ordering::Relaxed);
        if tries == TRIES {
            return;
        }
        self.tries.store(tries + 1, Ordering::Relaxed);
        let Ok(current) = exchange(None) else { return };
        if current.ss_flags & (libc::SS_DISABLE | libc::SS_ONSTACK) != 0 {
            return;
        }
        if !is_like_std(&current) || move_to_own().is_ok() {
            self.tries.store(TRIES, Ordering::Relaxed);
        }
    }
}

/// Whether it has the size, the alignment and the flags of std's.
fn is_like_std(stack: &libc::stack_t) -> bool {
    stack.ss_flags == 0
        && stack.ss_size == libc::SIGSTKSZ.max(auxiliary(libc::AT_MINSIGSTKSZ))
        && stack.ss_sp as usize % page_size() == 0
}

/// Maps a stack with a guard page below it, and moves the calling thread there.
fn move_to_own() -> Result<(), Errno> {
    let guard = page_size();
    let size = (ROOM + auxiliary(libc::AT_MINSIGSTKSZ)).next_multiple_of(guard);
    let access = (libc::PROT_READ | libc::PROT_WRITE) as usize;
    let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK) as usize;
    let map = [0, guard + size, access, flags, usize::MAX, 0];
    // SAFETY: a new mapping, at an address that the kernel picks.
    let address = unsafe { raw::syscall(libc::SYS_mmap, map) }?;
    let stack = libc::stack_t {
        ss_sp: ptr::with_exposed_provenance_mut(address + guard),
        ss_flags: 0,
        ss_size: size,
    };
    let protect = [address, guard, libc::PROT_NONE as usize, 0, 0, 0];
    // SAFETY: the lowest page of our own mapping, which is not part of the stack.
    let moved = unsafe { raw::syscall(libc::SYS_mprotect, protect) }
        .and_then(|_| exchange(Some(&stack)).map(drop));
    if moved.is_err() {
        // SAFETY: our own mapping, which the kernel has not taken for a stack.
        let _ = unsafe { raw::syscall(libc::SYS_munmap, [address, guard + size, 0, 0, 0, 0]) };
    }
    moved
}

/// The calling thread's alternate stack, replaced by `new` where that is given.
fn exchange(new: Option<&libc::stack_t>) -> Result<libc::stack_t, Errno> {
    let mut old = libc::stack_t { ss_sp: ptr::null_mut(), ss_flags: 0, ss_size: 0 };
    let args =
        [new.map_or(0, |new| ptr::from_ref(new) as usize), &raw mut old as usize, 0, 0, 0, 0];
    // SAFETY: the kernel reads one description and writes one, both ours. A new stack is mapped for
    // good, and no other thread uses it.
    unsafe { raw::syscall(libc::SYS_sigaltstack, args) }?;
    Ok(old)
}

fn page_size() -> usize {
    auxiliary(libc::AT_PAGESZ).max(4096)
}

/// What the kernel told the program at its start; 0 where it told nothing.
fn auxiliary(kind: libc::c_ulong) -> usize {
    // SAFETY: getauxval(3) only reads.
    unsafe { libc::getauxval(kind) as usize }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On a thread of its own, which std has given a stack of the kind that main has.
    #[test]
    fn a_stack_of_std_is_replaced_once() {
        let main = MainStack::new();
        let of_std = exchange(None).unwrap();
        assert!(is_like_std(&of_std));
        main.replace_std_stack();
        let ours = exchange(None).unwrap();
        assert!(ours.ss_size >= ROOM && ours.ss_sp != of_std.ss_sp);
        exchange(Some(&of_std)).unwrap();
        main.replace_std_stack();
        assert_eq!(exchange(None).unwrap().ss_sp, of_std.ss_sp);
    }

    #[test]
    fn a_stack_of_the_programs_own_stays() {
        let of_std = exchange(None).unwrap();
        let mut memory = vec![0_u8; 2 * libc::SIGSTKSZ];
        let own =
            libc::stack_t { ss_sp: memory.as_mut_ptr().cast(), ss_flags: 0, ss_size: memory.len() };
        exchange(Some(&own)).unwrap();
        MainStack::new().replace_std_stack();
        assert_eq!(exchange(Some(&of_std)).unwrap().ss_sp, own.ss_sp);
    }

    #[test]
    fn none_is_tried_again() {
        let of_std = exchange(None).unwrap();
        let none = libc::stack_t { ss_flags: libc::SS_DISABLE, ..of_std };
        exchange(Some(&none)).unwrap();
        let main = MainStack::new();
        main.replace_std_stack();
        assert_eq!(exchange(None).unwrap().ss_flags, libc::SS_DISABLE);
        exchange(Some(&of_std)).unwrap();
        main.replace_std_stack();
        assert_ne!(exchange(None).unwrap().ss_sp, of_std.ss_sp);
    }
}
