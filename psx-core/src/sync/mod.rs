//! What threads wait on: words in memory, and the futex call below them.
//!
//! | file | concept |
//! |---|---|
//! | `gate` | passes that keep rounds from beginning; a round closes it |
//! | `fair_lock` | the lock of a round's caller: a ticket lock that knows its owner |
//! | `lock` | the lock of the thread list |
//! | `latch` | a countdown that the caller waits for |
//! | `epoch` | the number of an attempt, part of every word that a late thread may change |
//! | `wait_policy` | whether a thread yields or spins before it sleeps |
//! | `liveness_poll` | how a waiting thread notices that the caller is dead |

mod epoch;
pub(crate) mod fair_lock;
pub(crate) mod gate;
pub(crate) mod latch;
mod liveness_poll;
pub(crate) mod lock;
mod wait_policy;

pub(crate) use epoch::Epoch;
pub(crate) use fair_lock::FairLock;
pub(crate) use gate::{Closed, Gate, Pass};
pub(crate) use latch::Latch;
pub(crate) use liveness_poll::LivenessPoll;
pub(crate) use lock::Lock;
pub(crate) use wait_policy::{SpinWait, WaitPolicy};
