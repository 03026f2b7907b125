//! A round: all registered threads stop, and then make one call at one instant, or none does.
//!
//! | file | contents |
//! |---|---|
//! | `broadcast` | rounds, until one is committed or the deadline passes |
//! | `caller` | one round, on its caller: close the gate, stop, prove, call, publish, release |
//! | `stopped_world` | the targets, from the announcement to the release |
//! | `target` | a summoned thread: arrive, wait, make the call, wait |
//! | `summon` | sends summonses; the caller and the targets share the work |
//! | `roster` | the ids of the targets, which threads claim |
//! | `index` | a hash table from a thread's id to its entry, for the signal handler |
//! | `word` | the word with the epoch and the phase, on which targets sleep |
//! | `stack` | how much stack a target must have left |
//! | `coverage` | the proof that no thread was missed |
//! | `missed` | whether to wait for the threads that a proof has missed |
//! | `scratch` | buffers that are allocated before the stop |
//!
//! Between the first summons and the release, a stopped thread may hold any lock of the program: the
//! allocator's, standard output's, a tracing subscriber's. So in between the caller allocates nothing, takes
//! no lock and logs nothing (invariant I10).

mod broadcast;
mod caller;
mod coverage;
pub(crate) mod index;
pub(crate) mod missed;
pub(crate) mod pending;
pub(crate) mod roster;
mod scratch;
mod stack;
mod stopped_world;
mod summon;
mod target;
pub(crate) mod word;

use core::marker::PhantomData;
use core::ptr;

use pending::Pending;
use roster::Roster;
use word::Word;

use crate::sync::{FairLock, Latch, WaitPolicy};
use crate::sys::sync::{AtomicU32, Ordering, UnsafeCell};
use crate::sys::{RobustMutex, const_on_linux};
use crossbeam_utils::CachePadded;

use crate::Errno;
use crate::broadcast::CallName;

/// What the threads of a round share. Words that different threads write at different times have cache lines
/// of their own.
pub(crate) struct Round {
    /// Held by the caller, from before the gate closes until it is open again, and by a thread that forks. Its
    /// word names the owner.
    pub(crate) lock: FairLock,
    /// Says that the caller is dead, even if another thread or process has its id by now. Locked by the caller
    /// after it has acquired `lock`, unlocked before it releases `lock`; read by any thread.
    pub(crate) caller_mutex: RobustMutex,
    /// Written by the owner of `lock`; read by any thread.
    word: CachePadded<Word>,
    /// Counts the targets that have not arrived. Armed by the owner of `lock`, before it publishes
    /// `Gathering`. Counted down, in this epoch, by targets, and by the caller for dead ones.
    arrivals: CachePadded<Latch>,
    /// Counts the targets that have not made the call. Armed before the caller publishes `Committed`; counted
    /// down like `arrivals`.
    completions: CachePadded<Latch>,
    /// Filled by the owner of `lock`, before it publishes `Gathering`. After that any thread claims targets, in
    /// this epoch.
    roster: CachePadded<Roster>,
    /// The threads whose signal of an earlier attempt is still queued. Filled by the owner of `lock`, emptied
    /// by any thread.
    pub(crate) pending: Pending,
    /// The call. Written by the owner of `lock` while no round is committed; after it publishes `Committed`,
    /// read by the targets that have arrived, until each has counted `completions` down.
    published: UnsafeCell<Option<PublishedCall>>,
    /// How the threads of a round wait. Its fields name their owners.
    wait_policy: WaitPolicy,
    /// How many harmless threads that are not registered the last proof has found. Written by the owner of
    /// `lock`. Relaxed: a hint.
    harmless_hint: AtomicU32,
    /// How many threads were registered at the last successful proof. Written by the owner of `lock`. Relaxed:
    /// a hint.
    proven_hint: AtomicU32,
    /// Whether a thread has begun to end the process. Written by any thread. Relaxed: it only matters which one
    /// is first.
    ending: AtomicU32,
}

// SAFETY: `published` is accessed as invariant I5 says; the other fields are `Sync`.
unsafe impl Sync for Round {}
// SAFETY: `published` points to a closure that is `Sync`, as `Call::new` requires.
unsafe impl Send for Round {}

