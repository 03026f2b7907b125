//! The scenes that loom explores, each with a bound on how often a thread that could go on is kept
//! from it: as high as leaves the scene a minute. Without one, a round of two threads has more
//! orders than anyone can wait for, most of them alike. `LOOM_MAX_PREEMPTIONS=4` sets another.

mod lists;
mod rounds;
mod troubles;

use psx_model::model::{Model, Scene};
use psx_model::{Broadcast, Coverage, Divergence};

/// A scene and how it is explored.
#[derive(Clone, Copy)]
pub(crate) struct Piece {
    pub(crate) name: &'static str,
    pub(crate) model: fn() -> Model,
    pub(crate) scene: fn(&Scene),
}

macro_rules! pieces {
    ($($module:ident :: $name:ident),* $(,)?) => {
        &[$(Piece {
            name: stringify!($name),
            model: $module::$name::model,
            scene: $module::$name::scene,
        }),*]
    };
}

/// All of them.
pub(crate) const PIECES: &[Piece] = pieces![
    rounds::one_target,
    rounds::one_target_interrupted_everywhere,
    rounds::two_targets,
    rounds::two_targets_with_old_values,
    rounds::call_fails_on_the_caller,
    rounds::two_callers,
    rounds::two_callers_and_a_target,
    rounds::helped_signalling,
    lists::registering_and_walking,
    lists::birth,
    lists::birth_and_exit,
    lists::exit,
    lists::exit_with_old_values,
    lists::adoption,
    lists::main_leaves,
    troubles::late_arrival,
    troubles::late_arrivals,
    troubles::uncovered_and_retried,
    troubles::death_in_the_call,
    troubles::death_without_an_answer,
    troubles::stack_too_small,
    troubles::id_of_the_dead,
    troubles::two_entries_with_one_id,
    troubles::summons_lost,
    troubles::death_while_helping,
    troubles::caller_dies,
    troubles::caller_dies_having_called,
    troubles::caller_dies_alone,
    troubles::caller_dies_early,
    troubles::caller_leaves,
];

/// As users have it by default, but that results which differ are reported.
fn plan() -> Broadcast {
    Broadcast::new().divergence(Divergence::Report)
}

/// Without the proof of coverage.
fn registered_only() -> Broadcast {
    plan().coverage(Coverage::Registered)
}
