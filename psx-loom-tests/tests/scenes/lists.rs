//! Who belongs to the process: births, exits, adoptions, with and without rounds.

use psx_model::model::{Conduct, Model, Scene};

use super::{plan, registered_only};

/// The list alone: two threads come and go, a third walks.
pub(crate) mod registering_and_walking {
    use super::*;

    pub(crate) fn model() -> Model {
        Model::new().no_timer_needed().spurious_wakes(1).preemptions(3)
    }

    pub(crate) fn scene(scene: &Scene) {
        scene.registered(|walker| {
            assert!((1..=3).contains(&walker.walk()));
        });
        for _ in 0..2 {
            scene.foreign(|comer| {
                comer.adopt();
                comer.leave();
            });
        }
    }
}

/// P5: a birth and a round, in any order.
pub(crate) mod birth {
    use super::*;

    pub(crate) fn model() -> Model {
        Model::new().no_timer_needed().spurious_wakes(1).newest_values_only().preemptions(2)
    }

    pub(crate) fn scene(scene: &Scene) {
        scene.registered(|caller| {
            let report = caller.broadcast(&registered_only(), 1, Conduct::default()).unwrap();
            assert!((2..=3).contains(&report.threads()));
        });
        scene.registered(|parent| {
            parent.give_birth(|child| child.step());
            parent.step();
        });
    }
}

/// P5 with the proof: a thread that is born and exits meanwhile is never taken for a stranger, nor
/// a stranger for it.
pub(crate) mod birth_and_exit {
    use super::*;

    pub(crate) fn model() -> Model {
        Model::new().newest_values_only().preemptions(3)
    }

    pub(crate) fn scene(scene: &Scene) {
        scene.registered(|caller| {
            let report = caller.broadcast(&plan(), 1, Conduct::default()).unwrap();
            assert!((2..=3).contains(&report.threads()));
            caller.step();
        });
        scene.registered(|parent| {
            parent.give_birth(|child| {
                child.step();
                child.leave();
                child.exit();
            });
        });
    }
}

/// A thread that exits makes the call, or runs no more user code; its entry is gone.
pub(crate) mod exit {
    use super::*;

    pub(crate) fn model() -> Model {
        Model::new().no_timer_needed().spurious_wakes(1).newest_values_only().preemptions(2)
    }

    pub(crate) fn scene(scene: &Scene) {
        exit_with_old_values::scene(scene);
        scene.registered(|stayer| stayer.step());
    }
}

/// The same without a third thread, and with all that the orderings let a load see.
pub(crate) mod exit_with_old_values {
    use super::*;

    pub(crate) fn model() -> Model {
        Model::new().no_timer_needed().preemptions(4)
    }

    pub(crate) fn scene(scene: &Scene) {
        scene.registered(|caller| {
            let report = caller.broadcast(&registered_only(), 1, Conduct::default()).unwrap();
            assert!((1..=3).contains(&report.threads()));
            caller.step();
        });
        scene.registered(|leaver| {
            leaver.step();
            leaver.leave();
            leaver.exit();
        });
    }
}

/// P4 without a list of threads: a main thread that psx does not know of starts another one, and ends
/// before or after the round counts. The kernel goes on counting it, and the round may leave it out;
/// never the other one, and never a main thread that still runs.
pub(crate) mod main_leaves {
    use super::*;

    pub(crate) fn model() -> Model {
        Model::new().deadlines(1).proc_out_of_reach().preemptions(2)
    }

    pub(crate) fn scene(scene: &Scene) {
        scene.foreign(|main| {
            main.give_foreign_birth(|other| {
                other.adopt();
                other.step();
            });
            main.exit_as_main();
        });
        scene.registered(|caller| {
            match caller.broadcast(&plan(), 1, Conduct::default()) {
                Ok(report) => assert!((1..=2).contains(&report.threads())),
                Err(psx_model::Error::Uncovered(missed)) => assert!(missed.unnamed() > 0),
                Err(other) => panic!("{other}"),
            }
            caller.step();
        });
    }
}

/// P4: a foreign thread adopts while a round wants a proof.
pub(crate) mod adoption {
    use super::*;

    pub(crate) fn model() -> Model {
        Model::new().deadlines(2).preemptions(3)
    }

    pub(crate) fn scene(scene: &Scene) {
        scene.registered(|caller| {
            let result = caller.broadcast(&plan(), 1, Conduct::default());
            assert!(result.is_ok() || matches!(result, Err(psx_model::Error::Uncovered(_))));
            caller.step();
        });
        scene.foreign(|foreign| {
            foreign.adopt();
            foreign.step();
        });
    }
}
