//! What threads wait on. Each is a word in memory on which threads sleep by the futex call.
//!
//! | file | concept |
//! |---|---|
//! | `gate` | passes that keep rounds from beginning; a round closes it |
//! | `fair_lock` | the lock of a round's caller: a ticket lock with its owner in the word |
//! | `lock` | the lock of the thread list |
//! | `latch` | a countdown that the caller waits for |
//! | `epoch` | the number of a round, part of each word that a late thread may change |
//! | `wait_policy` | whether a thread yields or spins before it sleeps |
//! | `liveness_poll` | how a waiting thread polls whether the caller is alive |

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
