//! Privileges by type and not by number: what to give up, on every thread, in one stop.
//!
//! [`Privileges`] collects steps, and [`apply`](Privileges::apply) makes all of them in one round.
//! Whatever the order of the builder's calls, the steps are made in the one order that works:
//!
//! | | step | why there |
//! |---|---|---|
//! | 1 | `secure_bits` | needs `CAP_SETPCAP`, which a change of uid takes away; and decides what such a change does to capabilities |
//! | 2 | `keep_capabilities` | before the uid, whose change it is about; after `secure_bits`, which would overwrite it |
//! | 3 | `bounding` | needs `CAP_SETPCAP` |
//! | 4 | `groups` | needs `CAP_SETGID`, which a change of uid takes away |
//! | 5 | `gid` | the same |
//! | 6 | `uid` | takes away effective capabilities; from here on nothing above can be done any more |
//! | 7 | `capabilities` | after the uid, whose change would alter them |
//! | 8 | `ambient` | an ambient capability must be permitted and inheritable, which step 7 decides; a change of uid clears the set |
//! | 9 | `no_new_privs` | cannot fail; `landlock` and `seccomp` need it of a thread without `CAP_SYS_ADMIN` |
//! | 10 | `landlock` | last in the round, so that it cannot stand in the way of the others; from Landlock ABI 8 on the kernel itself does it for all threads, after the round |
//! | 11 | `seccomp` | a filter may forbid any of the above; installed by the kernel's own `TSYNC`, after the round, since filters that threads install one by one count as different ones, and then a later `TSYNC` fails |
//!
//! Capabilities that are asked for survive the change of uid by themselves: where root is left and
//! `capabilities` has a permitted set, *keep capabilities* is switched on before the uid and off
//! after it.
//!
//! # When a step fails
//!
//! What the kernel would plainly refuse is told before any thread is stopped
//! ([`Cause::Foreseen`]): a missing capability, an id that is none, a descriptor that is no ruleset.
//! If the kernel refuses a step all the same, every thread has made exactly the steps before it, and
//! [`Error::Step`](crate::Error::Step) names them. Steps cannot be taken back, since root that is
//! given up does not return: such a process is best ended.
//!
//! # Types
//!
//! Capability sets and secure bits are those of rustix 1, the crate that wraps these calls best. User
//! and group ids are plain `u32`, as in [`CommandExt`](std::os::unix::process::CommandExt): every
//! value but one is an id, so that a type would add nothing, and `.groups(&[])` needs no annotation.
//! The one, 4294967295, means "leave as it is" to the kernel, and is refused.

mod apply;
mod builder;
mod filter;
mod foresee;
mod landlock;
mod plan;
mod sets;
mod state;
mod verify;

/// What `prctl(PR_SET_SECUREBITS)` sets: rustix's own type.
#[doc(no_inline)]
pub use rustix::thread::CapabilitiesSecureBits as SecureBits;
/// A set of capabilities: rustix's own type. `CapabilitySet::NET_BIND_SERVICE | CapabilitySet::KILL`.
#[doc(no_inline)]
pub use rustix::thread::CapabilitySet;

pub use builder::Privileges;
pub use landlock::LandlockFlags;
#[doc(inline)]
pub use psx_core::{Cause, Step, StepError};
pub use sets::CapabilitySets;
pub use state::{Ids, ThreadPrivileges, threads};
pub use verify::{Difference, VerifyError};
