//! Whether a thread is alive, by a word that the kernel changes as the thread ends.
//!
//! Need: an id does not tell. A dead thread's id may be another thread's by now, of this process or of
//! another, and then the kernel says that there is such a thread. Design: a registered thread holds a
//! robust mutex (`PTHREAD_MUTEX_ROBUST`). Such a mutex is in the thread's robust list, which the kernel
//! goes through when the thread ends, however it ends, and before the id is free again: it marks the
//! mutex with `FUTEX_OWNER_DIED` (`exit_robust_list` in the kernel's kernel/futex/core.c). So a look is
//! one load from memory, without a system call or a call of the libc's.
//!
//! The mutex's lock word holds its owner's id. It is where the ABI of glibc and musl has it; a word
//! that does not hold the id after the mutex was taken is not relied on.
//!
//! Downside: where the kernel does not know the thread's list (a main thread after a raw `clone`, a
//! filter against `set_robust_list`), or gives up on a list of more than 2048, the word never changes.
//! So a mark that is set proves the thread dead, and one that is not proves nothing. Contains `unsafe`:
//! the mutex is the libc's.

use core::cell::UnsafeCell;
use core::ffi::c_int;
use core::mem::MaybeUninit;

use super::sync::{AtomicU32, Ordering};

/// Where the lock word is in the mutex, in bytes.
const LOCK_WORD: Option<usize> = if cfg!(target_env = "gnu") {
    Some(0)
} else if cfg!(target_env = "musl") {
    Some(4)
} else {
    None
};

// From the kernel's include/uapi/linux/futex.h.
const OWNER_DIED: u32 = 0x4000_0000;
const TID_MASK: u32 = 0x3fff_ffff;

// From the libcs' pthread.h: the crate `libc` has had the function for a short time only.
const PTHREAD_MUTEX_ROBUST: c_int = 1;
unsafe extern "C" {
    fn pthread_mutexattr_setrobust(
        attributes: *mut libc::pthread_mutexattr_t,
        robustness: c_int,
    ) -> c_int;
    fn pthread_mutex_consistent(mutex: *mut libc::pthread_mutex_t) -> c_int;
}

/// What tells that the thread which has taken it is dead.
pub(crate) struct LifeMark {
    /// Touched by the libc for the thread that holds it, and by the kernel as that thread ends; its
    /// lock word is read by the caller of a round.
    mutex: UnsafeCell<MaybeUninit<libc::pthread_mutex_t>>,
    /// [`NONE`], [`FREE`], [`HELD`] or [`GIVEN_UP`]. Written by the thread itself, before its entry is in the list
    /// or around a fork; read by the caller of a round. A caller's mark is written under the round's
    /// lock and read by any thread. Relaxed: the list's lock, the gate or the round word has passed it
    /// on, and a thread that sees an older state asks the kernel.
    state: AtomicU32,
}

/// There is no mutex.
const NONE: u32 = 0;
/// There is one, which its thread does not hold, or whose lock word is not known.
const FREE: u32 = 1;
/// The thread holds it.
const HELD: u32 = 2;
/// There will be none.
const GIVEN_UP: u32 = 3;

impl LifeMark {
    pub(crate) const fn new() -> Self {
        Self { mutex: UnsafeCell::new(MaybeUninit::uninit()), state: AtomicU32::new(NONE) }
    }

