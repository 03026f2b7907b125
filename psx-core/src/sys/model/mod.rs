//! The model side of the seam: loom's atomics, and a kernel small enough to explore.
//!
//! | file | concept |
//! |---|---|
//! | `harness/` | the API in which psx-loom-tests writes its scenes, and the oracle |
//! | `machine/` | the process of one execution: threads, summonses, sleeps, time |
//! | `task` | one thread: its sleep, death and credentials |
//! | `choice` | what the kernel may do or not do |
//! | `sync` | loom's atomics; a signal may arrive at each operation |
//! | `futex`, `clock`, `mask`, `kernel`, `robust_mutex`, `errno`, `fatal` | as on the Linux side |
//! | `fault`, `mutation` | rules of the protocol that a test removes, and how |
//! | `trace` | the events of one execution |
//!
//! loom runs the threads of a model one at a time on one OS thread, and switches only at its own
//! operations. So the state of the kernel itself (which thread sleeps, with which credentials) lies in
//! plain cells: it cannot change between two switch points, and it adds no memory ordering that the
//! protocol does not have.

pub(crate) mod choice;
pub(crate) mod clock;
pub(crate) mod errno;
pub(crate) mod fatal;
pub(crate) mod fault;
pub(crate) mod futex;
mod kernel;
pub(crate) mod machine;
pub(crate) mod mask;
mod mutation;
mod robust_mutex;
pub(crate) mod sync;
pub(crate) mod task;
pub(crate) mod trace;

pub(crate) use kernel::{Kernel, SigpendingLimit};
pub(crate) use robust_mutex::RobustMutex;

/// How many more threads a round prepares for than it counts. Small, so that growth is explored too.
pub(crate) const HEADROOM: usize = 1;

/// How often a round checks whether threads that have unregistered have ended.
pub(crate) const EXIT_POLLS: usize = 1;

/// Waits sleep at once: a spin costs loom more, and explores nothing else.
pub(crate) const SPIN_BEFORE_SLEEP: bool = false;
