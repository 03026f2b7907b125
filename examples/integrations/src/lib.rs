//! What the integration examples share: how they show what they claim, threads that answer questions, and the
//! drop of privileges.

/// The Rust programs of the page, compiled and run as documentation tests.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/integration.md")]
mod documented {}

mod blocking;
mod show;

use std::io;

use psx::{CapabilitySets, Errno, Privileges};
use psx_examples::attempt::Answer;
use psx_examples::status::Credentials;

pub use blocking::on_blocking_threads;
use psx_test_support::Probe;
pub use show::{Lacking, Show, perform};

/// The uid and gid that root becomes: the kernel's own "nobody".
pub const NOBODY: u32 = 65_534;

/// The steps by which a process in the state `now` drops all its privileges, and the state that the kernel must
/// report of each thread afterwards. Root becomes nobody; another user keeps its ids.
pub fn dropping_everything(now: &Credentials) -> (Privileges, Credentials) {
    let steps = Privileges::new().capabilities(CapabilitySets::empty()).no_new_privs();
    let wanted = Credentials { effective: 0, no_new_privs: true, ..now.clone() };
    if !now.uids.contains(&0) {
        return (steps, wanted);
    }
    let ids = [NOBODY; 4];
    let wanted = Credentials { uids: ids, gids: ids, groups: Vec::new(), ..wanted };
    (steps.groups(&[]).gid(NOBODY).uid(NOBODY), wanted)
}

/// The result of an attempt that std makes.
///
/// # Errors
///
/// The number by which the kernel refused.
pub fn answer_of<T>(result: io::Result<T>) -> Answer {
    result.map(drop).map_err(|e| Errno::from_raw(e.raw_os_error().unwrap_or(0)))
}

/// Starts threads that answer questions.
pub fn start_probes(count: usize) -> Vec<Probe> {
    (0..count).map(|_| Probe::start()).collect()
}

/// What `question` returns on each of `probes`, and on the calling thread.
pub fn ask_all<T: Send + 'static>(
    probes: &[Probe],
    question: impl Fn() -> T + Copy + Send + 'static,
) -> Vec<T> {
    probes.iter().map(|probe| probe.ask(question)).chain([question()]).collect()
}
