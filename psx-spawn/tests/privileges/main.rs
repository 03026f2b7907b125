//! What `psx::Privileges` promises, tried on real processes and checked from outside.

mod allocator;
mod batch;
#[cfg(feature = "tracing")]
mod events;
mod every_thread;
mod filters;
mod ids;
mod introspection;
mod kernel;
mod left_behind;
mod preconditions;
mod random;
mod sandbox;
mod steps;
mod twin;
mod user_namespace;

use std::process::ExitCode;

fn main() -> ExitCode {
    let cases = [
        allocator::cases(),
        steps::cases(),
        batch::cases(),
        preconditions::cases(),
        user_namespace::cases(),
        ids::cases(),
        left_behind::cases(),
        #[cfg(feature = "tracing")]
        events::cases(),
        sandbox::cases(),
        introspection::cases(),
        every_thread::cases(),
        twin::cases(),
        filters::cases(),
    ];
    psx_test_support::main(cases.into_iter().flatten().collect())
}
