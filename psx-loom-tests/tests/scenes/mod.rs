//! The scenes that loom explores. Each has a bound or is exhaustive, and says what it is about.

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
    lists::registering_and_walking,
    rounds::one_round,
    rounds::one_round_interrupted_everywhere,
    rounds::call_fails_on_the_caller,
    rounds::two_callers,
    rounds::two_callers_and_a_target,
    rounds::helped_signalling,
    lists::birth,
    lists::birth_while_rounds_retry,
    lists::exit,
    lists::adoption,
    troubles::late_arrival,
    troubles::uncovered_and_retried,
    troubles::death_in_the_call,
];

/// As users have it by default, but that results which differ are reported.
fn plan() -> Broadcast {
    Broadcast::new().divergence(Divergence::Report)
}

/// Without the proof of coverage.
fn registered_only() -> Broadcast {
    plan().coverage(Coverage::Registered)
}
