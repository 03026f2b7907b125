//! What psx promises, tried on real processes: each case in a child process.

mod blocking;
mod calls;
mod churn;
mod coexistence;
mod coverage;
mod exits;
mod fork;
mod kernel;
mod late;
mod masked;
mod messages;
mod namespaces;
mod runner;
mod scope;
mod signals;
mod spawn;
mod stack;
mod syscalls;

use std::process::ExitCode;

fn main() -> ExitCode {
    if let Some(status) = exits::program() {
        return status;
    }
    let cases = [
        runner::cases(),
        namespaces::cases(),
        scope::cases(),
        spawn::cases(),
        calls::cases(),
        coverage::cases(),
        churn::cases(),
        fork::cases(),
        signals::cases(),
        coexistence::cases(),
        late::cases(),
        masked::cases(),
        messages::cases(),
        syscalls::cases(),
        exits::cases(),
        stack::cases(),
    ];
    psx_test_support::main(cases.into_iter().flatten().collect())
}
