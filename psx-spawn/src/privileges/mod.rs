//! Typed steps that give up privileges on every thread, in one stop.
//!
//! [`Privileges`] collects steps, and [`apply`](Privileges::apply) makes all of them in one broadcast.
//! The order of the builder's calls does not matter: the steps are made in the one order that works.
//!
//! | | step | reason for its place |
//! |---|---|---|
//! | 1 | `secure_bits` | needs `CAP_SETPCAP`, which a change of uid removes; decides what a change of uid does to capabilities |
//! | 2 | `keep_capabilities` | applies to the change of uid; `secure_bits` would overwrite it |
//! | 3 | `bounding_set` | needs `CAP_SETPCAP` |
//! | 4 | `groups` | needs `CAP_SETGID`, which a change of uid removes |
//! | 5 | `gid` | the same |
//! | 6 | `uid` | removes effective capabilities, which the steps above need |
//! | 7 | `keep_parent_death_signal` | a change of gid or uid clears the signal |
//! | 8 | `capabilities` | a change of uid alters them |
//! | 9 | `ambient` | an ambient capability must be permitted and inheritable, which step 8 decides; a change of uid clears the set |
//! | 10 | `no_new_privs` | cannot fail; `landlock` and `seccomp` need it on a thread without `CAP_SYS_ADMIN` |
//! | 11 | `keep_dumpable` | once, after the round: until the last thread has changed, no process of the new user may trace any of them |
//! | 12 | `landlock` | last in the round, so that it restricts no other step; from Landlock ABI 8 on the kernel restricts all threads, after the round |
//! | 13 | `seccomp` | a filter may forbid any other step; installed by the kernel's `TSYNC`, after the round, since filters that threads install one by one count as different filters, after which a later `TSYNC` fails |
//!
//! Capabilities of `capabilities` survive the change of uid: if a batch gives up root and its permitted set
//! is not empty, psx sets *keep capabilities* before the change of uid and clears it afterwards.
//!
//! # When a step fails
//!
//! Before any thread is stopped, psx checks the batch against the state of the calling thread. It refuses the
//! batch if a condition does not hold ([`Cause::Precondition`]): a missing capability, an id that the user
//! namespace does not map, a descriptor that is not a ruleset. Nothing has changed then. If the kernel
//! refuses a step nevertheless, every thread has completed exactly the steps before it, and
//! [`ApplyError::Step`] lists them. They cannot be undone, because a process that gave up root cannot regain
//! it: such a process should end.
//!
//! The checks make system calls on the calling thread, before the round: `prctl`, `capget` and, if the
//! batch sets ids, `getresuid`, `getresgid`, `getgroups`. They read `uid_map`, `gid_map` and `setgroups` in
//! `/proc/self` ([`user_namespaces(7)`]). Where these cannot be read, the check is left to the kernel, which
//! refuses the step after the steps before it.
//!
//! # What a batch may not leave behind
//!
//! psx refuses a batch that gives up user id 0 and leaves a part of root behind that it does not name: a
//! group id 0 ([`Precondition::GidKept`]), supplementary groups ([`Precondition::GroupsKept`]), permitted
//! capabilities ([`Precondition::CapabilitiesKept`]). The batch either sets each of these or keeps it by
//! name: `gid` or `keep_gid`; `groups` or `keep_groups`; `capabilities`, `keep_capabilities` or
//! `secure_bits`.
//!
//! These checks look at the calling thread. Other threads may have privileges that the calling thread does
//! not have, so such a batch does more on every thread:
//!
//! - If the batch does not keep capabilities, each thread clears its permitted and effective set after the
//!   change of uid, whatever its secure bits are (`SECBIT_NO_SETUID_FIXUP`, `SECBIT_KEEP_CAPS`). Inheritable
//!   capabilities stay.
//! - If the calling thread has no supplementary groups and the batch does not name them, each thread gives
//!   up its own, as by `.groups(&[])`; an error may then name this step.
//! - A thread that would keep a group id 0 that the batch neither sets nor keeps by name diverges with `EPERM`
//!   before it changes its uid ([`Divergence`](crate::Divergence)).
//!
//! A process that is not root, has `CAP_SETGID` and gives up group id 0 must likewise set or keep its
//! supplementary groups if 0 is one of them. A set-user-ID-root program (`AT_SECURE` of `getauxval(3)`) that
//! becomes its real user may keep that user's groups without naming them.
//!
//! # Steps that change nothing
//!
//! A step that changes nothing on the calling thread is made on every thread nevertheless, because other
//! threads may differ. The kernel refuses some calls without a capability even where they change nothing.
//! Such a call counts as made on a thread that is in the wanted state already, so a process without
//! capabilities may repeat a batch: it may drop capabilities that are not in the bounding set, set the secure
//! bits that are set, keep capabilities that are kept, and give up groups where there are none
//! (`.groups(&[])`). Other groups need `CAP_SETGID` even if they are the thread's own: in a user namespace
//! they cannot be compared, since all groups that it does not map read as 65534. Another thread that is not
//! in the wanted state makes the call, and diverges if it lacks the capability
//! ([`Divergence`](crate::Divergence)).
//!
//! [`user_namespaces(7)`]: https://man7.org/linux/man-pages/man7/user_namespaces.7.html
//!
//! # Types
//!
//! Capability sets and secure bits are rustix 1's types. User and group ids are plain `u32`, as in
//! [`CommandExt`](std::os::unix::process::CommandExt): every value but one is an id, so a type would add
//! nothing, and `.groups(&[])` needs no annotation. The exception, 4294967295, means "leave unchanged" to the
//! kernel, and psx refuses it.

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

/// The bits of `prctl(PR_SET_SECUREBITS)`: rustix's type.
#[doc(no_inline)]
pub use rustix::thread::CapabilitiesSecureBits as SecureBits;
/// A set of capabilities: rustix's type. `CapabilitySet::NET_BIND_SERVICE | CapabilitySet::KILL`.
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
