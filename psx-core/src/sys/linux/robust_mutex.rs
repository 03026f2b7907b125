//! A mutex that tells whether its owner died: the libc's, with `PTHREAD_MUTEX_ROBUST`.
//!
//! Need: an id does not tell. The kernel may have given a dead thread's id to another thread, of this
//! process or of another, and then it says that there is such a thread. Design: a registered thread holds
//! a robust mutex, which is in the thread's robust list. When the thread ends, for any reason, and before
//! its id is free again, the kernel walks that list and sets `FUTEX_OWNER_DIED` in each mutex
//! (`exit_robust_list` in the kernel's kernel/futex/core.c). So the check is one load from memory, without
//! a system call or a call into the libc.
//!
//! The lock word is where the ABI of glibc and musl has it, and holds the owner's id. A word that does not
//! hold the id after the mutex was locked is not used.
//!
//! Downside: where the kernel does not know the thread's list (a main thread after a raw `clone`, a
//! filter against `set_robust_list`), or gives up on a list of more than 2048, the word never changes.
//! So a flag that is set proves the thread dead, and one that is not set proves nothing. Contains
//! `unsafe`: the mutex is the libc's.

use core::cell::UnsafeCell;
use core::ffi::c_int;
use core::mem::MaybeUninit;

use super::sync::{AtomicU32, Ordering};

/// The offset of the lock word in the mutex, in bytes.
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

/// A robust mutex that a thread holds until it ends, or the caller of a round until the round ends.
pub(crate) struct RobustMutex {
    /// Changed by the libc for the thread that holds it, and by the kernel as that thread ends. The
    /// caller of a round reads its lock word.
    mutex: UnsafeCell<MaybeUninit<libc::pthread_mutex_t>>,
    /// [`NONE`], [`FREE`], [`HELD`] or [`UNUSABLE`]. Written by the thread itself, before its entry is in
    /// the list or around a fork; read by the caller of a round. A caller's is written under the round's
    /// lock and read by any thread. Relaxed: the list's lock, the gate or the round word orders it, and a
    /// thread that reads an older state asks the kernel.
    state: AtomicU32,
}

/// Not initialised.
const NONE: u32 = 0;
/// Initialised, and not held by its thread, or its lock word is not known.
const FREE: u32 = 1;
/// The thread holds it.
const HELD: u32 = 2;
/// Not initialised, and never again.
const UNUSABLE: u32 = 3;

impl RobustMutex {
    pub(crate) const fn new() -> Self {
        Self { mutex: UnsafeCell::new(MaybeUninit::uninit()), state: AtomicU32::new(NONE) }
    }

    /// Locks it for the calling thread, whose id is `tid`. Returns whether the libc has the same id for
    /// the calling thread: it has another one for a thread that uses another thread's thread-locals, and
    /// for the main thread after a raw `clone`.
    ///
    /// Neither allocates nor makes a system call. The mutex must not move until it is unlocked.
    pub(crate) fn lock(&self, tid: u32) -> bool {
        let Some(offset) = LOCK_WORD else { return true };
        let state = self.state.load(Ordering::Relaxed);
        if state == UNUSABLE || state == NONE && !self.init() {
            return true;
        }
        // The rest of a fork that another fork interrupted, in the child: it is locked already.
        if self.state.load(Ordering::Relaxed) == HELD && !self.owner_died() {
            return self.word(offset).load(Ordering::Relaxed) & TID_MASK == tid;
        }
        let mutex = self.mutex.get().cast::<libc::pthread_mutex_t>();
        // SAFETY: initialised, does not move while it is held, and free or its owner dead: no other
        // thread locks it at the same time.
        match unsafe { libc::pthread_mutex_lock(mutex) } {
            // EDEADLK: this thread holds it. A signal handler that forks has interrupted this thread while
            // it locked or unlocked the mutex.
            0 | libc::EDEADLK => {}
            // SAFETY: locked by this thread, after its owner died. The mutex protects no data.
            libc::EOWNERDEAD if unsafe { pthread_mutex_consistent(mutex) } == 0 => {}
            _ => return true,
        }
        let is_own = self.word(offset).load(Ordering::Relaxed) & TID_MASK == tid;
        if is_own {
            self.state.store(HELD, Ordering::Relaxed);
        } else {
            // SAFETY: locked above, by this thread.
            unsafe { libc::pthread_mutex_unlock(mutex) };
        }
        is_own
    }

