//! Around the start of a thread: the parent's [`SpawnGuard`], which keeps rounds from beginning, and the
//! child's [`Ticket`], which registers it. Contains `unsafe`: a thread that has a passage enters again.

use core::marker::PhantomData;

use crate::registry::Entry;
use crate::sync::Pass;
use crate::{Error, process};

/// The parent's side of a birth: while it is there, no round begins.
///
/// A thread inherits its privileges when it is cloned; a round between that moment and its
/// registration would pass it by. So a parent enters first, takes a [`Ticket`] for the child,
/// starts the thread with the ticket inside, and leaves when the start has returned.
///
/// Keep it for the start of a thread and nothing else: rounds wait for it.
///
/// # Examples
///
/// ```
/// use psx_core::SpawnGuard;
///
/// let passage = SpawnGuard::enter()?;
/// let ticket = passage.ticket()?;
/// let child = std::thread::spawn(move || ticket.redeem());
/// drop(passage);
/// child.join().unwrap();
/// # Ok::<(), psx_core::Error>(())
/// ```
#[must_use = "a birth is covered only while the passage is there"]
pub struct SpawnGuard {
    me: &'static Entry,
    pass: Pass<'static>,
    /// It belongs to the thread that entered.
    not_send: PhantomData<*const ()>,
}

impl SpawnGuard {
    /// Registers the calling thread if need be, and enters, once no round is on. That wait has no
    /// timeout of its own, as that of [`adopt`](crate::adopt).
    ///
    /// A thread that has entered enters again without waiting.
    ///
    /// # Errors
    ///
    /// As [`adopt`](crate::adopt); [`Error::Reentrant`] inside a broadcast's closure, or in the 256th at once.
    pub fn enter() -> Result<Self, Error> {
        let me = process::ensure_current(None)?;
        if me.is_in_round() {
            return Err(Error::Reentrant);
        }
        let runtime = process::runtime();
        let pass = if me.spawns_in_progress() == 0 {
            runtime.enter()
        } else {
            // SAFETY: the passage that this thread is in holds a pass, and outlives this call
            // (invariant I2).
            unsafe { runtime.gate.enter_nested() }
        };
        if !me.begin_spawn() {
            return Err(Error::Reentrant);
        }
        Ok(Self { me, pass, not_send: PhantomData })
    }

    /// The ticket for one thread about to be started.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`]: the child's place is allocated here, so that the child itself cannot
    /// lack it.
    pub fn ticket(&self) -> Result<Ticket, Error> {
        let entry = process::allocate()?;
        Ok(Ticket { pass: self.pass.duplicate(), entry })
    }
}

impl Drop for SpawnGuard {
    fn drop(&mut self) {
        // In a forked child the thread is in no passage: this one is its parent's.
        if self.pass.is_of_this_process() {
            self.me.end_spawn();
        }
    }
}

/// The child's side of a birth: moved into the new thread, and redeemed there before anything else
/// runs. Dropped without that, because the thread could not be started, it is given back.
#[must_use = "rounds wait until the ticket is redeemed or dropped"]
pub struct Ticket {
    // Dropped in this order: nothing is freed while rounds wait.
    pass: Pass<'static>,
    entry: Box<Entry>,
}

impl Ticket {
    /// Registers the calling thread, the one that the ticket was taken for. Does nothing where it
    /// is registered already.
    ///
    /// Where the libc lacks the memory to note the thread's end, the thread stays unregistered:
    /// the coverage proof of the next round finds it.
    pub fn redeem(self) {
        let Self { pass, entry } = self;
        let leftovers = process::register_spawned(entry, &pass);
        drop(pass);
        drop(leftovers);
    }
}
