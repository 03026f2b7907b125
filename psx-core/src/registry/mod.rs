//! The registry: an intrusive list of entries, one for each registered thread.
//!
//! | file | concept |
//! |---|---|
//! | `entry` | what psx stores for a thread: its id, its status in a round, its result |
//! | `list` | the list, which a closed gate freezes |
//!
//! A thread inherits its privileges when it is cloned, so no round may begin between the `clone` and the
//! registration of the child. Therefore the parent takes a [`Pass`](crate::sync::Pass) through the gate
//! before the `clone`, and a second one for the child, its ticket. A round begins only when no pass is held.
//! A thread that changes the list holds a pass, so a closed gate freezes the list. A thread that exits waits
//! at the gate until the round is over, and answers its summons there.

pub(crate) mod entry;
mod list;

pub(crate) use entry::{CallResult, Entry, Status};
pub(crate) use list::{ThreadList, Unlinked};
