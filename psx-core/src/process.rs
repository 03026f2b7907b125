//! The process's one registry, and each thread's way to its own entry.

use crate::{Error, NamedThread};

/// Registers the calling thread until it exits; does nothing where it is registered already.
///
/// # Errors
pub fn adopt() -> Result<(), Error> {
    todo!()
}

/// The registered threads, with their names.
#[must_use]
pub fn threads() -> Vec<NamedThread> {
    todo!()
}

/// The parent's side of a birth: while it lives, no round begins. Not `Send`: it belongs to the
/// thread that starts another.
#[must_use]
pub struct Passage(std::marker::PhantomData<*const ()>);

impl Passage {
    /// Adopts the calling thread and enters, waiting for a round in progress to end.
    ///
    /// # Errors
    pub fn enter() -> Result<Self, Error> {
        todo!()
    }

    /// A ticket for one thread about to be started.
    ///
    /// # Errors
    pub fn ticket(&self) -> Result<Ticket, Error> {
        todo!()
    }
}

/// The child's side of a birth: moved into the new thread and redeemed there before any user code
/// runs. No round begins while it is outstanding; dropped unredeemed, it is given back.
#[must_use]
pub struct Ticket(());

impl Ticket {
    /// Registers the calling thread, which is the one that the ticket was taken for.
    pub fn redeem(self) {
        todo!()
    }
}
