//! A round: all registered threads stop, and then make one call at one instant, or none does.
//!
//! | file | contents |
//! |---|---|
//! | `broadcast` | attempts of a round, until one is committed or the deadline passes |
//! | `caller` | one attempt: close the gate, stop, prove, call, publish, release |
//! | `stopped_world` | the targets, from the announcement to the release |
//! | `target` | a summoned thread: arrive, wait, make the call, wait |
//! | `summon` | sends summonses; the caller and the targets share the work |
//! | `roster` | the ids of the targets, to be claimed |
//! | `index` | from a thread's id to its entry, for the signal handler |
//! | `word` | the epoch and the phase, on which targets sleep |
//! | `stack` | how much stack a target must have left |
//! | `coverage` | the proof that no thread was missed |
//! | `missed` | whether to wait for the threads that a proof has missed |
//! | `scratch` | buffers that are allocated before the stop |
//!
//! Between the first summons and the release every other registered thread stands still, and may
//! hold any lock of the program: the allocator's, standard output's, a tracing subscriber's. So
//! between the two the caller allocates nothing, takes no lock and logs nothing.

mod broadcast;
mod caller;
mod coverage;
pub(crate) mod index;
pub(crate) mod missed;
pub(crate) mod roster;
mod scratch;
mod stack;
mod stopped_world;
mod summon;
mod target;
pub(crate) mod word;

use core::marker::PhantomData;
use core::ptr;

use roster::Roster;
use word::Word;

use crate::sync::{FairLock, Latch, WaitPolicy};
use crate::sys::sync::{AtomicU32, Ordering, UnsafeCell};
use crate::sys::{RobustMutex, const_on_linux};
use crossbeam_utils::CachePadded;

use crate::Errno;
use crate::broadcast::CallName;

/// What all threads of a round share. Each word has a cache line of its own: they are written by
/// different threads at different times.
pub(crate) struct Round {
    /// Held by the caller, from before the gate closes until it is open again. Its owner is how other
    /// threads know who leads. Also held around a fork.
    pub(crate) lock: FairLock,
    /// Tells that the caller is dead, whatever thread or process has its id by then. Locked by the
    /// caller once it has the lock, unlocked before it releases it; read by any thread.
    pub(crate) caller_mutex: RobustMutex,
    word: CachePadded<Word>,
    /// Targets that have not arrived.
    arrivals: CachePadded<Latch>,
    /// Targets that have not made the call.
    completions: CachePadded<Latch>,
    roster: CachePadded<Roster>,
    /// Written by the caller before it commits; read by targets that have arrived and see the round
    /// committed.
    published: UnsafeCell<Option<PublishedCall>>,
    /// How its threads wait for each other.
    wait_policy: WaitPolicy,
    /// How many threads beside the registered ones the last proof has found to be harmless.
    /// Relaxed: a hint, under the lock.
    harmless_hint: AtomicU32,
    /// How many threads were registered at the last proof that held. Relaxed: a hint, under the lock.
    proven_hint: AtomicU32,
    /// Whether a thread has begun to end the process. Relaxed: only which one is the first matters.
    ending: AtomicU32,
}

// SAFETY: `lent` by invariant I5; the rest is atomic, or `Sync` by itself.
unsafe impl Sync for Round {}
// SAFETY: what `lent` points to is `Sync`, as `Call::new` demands.
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
                published: UnsafeCell::new(None),
                wait_policy: WaitPolicy::new(),
                harmless_hint: AtomicU32::new(0),
                proven_hint: AtomicU32::new(0),
                ending: AtomicU32::new(0),
            }
        }
    }

    /// Whether threads are stopped, or asked to stop.
    pub(crate) fn is_on(&self) -> bool {
        self.word.read().phase != word::Phase::Released
    }

    /// For a thread that is about to end the process: whether no other has come to it before.
    pub(crate) fn is_first_to_end(&self) -> bool {
        self.ending.swap(1, Ordering::Relaxed) == 0
    }

    /// A signal has come that is no summons. Async-signal-safe.
    pub(crate) fn note_foreign_signal(&self) {
        self.wait_policy.note_foreign_signal();
    }

    /// No round on, in a forked child. The epoch goes on, so that nothing of the parent's rounds
    /// fits the child's.
    pub(crate) fn reset_after_fork(&self) {
        let epoch = self.word.read().epoch;
        self.word.publish(word::State { epoch, phase: word::Phase::Released });
        self.roster.close(epoch);
        self.harmless_hint.store(0, Ordering::Relaxed);
        self.proven_hint.store(0, Ordering::Relaxed);
        self.lock.reset_after_fork();
        self.caller_mutex.reset_after_fork();
    }
}

/// What every thread is to do. Borrows the closure that does it.
#[derive(Clone, Copy)]
pub(crate) struct Call<'c> {
    raw: ErasedCall,
    /// For the message, should the process end over it.
    name: CallName,
    /// Whether it may install a filter on system calls, for all that we know.
    may_filter: bool,
    closure: PhantomData<&'c ()>,
}

/// What the caller lends to the targets: the call, and what it came to on the caller.
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
            let unwinding = AbortOnUnwind;
            // SAFETY: `data` is the `op` of `Call::new`, and it outlives the call (invariant I5).
            let result = unsafe { (*data.cast::<F>())() };
            core::mem::forget(unwinding);
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
    /// The `Call` that this came from is alive, and so are the promises of
    /// [`Broadcast::run`](crate::Broadcast::run).
    unsafe fn make(self) -> Result<usize, Errno> {
        // SAFETY: our caller's promise.
        unsafe { (self.make)(self.data) }
    }
}

/// A panic out of a broadcast closure cannot go on: half of the threads may have made the call, and
/// unwinding would leave the rest standing for ever.
struct AbortOnUnwind;

impl Drop for AbortOnUnwind {
    fn drop(&mut self) {
        crate::sys::fatal::closure_unwound();
    }
}
