//! Who belongs to the process: an intrusive list of entries, one a thread, behind a gate that a
//! round closes.
//!
//! A thread inherits its privileges when it is cloned, so from before the `clone` until the child
//! is in the list no round may begin. The parent therefore takes a [`Pass`] through the gate before
//! it calls anything, and gives the child a second one, its ticket; a round begins only when every
//! pass is back. Whoever changes the list holds a pass, so a closed gate freezes the list too, and
//! whoever exits waits at the gate until the round is over, answering its summons there.

mod entry;
mod list;

pub(crate) use entry::{CallResult, Entry, Status};
pub(crate) use list::{ThreadList, Unlinked};