    /// Marks the calling thread, whose id is `tid`, as alive. Returns whether the libc takes the
    /// calling thread for the one of that id too: a thread that uses another thread's thread-locals,
    /// and the main thread after a raw `clone`, have another id there.
    ///
    /// Neither allocates nor makes a system call. The mark must not move until it is given back.
    pub(crate) fn take(&self, tid: u32) -> bool {
        let Some(offset) = LOCK_WORD else { return true };
        let state = self.state.load(Ordering::Relaxed);
        if state == GIVEN_UP || state == NONE && !self.init() {
            return true;
        }
        // A fork that another one has interrupted goes on in the child, where the mark is taken already.
        if self.state.load(Ordering::Relaxed) == HELD && !self.is_dead() {
            return self.word(offset).load(Ordering::Relaxed) & TID_MASK == tid;
        }
        let mutex = self.mutex.get().cast::<libc::pthread_mutex_t>();
        // SAFETY: initialised, at its place for as long as it is held, and free or its holder dead: no
        // other thread takes it at the same time.
        match unsafe { libc::pthread_mutex_lock(mutex) } {
            // EDEADLK: this thread holds it. A signal handler that forks has interrupted the thread in the
            // middle of taking the mark or giving it back.
            0 | libc::EDEADLK => {}
            // SAFETY: taken by this thread, after one that has died with it. There is nothing in it.
            libc::EOWNERDEAD if unsafe { pthread_mutex_consistent(mutex) } == 0 => {}
            _ => return true,
        }
        let is_own = self.word(offset).load(Ordering::Relaxed) & TID_MASK == tid;
        if is_own {
            self.state.store(HELD, Ordering::Relaxed);
        } else {
            // SAFETY: taken above, by this thread.
            unsafe { libc::pthread_mutex_unlock(mutex) };
        }
        is_own
    }

    /// Takes the mark in a forked child, for the forking thread, whose id is `tid` now. The fork may have
    /// come from a signal handler in the middle of taking the mark or giving it back.
    pub(crate) fn take_in_child(&self, tid: u32) {
        let is_held = self.state.load(Ordering::Relaxed) == HELD;
        let is_own = LOCK_WORD.is_some_and(|offset| {
            is_held && self.word(offset).load(Ordering::Relaxed) & TID_MASK == tid
        });
        if !is_own {
            self.reset_after_fork();
            self.take(tid);
        }
    }

    /// The calling thread, which has taken the mark, has it no more. After this its memory may go.
    pub(crate) fn give_back(&self) {
        if self.state.load(Ordering::Relaxed) == HELD {
            self.state.store(FREE, Ordering::Relaxed);
            let mutex = self.mutex.get().cast::<libc::pthread_mutex_t>();
            // SAFETY: held by the calling thread. Nobody waits for it.
            unsafe { libc::pthread_mutex_unlock(mutex) };
        }
    }

    /// Not taken, in a forked child, whatever thread held it in the parent. glibc empties the list of the
    /// forking thread's robust mutexes in the child. musl does not, and a mutex that is made again while
    /// it is in that list would be its own successor: there this mark says nothing any more.
    pub(crate) fn reset_after_fork(&self) {
        let was_held = self.state.load(Ordering::Relaxed) == HELD;
        let state = if cfg!(target_env = "musl") && was_held { GIVEN_UP } else { NONE };
        self.state.store(state, Ordering::Relaxed);
    }

    /// Whether the thread that has taken the mark is known to be dead. Async-signal-safe.
    pub(crate) fn is_dead(&self) -> bool {
        LOCK_WORD.is_some_and(|offset| {
            // Acquire pairs with what the kernel writes as the thread ends: what the thread did
            // before is seen.
            self.state.load(Ordering::Relaxed) == HELD
                && self.word(offset).load(Ordering::Acquire) & OWNER_DIED != 0
        })
    }

    /// Whether the thread `tid` has taken the mark and is not known to be dead. Async-signal-safe.
    pub(crate) fn is_held_by(&self, tid: u32) -> bool {
        LOCK_WORD.is_some_and(|offset| {
            // Relaxed: the caller asks about its own thread.
            let word = self.word(offset).load(Ordering::Relaxed);
            self.state.load(Ordering::Relaxed) == HELD && word & (TID_MASK | OWNER_DIED) == tid
        })
    }

    /// Makes the mutex. `false` where this libc or kernel has no robust ones.
    fn init(&self) -> bool {
        let mut attributes = MaybeUninit::<libc::pthread_mutexattr_t>::uninit();
        let attributes = attributes.as_mut_ptr();
        let mutex = self.mutex.get().cast::<libc::pthread_mutex_t>();
        // SAFETY: the attributes are initialised before they are used, and destroyed once; the mutex
        // is not one yet, and its memory is ours.
        let made = unsafe {
            if libc::pthread_mutexattr_init(attributes) != 0 {
                return false;
            }
            // Shared between processes, since musl does not tell the kernel of the others. psx shares it
            // with the kernel alone.
            let shared = libc::PTHREAD_PROCESS_SHARED;
            let made = pthread_mutexattr_setrobust(attributes, PTHREAD_MUTEX_ROBUST) == 0
                && libc::pthread_mutexattr_setpshared(attributes, shared) == 0
                // So that a thread that holds it does not wait for itself.
                && libc::pthread_mutexattr_settype(attributes, libc::PTHREAD_MUTEX_ERRORCHECK) == 0
                && libc::pthread_mutex_init(mutex, attributes) == 0;
            libc::pthread_mutexattr_destroy(attributes);
            made
        };
        if made {
            self.state.store(FREE, Ordering::Relaxed);
        }
        made
    }