impl Round {
    const_on_linux! {
        pub(crate) fn new() -> Self {
            Self {
                lock: FairLock::new(),
                caller_mutex: RobustMutex::new(),
                word: CachePadded::new(Word::new()),
                arrivals: CachePadded::new(Latch::new()),
                completions: CachePadded::new(Latch::new()),
                roster: CachePadded::new(Roster::new()),
                pending: Pending::new(),
                published: UnsafeCell::new(None),
                wait_policy: WaitPolicy::new(),
                harmless_hint: AtomicU32::new(0),
                proven_hint: AtomicU32::new(0),
                ending: AtomicU32::new(0),
            }
        }
    }

    /// Whether threads are stopped or are to stop.
    pub(crate) fn is_on(&self) -> bool {
        self.word.read().phase != word::Phase::Released
    }

    /// Whether the calling thread, which is about to end the process, is the first that does so.
    pub(crate) fn is_first_to_end(&self) -> bool {
        self.ending.swap(1, Ordering::Relaxed) == 0
    }

    /// Counts a signal 33 that is not a summons. Async-signal-safe.
    pub(crate) fn note_foreign_signal(&self) {
        self.wait_policy.note_foreign_signal();
    }

    /// In a forked child: ends a copied round. Keeps the epoch, so that no epoch of the parent's rounds is used
    /// again.
    pub(crate) fn reset_after_fork(&self) {
        let epoch = self.word.read().epoch;
        self.word.publish(word::State { epoch, phase: word::Phase::Released });
        self.roster.close(epoch);
        self.pending.reset_after_fork();
        self.harmless_hint.store(0, Ordering::Relaxed);
        self.proven_hint.store(0, Ordering::Relaxed);
        self.lock.reset_after_fork();
        self.caller_mutex.reset_after_fork();
    }
}

/// The call of a broadcast. Borrows the closure that makes it.
#[derive(Clone, Copy)]
pub(crate) struct Call<'c> {
    raw: ErasedCall,
    /// For the message, if a divergence ends the process.
    name: CallName,
    /// Whether it may install a seccomp filter, as far as psx knows.
    may_filter: bool,
    closure: PhantomData<&'c ()>,
}

/// What the caller publishes to the targets: the call, and the value that it returned on the caller.
#[derive(Clone, Copy)]
struct PublishedCall {
    call: ErasedCall,
    value: usize,
}

/// A closure without its type and lifetime.
#[derive(Clone, Copy)]
struct ErasedCall {
    data: *const (),
    make: unsafe fn(*const ()) -> Result<usize, Errno>,
}

impl<'c> Call<'c> {
    pub(crate) fn new<F>(name: CallName, may_filter: bool, op: &'c F) -> Self
    where
        F: Fn() -> Result<usize, Errno> + Sync,
    {
        unsafe fn make<F: Fn() -> Result<usize, Errno>>(data: *const ()) -> Result<usize, Errno> {
            let guard = AbortOnUnwind;
            // SAFETY: `data` is the `op` of `Call::new`, which is alive (invariant I5).
            let result = unsafe { (*data.cast::<F>())() };
            core::mem::forget(guard);
            result
        }
        let raw = ErasedCall { data: ptr::from_ref(op).cast(), make: make::<F> };
        Self { raw, name, may_filter, closure: PhantomData }
    }

    pub(crate) fn name(&self) -> CallName {
        self.name
    }
}

impl ErasedCall {
    /// # Safety
    ///
    /// The closure that the `Call` borrows is alive (invariant I5), and satisfies the requirements of
    /// [`Broadcast::run`](crate::Broadcast::run).
    unsafe fn make(self) -> Result<usize, Errno> {
        // SAFETY: as the caller promises.
        unsafe { (self.make)(self.data) }
    }
}

/// Aborts the process if a broadcast's closure unwinds: some threads may have made the call, and the others
/// would stay stopped forever.
struct AbortOnUnwind;

impl Drop for AbortOnUnwind {
    fn drop(&mut self) {
        crate::sys::fatal::closure_unwound();
    }
}
