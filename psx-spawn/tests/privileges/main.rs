//! What `psx::Privileges` promises, tried on real processes and judged from outside.

#[path = "../support/mod.rs"]
mod support;

mod allocator;
mod batch;
#[cfg(feature = "tracing")]
mod events;
mod every_thread;
mod filters;
mod ids;
mod kernel;
mod left_behind;
mod preconditions;
mod random;
mod sandbox;
mod steps;
mod tell;
mod twin;
mod user_namespace;

use std::process::ExitCode;

fn main() -> ExitCode {
    let concerns = [
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
        tell::cases(),
        every_thread::cases(),
        twin::cases(),
        filters::cases(),
    ];
    support::main(concerns.into_iter().flatten().collect())
}