    fn word(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: four aligned bytes inside of the mutex, which libc and kernel touch by atomic
        // operations only.
        unsafe { AtomicU32::from_ptr(self.mutex.get().byte_add(offset).cast()) }
    }
}

// SAFETY: see `mutex` and `state`.
unsafe impl Sync for LifeMark {}
// SAFETY: an entry is allocated by one thread and its mark taken by another; it does not move then.
unsafe impl Send for LifeMark {}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, mpsc};

    use super::*;
    use crate::sys::raw;

    /// Emulators of one process's system calls (qemu-user) know no robust lists: no mark is ever set.
    fn is_emulated() -> bool {
        let (mut head, mut size) = (0_usize, 0_usize);
        let args = [0, &raw mut head as usize, &raw mut size as usize, 0, 0, 0];
        // SAFETY: the kernel writes an address and a size, both ours.
        let asked = unsafe { raw::syscall(libc::SYS_get_robust_list, args) };
        asked.is_err_and(|errno| errno.raw() == libc::ENOSYS)
    }

    #[test]
    fn it_tells_of_a_thread_that_has_ended() {
        if is_emulated() {
            return;
        }
        let mark = Arc::new(LifeMark::new());
        let ((tell, told), (end, go)) = (mpsc::channel(), mpsc::channel::<()>());
        let theirs = Arc::clone(&mark);
        let thread = std::thread::spawn(move || {
            let tid = raw::gettid().unwrap();
            tell.send((tid, theirs.take(tid))).unwrap();
            let _ = go.recv();
        });
        let (tid, agrees) = told.recv().unwrap();
        assert!(agrees && !mark.is_dead());
        drop(end);
        thread.join().unwrap();
        while std::path::Path::new(&format!("/proc/self/task/{tid}")).exists() {
            std::thread::yield_now();
        }
        assert!(mark.is_dead());
    }

    #[test]
    fn a_mark_that_the_thread_holds_already_is_taken() {
        let mark = LifeMark::new();
        let tid = raw::gettid().unwrap();
        assert!(mark.take(tid) && mark.is_held_by(tid) && !mark.is_held_by(tid + 1));
        // A signal handler comes between the unlocking of the mutex and what is noted of it.
        mark.state.store(FREE, Ordering::Relaxed);
        assert!(mark.take(tid) && mark.is_held_by(tid));
        mark.give_back();
        assert!(!mark.is_held_by(tid));
    }

    #[test]
    fn a_mark_of_a_dead_thread_can_be_taken_again() {
        if is_emulated() {
            return;
        }
        let mark = Arc::new(LifeMark::new());
        let theirs = Arc::clone(&mark);
        std::thread::spawn(move || theirs.take(raw::gettid().unwrap())).join().unwrap();
        // The thread is joined a moment before the kernel has gone through its list.
        while !mark.is_dead() {
            std::thread::yield_now();
        }
        assert!(mark.take(raw::gettid().unwrap()));
        assert!(!mark.is_dead());
        mark.give_back();
        assert!(mark.take(raw::gettid().unwrap()), "whole again");
        mark.give_back();
        mark.reset_after_fork();
        assert!(mark.take(raw::gettid().unwrap()), "as in a forked child");
        mark.give_back();
    }

    #[test]
    fn a_mark_given_back_says_nothing_and_can_be_taken_again() {
        let mark = LifeMark::new();
        assert!(!mark.is_dead());
        for _ in 0..2 {
            assert!(mark.take(raw::gettid().unwrap()));
            assert!(!mark.is_dead());
            mark.give_back();
            assert!(!mark.is_dead());
        }
        assert!(!mark.take(1), "another thread's id");
        mark.give_back();
    }
}