    /// Locks it in a forked child, for the forking thread, whose id is `tid` now. A signal handler may have
    /// forked while the thread locked or unlocked it.
    pub(crate) fn lock_in_child(&self, tid: u32) {
        let is_held = self.state.load(Ordering::Relaxed) == HELD;
        let is_own = LOCK_WORD.is_some_and(|offset| {
            is_held && self.word(offset).load(Ordering::Relaxed) & TID_MASK == tid
        });
        if !is_own {
            self.reset_after_fork();
            self.lock(tid);
        }
    }

    /// Unlocks it, if the calling thread holds it. After this its memory may be freed.
    pub(crate) fn unlock(&self) {
        if self.state.load(Ordering::Relaxed) == HELD {
            self.state.store(FREE, Ordering::Relaxed);
            let mutex = self.mutex.get().cast::<libc::pthread_mutex_t>();
            // SAFETY: held by the calling thread. No thread waits for it.
            unsafe { libc::pthread_mutex_unlock(mutex) };
        }
    }

    /// Resets it in a forked child, whatever thread of the parent held it. glibc empties the forking
    /// thread's robust list in the child. musl does not, and a mutex that is initialised again while it is
    /// in that list would be its own successor: with musl a mutex that was held is not used any more.
    pub(crate) fn reset_after_fork(&self) {
        let was_held = self.state.load(Ordering::Relaxed) == HELD;
        let state = if cfg!(target_env = "musl") && was_held { UNUSABLE } else { NONE };
        self.state.store(state, Ordering::Relaxed);
    }

    /// Whether the thread that locked it is known to be dead. Async-signal-safe.
    pub(crate) fn owner_died(&self) -> bool {
        LOCK_WORD.is_some_and(|offset| {
            // Acquire pairs with the kernel's write as the thread ends: what the thread did before is
            // visible.
            self.state.load(Ordering::Relaxed) == HELD
                && self.word(offset).load(Ordering::Acquire) & OWNER_DIED != 0
        })
    }

    /// Whether the thread `tid` holds it and is not known to be dead. Async-signal-safe.
    pub(crate) fn is_locked_by(&self, tid: u32) -> bool {
        LOCK_WORD.is_some_and(|offset| {
            // Relaxed: the caller asks about its own thread.
            let word = self.word(offset).load(Ordering::Relaxed);
            self.state.load(Ordering::Relaxed) == HELD && word & (TID_MASK | OWNER_DIED) == tid
        })
    }

    /// Initialises it. `false` where the libc or the kernel has no robust mutexes.
    fn init(&self) -> bool {
        let mut attributes = MaybeUninit::<libc::pthread_mutexattr_t>::uninit();
        let attributes = attributes.as_mut_ptr();
        let mutex = self.mutex.get().cast::<libc::pthread_mutex_t>();
        // SAFETY: the attributes are initialised before they are used, and destroyed once; the mutex is not
        // initialised yet, and its memory is ours.
        let is_initialised = unsafe {
            if libc::pthread_mutexattr_init(attributes) != 0 {
                return false;
            }
            // Shared between processes: musl does not tell the kernel of private ones.
            let shared = libc::PTHREAD_PROCESS_SHARED;
            let is_initialised = pthread_mutexattr_setrobust(attributes, PTHREAD_MUTEX_ROBUST) == 0
                && libc::pthread_mutexattr_setpshared(attributes, shared) == 0
                // The owner's second lock returns EDEADLK.
                && libc::pthread_mutexattr_settype(attributes, libc::PTHREAD_MUTEX_ERRORCHECK) == 0
                && libc::pthread_mutex_init(mutex, attributes) == 0;
            libc::pthread_mutexattr_destroy(attributes);
            is_initialised
        };
        if is_initialised {
            self.state.store(FREE, Ordering::Relaxed);
        }
        is_initialised
    }

