//! The platform on Linux.
//!
//! | file | concept |
//! |---|---|
//! | `raw` | the system call instruction |
//! | `sync`, `futex`, `clock` | atomics, waiting, time |
//! | `kernel` | the process: its id, its threads, its handler |
//! | `signal`, `mask`, `errno`, `sigpending_limit` | summonses and their handler |
//! | `main_stack` | the main thread's alternate signal stack |
//! | `procfs`, `stat`, `stat_file`, `thread_dir` | `/proc`: the thread count and the list of threads |
//! | `thread_status` | `/proc`: why a thread does not take its signal |
//! | `robust_mutex` | detects dead threads |
//! | `fork_detector`, `hooks` | forks and the end of threads |
//! | `nodelete` | keeps psx's library loaded |
//! | `fatal` | the end of the process |

pub(crate) mod clock;
pub(crate) mod errno;
pub(crate) mod fatal;
mod fork_detector;
pub(crate) mod futex;
pub(crate) mod hooks;
mod kernel;
mod main_stack;
pub(crate) mod mask;
mod nodelete;
mod procfs;
pub(crate) mod raw;
mod robust_mutex;
pub(crate) mod signal;
mod sigpending_limit;
mod stat;
mod stat_file;
pub(crate) mod sync;
pub(crate) mod thread_dir;
mod thread_status;

pub(crate) use kernel::Kernel;
pub(crate) use robust_mutex::RobustMutex;
pub(crate) use sigpending_limit::SigpendingLimit;

/// How many records a round allocates beyond the threads that it counts.
pub(crate) const HEADROOM: usize = 64;

/// How often a round checks whether threads that have left the list have left the process.
pub(crate) const EXIT_POLLS: usize = 32;

/// Whether a thread spins before it sleeps.
pub(crate) const SPIN_BEFORE_SLEEP: bool = true;
