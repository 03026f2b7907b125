//! The Linux side of the seam.

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

pub(crate) use kernel::Kernel;
pub(crate) use robust_mutex::RobustMutex;
pub(crate) use sigpending_limit::SigpendingLimit;

/// How much room a round lays out beyond what it counts.
pub(crate) const HEADROOM: usize = 64;

/// How often a round looks whether those who have left the list have left the process.
pub(crate) const EXIT_POLLS: usize = 32;

/// Threads wait a little before they sleep. Not in the model, where a wait is a wait.
pub(crate) const SPIN_BEFORE_SLEEP: bool = true;
