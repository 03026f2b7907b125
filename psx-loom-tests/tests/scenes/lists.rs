//! Threads start, register and exit, with and without rounds.

use psx_model::model::{CallBehavior, Model, Scene};

use super::{registered_only, with_proof};

/// P5: the list alone: two threads register and unregister, a third walks it.
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
            scene.unregistered(|thread| {
                thread.adopt();
                thread.unregister();
            });
        }
    }
}

/// P2, P5: a thread starts, and a round runs, in any order.
pub(crate) mod spawn {
    use super::*;

    pub(crate) fn model() -> Model {
        Model::new().no_timer_needed().spurious_wakes(1).newest_values_only().preemptions(2)
    }

    pub(crate) fn scene(scene: &Scene) {
        scene.registered(|caller| {
            let report = caller.broadcast(&registered_only(), 1, CallBehavior::default()).unwrap();
            assert!((2..=3).contains(&report.threads()));
        });
        scene.registered(|parent| {
            parent.spawn(|child| child.run_user_code());
            parent.run_user_code();
        });
    }
}

/// P4, P5: the same with the proof of coverage: a thread that starts and exits meanwhile is never counted
/// as unregistered, nor an unregistered thread as registered.
pub(crate) mod spawn_and_exit {
    use super::*;

    pub(crate) fn model() -> Model {
        Model::new().newest_values_only().preemptions(3)
    }

    pub(crate) fn scene(scene: &Scene) {
        scene.registered(|caller| {
            let report = caller.broadcast(&with_proof(), 1, CallBehavior::default()).unwrap();
            assert!((2..=3).contains(&report.threads()));
            caller.run_user_code();
        });
        scene.registered(|parent| {
            parent.spawn(|child| {
                child.run_user_code();
                child.unregister();
                child.exit();
            });
        });
    }
}

/// P2, P5: a thread that exits makes the call, or runs no more user code; its entry is gone.
pub(crate) mod exit {
    use super::*;

    pub(crate) fn model() -> Model {
        Model::new().no_timer_needed().spurious_wakes(1).newest_values_only().preemptions(2)
    }

    pub(crate) fn scene(scene: &Scene) {
        exit_with_old_values::scene(scene);
        scene.registered(|target| target.run_user_code());
    }
}

/// P2, P5: the same without a third thread, and with all values that the orderings let a load see.
pub(crate) mod exit_with_old_values {
    use super::*;

    pub(crate) fn model() -> Model {
        Model::new().no_timer_needed().preemptions(4)
    }

    pub(crate) fn scene(scene: &Scene) {
        scene.registered(|caller| {
            let report = caller.broadcast(&registered_only(), 1, CallBehavior::default()).unwrap();
            assert!((1..=3).contains(&report.threads()));
            caller.run_user_code();
        });
        scene.registered(|exiting| {
            exiting.run_user_code();
            exiting.unregister();
            exiting.exit();
        });
    }
}

/// P4, P10: without a list of threads: an unregistered main thread starts another thread, and ends before
/// or after the round counts. The kernel still counts it. The round may leave out a main thread that has
/// ended, never one that runs, and never the other thread.
pub(crate) mod main_exits {
    use super::*;

    pub(crate) fn model() -> Model {
        Model::new().deadlines(1).proc_out_of_reach().preemptions(2)
    }

    pub(crate) fn scene(scene: &Scene) {
        scene.unregistered(|main| {
            main.spawn_unregistered(|other| {
                other.adopt();
                other.run_user_code();
            });
            main.exit_as_main();
        });
        scene.registered(|caller| {
            match caller.broadcast(&with_proof(), 1, CallBehavior::default()) {
                Ok(report) => assert!((1..=2).contains(&report.threads())),
                Err(psx_model::Error::Uncovered(missed)) => assert!(missed.unnamed() > 0),
                Err(other) => panic!("{other}"),
            }
            caller.run_user_code();
        });
    }
}

/// P4, P10: a thread registers while a round proves coverage.
pub(crate) mod adoption {
    use super::*;

    pub(crate) fn model() -> Model {
        Model::new().deadlines(2).preemptions(3)
    }

    pub(crate) fn scene(scene: &Scene) {
        scene.registered(|caller| {
            let result = caller.broadcast(&with_proof(), 1, CallBehavior::default());
            assert!(result.is_ok() || matches!(result, Err(psx_model::Error::Uncovered(_))));
            caller.run_user_code();
        });
        scene.unregistered(|thread| {
            thread.adopt();
            thread.run_user_code();
        });
    }
}
