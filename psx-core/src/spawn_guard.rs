//! The start of a thread: the parent's [`SpawnGuard`] keeps rounds from beginning, and the child's [`Ticket`]
//! registers it. Contains `unsafe`: a thread that has a guard takes another pass.

use core::marker::PhantomData;

use crate::registry::Entry;
use crate::sync::Pass;
use crate::{Error, process};

/// Held by a thread that starts another one. No round begins while it exists.
///
/// A thread inherits its privileges when it is cloned, so a round between the clone and the child's
/// registration would miss the child. Therefore the parent enters, takes a [`Ticket`] for the child, moves
/// the ticket into the new thread, and drops the guard when the thread has been started.
///
/// Hold it only while a thread is started: rounds wait for it.
///
/// # Examples
///
/// ```
/// use psx_core::SpawnGuard;
///
/// let guard = SpawnGuard::enter()?;
/// let ticket = guard.ticket()?;
/// let child = std::thread::spawn(move || ticket.redeem());
/// drop(guard);
/// child.join().unwrap();
/// # Ok::<(), psx_core::Error>(())
/// ```
#[must_use = "a round may miss the new thread unless the guard exists while it starts"]
pub struct SpawnGuard {
    me: &'static Entry,
    pass: Pass<'static>,
    /// Only the thread that entered may drop it.
    not_send: PhantomData<*const ()>,
}

impl SpawnGuard {
    /// Registers the calling thread if it is not registered, and enters when no round is on. The wait has no
    /// timeout of its own, like that of [`adopt`](crate::adopt). A thread that holds a guard enters again
    /// without waiting.
    ///
    /// # Errors
    ///
    /// Those of [`adopt`](crate::adopt). [`Error::Reentrant`] inside a broadcast's closure, or if the thread
    /// holds 255 guards.
    pub fn enter() -> Result<Self, Error> {
        let me = process::ensure_current(None)?;
        if me.is_in_round() {
            return Err(Error::Reentrant);
        }
        let runtime = process::runtime();
        let pass = if me.spawns_in_progress() == 0 {
            runtime.enter()
        } else {
            // SAFETY: this thread's other guard holds a pass, and exists until this returns (invariant I2).
            unsafe { runtime.gate.enter_nested() }
        };
        if !me.begin_spawn() {
            return Err(Error::Reentrant);
        }
        Ok(Self { me, pass, not_send: PhantomData })
    }

    /// A ticket for one thread that is about to be started.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`]: the child's entry is allocated here and not in the child.
    pub fn ticket(&self) -> Result<Ticket, Error> {
        let entry = process::allocate()?;
        Ok(Ticket { pass: self.pass.duplicate(), entry })
    }
}

impl Drop for SpawnGuard {
    fn drop(&mut self) {
        // In a forked child the guard is a copy of the parent's, and the entry counts no spawns.
        if self.pass.is_of_this_process() {
            self.me.end_spawn();
        }
    }
}

/// Registers the new thread that it is moved into. Redeem it there before anything else runs. If the thread
/// cannot be started, drop it.
#[must_use = "rounds wait until the ticket is redeemed or dropped"]
pub struct Ticket {
    // Dropped in this order: nothing is freed while rounds wait (invariant I11).
    pass: Pass<'static>,
    entry: Box<Entry>,
}

impl Ticket {
    /// Registers the calling thread, for which the ticket was taken. Does nothing if it is registered already.
    ///
    /// If the libc has no memory to arm the thread's exit hook, the thread stays unregistered, and the coverage
    /// proof of the next round finds it.
    pub fn redeem(self) {
        let Self { pass, entry } = self;
        let deferred = process::register_spawned(entry, &pass);
        drop(pass);
        drop(deferred);
    }
}
