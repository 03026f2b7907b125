//! The scenes that loom explores, each with a bound on preemptions: the highest that keeps the scene below
//! a minute. Without a bound even a round of two threads has too many interleavings to explore, most of
//! them equivalent. `LOOM_MAX_PREEMPTIONS=4` overrides all bounds.
//!
//! The doc of each scene begins with the promises that it explores (docs/promises.md), which
//! psx-spawn/tests/promises.rs checks.
//!
//! | file | scenes |
//! |---|---|
//! | `rounds` | rounds that succeed, and calls that fail |
//! | `lists` | threads start, register, exit |
//! | `attempts` | late threads, and the attempts that wait for them |
//! | `failures` | late and dead threads, lost summonses, callers that die |

mod attempts;
mod failures;
mod lists;
mod rounds;

use psx_model::model::{Model, Scene};
use psx_model::{Broadcast, Coverage, Divergence};

/// A scene and how it is explored.
#[derive(Clone, Copy)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) model: fn() -> Model,
    pub(crate) scene: fn(&Scene),
}

macro_rules! scenarios {
    ($($module:ident :: $name:ident),* $(,)?) => {
        &[$(Scenario {
            name: stringify!($name),
            model: $module::$name::model,
            scene: $module::$name::scene,
        }),*]
    };
}

pub(crate) const SCENARIOS: &[Scenario] = scenarios![
    rounds::one_target,
    rounds::one_target_interrupted_everywhere,
    rounds::two_targets,
    rounds::two_targets_with_old_values,
    rounds::call_fails_on_the_caller,
    rounds::two_callers,
    rounds::two_callers_and_a_target,
    rounds::helped_signalling,
    lists::registering_and_walking,
    lists::spawn,
    lists::spawn_and_exit,
    lists::exit,
    lists::exit_with_old_values,
    lists::adoption,
    lists::main_exits,
    attempts::late_signal,
    attempts::late_signal_interrupted_everywhere,
    attempts::late_signal_between_broadcasts,
    attempts::late_thread_exits,
    attempts::late_thread_never_answers,
    attempts::late_for_two_callers,
    attempts::late_caller,
    failures::late_arrival,
    failures::late_arrivals,
    failures::uncovered_and_retried,
    failures::death_in_the_call,
    failures::death_before_answer,
    failures::stack_too_small,
    failures::reused_id,
    failures::duplicate_id,
    failures::summons_lost,
    failures::death_while_helping,
    failures::caller_dies,
    failures::caller_dies_after_call,
    failures::caller_dies_alone,
    failures::caller_dies_before_round,
    failures::caller_exits,
];

/// The default, except that results that differ are reported.
fn with_proof() -> Broadcast {
    Broadcast::new().divergence(Divergence::Report)
}

/// The same without the proof of coverage.
fn registered_only() -> Broadcast {
    with_proof().coverage(Coverage::Registered)
}
