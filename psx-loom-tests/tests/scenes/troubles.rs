//! Rounds that something comes in the way of.

use psx_model::model::{Conduct, Model, Scene};
use psx_model::{Error, Outcome};

use super::{plan, registered_only};

/// P1, P6: the deadline against an arrival, at any moment; then a round that must go through.
pub(crate) mod late_arrival {
    use super::*;

    pub(crate) fn model() -> Model {
        Model::new().timers(2).deadlines(2).preemptions(3)
    }

    pub(crate) fn scene(scene: &Scene) {
        scene.registered(|caller| {
            match caller.broadcast(&registered_only(), 1, Conduct::default()) {
                Ok(_) => {}
                Err(Error::Unreachable(late)) => assert_eq!(late[0].tid(), 2),
                Err(other) => panic!("{other}"),
            }
            caller.step();
            let second = caller.broadcast(&registered_only(), 2, Conduct::default());
            assert!(second.is_ok() || matches!(second, Err(Error::Unreachable(_))));
            caller.step();
        });
        scene.registered(|target| {
            target.step();
            target.step();
        });
    }
}

/// P4: an attempt that finds a stranger lets the world go, so that the stranger gets in.
pub(crate) mod uncovered_and_retried {
    use super::*;

    pub(crate) fn model() -> Model {
        Model::new().deadlines(1).preemptions(2)
    }

    pub(crate) fn scene(scene: &Scene) {
        scene.registered(|caller| {
            match caller.broadcast(&plan(), 1, Conduct::default()) {
                Ok(report) => assert_eq!(report.threads(), 3),
                Err(Error::Uncovered(missed)) => assert_eq!(missed[0].tid(), 3),
                Err(other) => panic!("{other}"),
            }
            caller.step();
        });
        scene.registered(|parent| {
            parent.give_foreign_birth(|stranger| {
                stranger.adopt();
                stranger.step();
            });
            parent.step();
        });
    }
}

/// A target that dies in its call is noticed and told of, and the next round does without it.
pub(crate) mod death_in_the_call {
    use super::*;

    pub(crate) fn model() -> Model {
        Model::new().timers(1).preemptions(2)
    }

    pub(crate) fn scene(scene: &Scene) {
        scene.registered(|caller| {
            let kills = Conduct {
                kills: Some(2),
                ..Conduct::default()
            };
            let report = caller.broadcast(&registered_only(), 1, kills).unwrap();
            assert_eq!(report.divergent().len(), 1);
            assert_eq!(report.divergent()[0].outcome(), Outcome::Died);
            assert_eq!(report.divergent()[0].thread().tid(), 2);
            let report = caller.broadcast(&plan(), 2, Conduct::default()).unwrap();
            assert_eq!(report.threads(), 2);
        });
        scene.registered(|_| ());
        scene.registered(|survivor| survivor.step());
    }
}
