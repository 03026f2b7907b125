//! Privileges by type and not by number: what to give up, on every thread, in one stop.
//!
//! [`Privileges`] collects steps, and [`apply`](Privileges::apply) makes all of them in one round.
//! Whatever the order of the builder's calls, the steps are made in the one order that works:
//!
//! | | step | why there |
//! |---|---|---|
//! | 1 | `secure_bits` | needs `CAP_SETPCAP`, which a change of uid takes away; and decides what such a change does to capabilities |
//! | 2 | `keep_capabilities` | before the uid, whose change it is about; after `secure_bits`, which would overwrite it |
//! | 3 | `bounding_set` | needs `CAP_SETPCAP` |
//! | 4 | `groups` | needs `CAP_SETGID`, which a change of uid takes away |
//! | 5 | `gid` | the same |
//! | 6 | `uid` | takes away effective capabilities; from here on nothing above can be done any more |
//! | 7 | `keep_parent_death_signal` | a change of gid or uid clears the signal |
//! | 8 | `capabilities` | after the uid, whose change would alter them |
//! | 9 | `ambient` | an ambient capability must be permitted and inheritable, which step 8 decides; a change of uid clears the set |
//! | 10 | `no_new_privs` | cannot fail; `landlock` and `seccomp` need it of a thread without `CAP_SYS_ADMIN` |
//! | 11 | `keep_dumpable` | once, after the round: until the last thread has changed, no process of the new user may trace any of them |
//! | 12 | `landlock` | last in the round, so that it cannot stand in the way of the others; from Landlock ABI 8 on the kernel itself does it for all threads, after the round |
//! | 13 | `seccomp` | a filter may forbid any of the above; installed by the kernel's own `TSYNC`, after the round, since filters that threads install one by one count as different ones, and then a later `TSYNC` fails |
//!
//! Capabilities that are asked for survive the change of uid by themselves: where root is left and
//! `capabilities` has a permitted set, *keep capabilities* is switched on before the uid and off
//! after it.
//!
//! # When a step fails
//!
//! Before any thread is stopped, the batch is checked against what the calling thread has, and refused
//! where a condition does not hold ([`Cause::Precondition`], which says what is missing, as data and in
//! words): a capability, an id that the user namespace does not map, a descriptor that is no ruleset.
//! Then nothing has changed. If the kernel refuses a step all the same, every thread has made exactly
//! the steps before it, and [`ApplyError::Step`] names them. Steps cannot be taken back,
//! since root that is given up does not return: such a process is best ended.
//!
//! The checks make system calls on the calling thread, before the round: `prctl`, `capget` and, where the
//! batch sets ids, `getresuid`, `getresgid`, `getgroups`, and they read `uid_map`, `gid_map` and
//! `setgroups` in `/proc/self` ([`user_namespaces(7)`]). What cannot be read there is left to the kernel,
//! which then refuses the step itself, after the steps before it.
//!
//! # What a batch may not leave behind
//!
//! A batch that gives up user id 0 is refused where it would leave a part of root behind that it does not
//! name: a group id 0 ([`Precondition::GidKept`]), supplementary groups ([`Precondition::GroupsKept`]),
//! permitted capabilities ([`Precondition::CapabilitiesKept`]). Each is either set or kept by name:
//! `gid` or `keep_gid`; `groups` or `keep_groups`; `capabilities`, `keep_capabilities` or `secure_bits`.
//!
//! These checks look at the calling thread. Another thread may have what the calling thread does not have,
//! so such a batch means the same on every thread:
//!
//! - Where the batch does not say that capabilities are kept, each thread empties its permitted and
//!   effective set after the uid, whatever its secure bits were (`SECBIT_NO_SETUID_FIXUP`,
//!   `SECBIT_KEEP_CAPS`). Inheritable capabilities stay.
//! - Where the calling thread has no supplementary groups and the batch does not name them, each thread
//!   gives its own up, as by `.groups(&[])`; an error then may name this step.
//! - A thread with a group id 0 where the batch leaves that id as it is and does not keep it by name
//!   diverges with `EPERM` before it changes its uid ([`Divergence`](crate::Divergence)).
//!
//! A
//! process that is not root, has `CAP_SETGID` and gives up group id 0 likewise names what becomes of a
//! supplementary group 0. A set-user-ID-root program (`AT_SECURE` of `getauxval(3)`) that becomes its
//! real user may keep that user's groups without a word.
//!
//! # Steps that change nothing
//!
//! A step that finds the calling thread as it wants it is made on every thread all the same, since other
//! threads may differ. The kernel refuses some calls without a capability even where they change nothing.
//! Such a call counts as made on a thread that is as wanted, so that a process without capabilities may
//! ask again for what it has done: dropping from the bounding set what is not in it, setting the secure
//! bits that are set, keeping capabilities that are kept, giving up groups where there are none
//! (`.groups(&[])`). Other groups need `CAP_SETGID` even where they are the thread's own: in a user
//! namespace they cannot be compared, since all groups that it does not map read as 65534. Another thread
//! that is not as wanted makes the call; if it lacks the capability for it, it diverges
//! ([`Divergence`](crate::Divergence)).
//!
//! [`user_namespaces(7)`]: https://man7.org/linux/man-pages/man7/user_namespaces.7.html
//!
//! # Types
//!
//! Capability sets and secure bits are those of rustix 1, the crate that wraps these calls best. User
//! and group ids are plain `u32`, as in [`CommandExt`](std::os::unix::process::CommandExt): every
//! value but one is an id, so that a type would add nothing, and `.groups(&[])` needs no annotation.
//! The one, 4294967295, means "leave as it is" to the kernel, and is refused.

mod apply;
mod bpf;
mod builder;
mod caller_state;
mod error;
mod filter;
mod ids;
mod implied;
mod landlock;
mod plan;
mod precheck;
mod precondition;
mod process_state;
mod sets;
mod state;
mod step;
mod trace;
mod user_namespace;
mod verify;

/// What `prctl(PR_SET_SECUREBITS)` sets: rustix's own type.
#[doc(no_inline)]
pub use rustix::thread::CapabilitiesSecureBits as SecureBits;
/// A set of capabilities: rustix's own type. `CapabilitySet::NET_BIND_SERVICE | CapabilitySet::KILL`.
#[doc(no_inline)]
pub use rustix::thread::CapabilitySet;

use ids::ResIds;

pub use builder::Privileges;
pub use error::{ApplyError, Cause, StepError};
pub use landlock::LandlockFlags;
pub use precondition::{CapabilityMask, IdKind, Precondition};
#[doc(inline)]
pub use psx_core::ThreadKind;
pub use sets::CapabilitySets;
pub use state::{Ids, ThreadPrivileges, threads};
pub use step::Step;
pub use verify::{Difference, VerifyError};