    fn word(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: four aligned bytes of the mutex, which the libc and the kernel change atomically.
        unsafe { AtomicU32::from_ptr(self.mutex.get().byte_add(offset).cast()) }
    }
}

// SAFETY: see `mutex` and `state`.
unsafe impl Sync for RobustMutex {}
// SAFETY: it moves to another thread only before it is locked.
unsafe impl Send for RobustMutex {}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, mpsc};

    use super::*;
    use crate::sys::raw;

    /// qemu-user has no robust lists, so `FUTEX_OWNER_DIED` is never set.
    fn is_emulated() -> bool {
        let (mut head, mut size) = (0_usize, 0_usize);
        let args = [0, &raw mut head as usize, &raw mut size as usize, 0, 0, 0];
        // SAFETY: the kernel writes an address and a size, both ours.
        let asked = unsafe { raw::syscall(libc::SYS_get_robust_list, args) };
        asked.is_err_and(|errno| errno.raw() == libc::ENOSYS)
    }

    #[test]
    fn an_ended_owner_is_dead() {
        if is_emulated() {
            return;
        }
        let mutex = Arc::new(RobustMutex::new());
        let ((sender, receiver), (end, go)) = (mpsc::channel(), mpsc::channel::<()>());
        let shared = Arc::clone(&mutex);
        let thread = std::thread::spawn(move || {
            let tid = raw::gettid().unwrap();
            sender.send((tid, shared.lock(tid))).unwrap();
            let _ = go.recv();
        });
        let (tid, is_own) = receiver.recv().unwrap();
        assert!(is_own && !mutex.owner_died());
        drop(end);
        thread.join().unwrap();
        while std::path::Path::new(&format!("/proc/self/task/{tid}")).exists() {
            std::thread::yield_now();
        }
        assert!(mutex.owner_died());
    }

    #[test]
    fn a_mutex_that_the_thread_holds_is_locked_again() {
        let mutex = RobustMutex::new();
        let tid = raw::gettid().unwrap();
        assert!(mutex.lock(tid) && mutex.is_locked_by(tid) && !mutex.is_locked_by(tid + 1));
        // As where a signal handler interrupts `unlock`, after the state and before the mutex.
        mutex.state.store(FREE, Ordering::Relaxed);
        assert!(mutex.lock(tid) && mutex.is_locked_by(tid));
        mutex.unlock();
        assert!(!mutex.is_locked_by(tid));
    }

    #[test]
    fn a_dead_owners_mutex_can_be_locked() {
        if is_emulated() {
            return;
        }
        let mutex = Arc::new(RobustMutex::new());
        let shared = Arc::clone(&mutex);
        std::thread::spawn(move || shared.lock(raw::gettid().unwrap())).join().unwrap();
        // The join may return before the kernel has walked the thread's robust list.
        while !mutex.owner_died() {
            std::thread::yield_now();
        }
        assert!(mutex.lock(raw::gettid().unwrap()));
        assert!(!mutex.owner_died());
        mutex.unlock();
        assert!(mutex.lock(raw::gettid().unwrap()), "consistent");
        mutex.unlock();
        mutex.reset_after_fork();
        assert!(mutex.lock(raw::gettid().unwrap()), "as in a forked child");
        mutex.unlock();
    }

    #[test]
    fn an_unlocked_mutex_has_no_dead_owner_and_can_be_locked() {
        let mutex = RobustMutex::new();
        assert!(!mutex.owner_died());
        for _ in 0..2 {
            assert!(mutex.lock(raw::gettid().unwrap()));
            assert!(!mutex.owner_died());
            mutex.unlock();
            assert!(!mutex.owner_died());
        }
        assert!(!mutex.lock(1), "another thread's id");
        mutex.unlock();
    }
}
