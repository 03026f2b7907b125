//! The model side of the seam: loom's atomics, and a kernel small enough to explore.
//!
//! | file | concept |
//! |---|---|
//! | `machine` | the process of one execution: its threads, their summonses and sleeps, and time |
//! | `choices` | what that kernel is free to do |
//! | `task` | one of its threads: asleep, dead, with which credentials |
//! | `sync` | loom's atomics, each operation a place where a signal may arrive |
//! | `futex`, `clock`, `mask`, `kernel`, `robust_mutex`, `errno`, `fatal` | as on the Linux side |
//! | `fault` | rules of the protocol that a test removes, to see a model fail |
//! | `door` | what psx-loom-tests writes its models with |
//!
//! loom runs the threads of a model by turns on one OS thread, and changes turns only at its own
//! operations. So what only the model itself knows (who sleeps, who has which credentials) lies in
//! plain cells: nobody comes in between, and no memory ordering comes of it that the protocol would
//! not have by itself.

pub(crate) mod choices;
pub(crate) mod clock;
pub(crate) mod errno;
pub(crate) mod fatal;
pub(crate) mod fault;
pub(crate) mod futex;
mod kernel;
pub(crate) mod machine;
pub(crate) mod mask;
mod robust_mutex;
pub(crate) mod sync;
pub(crate) mod task;

pub(crate) use kernel::{Kernel, SigpendingLimit};
pub(crate) use robust_mutex::RobustMutex;

/// How much room a round lays out beyond what it counts. Small, so that growth is explored too.
pub(crate) const HEADROOM: usize = 1;

/// How often a round looks whether those who have left the list have left the process.
pub(crate) const EXIT_POLLS: usize = 1;

/// A wait is a sleep: one that looks again and again costs loom more, and shows nothing else.
pub(crate) const SPIN_BEFORE_SLEEP: bool = false;
