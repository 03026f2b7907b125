//! Rounds that succeed, and calls that fail.

use psx_model::model::{CallBehavior, Model, Scene, Thread};
use psx_model::{Errno, Error};

use super::{registered_only, with_proof};

fn target(scene: &Scene) {
    scene.registered(|target| {
        target.run_user_code();
        target.run_user_code();
    });
}

fn round(threads: usize) -> impl FnOnce(&Thread) {
    move |caller| {
        let report = caller.broadcast(&registered_only(), 1, CallBehavior::default()).unwrap();
        assert_eq!((report.threads(), report.attempts()), (threads, 1));
        assert!(report.is_unanimous());
        caller.run_user_code();
    }
}

/// P2, P3: one target, and all values that the orderings let a load see.
pub(crate) mod one_target {
    use super::*;

    pub(crate) fn model() -> Model {
        Model::new().no_timer_needed().spurious_wakes(2).preemptions(3)
    }

    pub(crate) fn scene(scene: &Scene) {
        scene.registered(round(2));
        target(scene);
    }
}

/// P2: the same, and the signal may arrive before each atomic operation of the target.
pub(crate) mod one_target_interrupted_everywhere {
    use super::*;

    pub(crate) fn model() -> Model {
        Model::new().no_timer_needed().interrupted_everywhere().preemptions(4)
    }

    pub(crate) fn scene(scene: &Scene) {
        scene.registered(round(2));
        scene.registered(|target| {
            target.run_user_code();
            assert_eq!(target.walk(), 2);
            target.run_user_code();
        });
    }
}

/// P2, P3: each thread makes the call once, after the caller, and runs no user code in between.
pub(crate) mod two_targets {
    use super::*;

    pub(crate) fn model() -> Model {
        Model::new().no_timer_needed().spurious_wakes(2).newest_values_only().preemptions(2)
    }

    pub(crate) fn scene(scene: &Scene) {
        scene.registered(round(3));
        target(scene);
        target(scene);
    }
}

/// P2, P3: the same with all values that the orderings let a load see, and fewer preemptions.
pub(crate) mod two_targets_with_old_values {
    use super::*;

    pub(crate) fn model() -> Model {
        Model::new().no_timer_needed().preemptions(1)
    }

    pub(crate) fn scene(scene: &Scene) {
        scene.registered(round(3));
        scene.registered(Thread::run_user_code);
        scene.registered(Thread::run_user_code);
    }
}

/// P3: no target makes a call that fails on the caller.
pub(crate) mod call_fails_on_the_caller {
    use super::*;

    pub(crate) fn model() -> Model {
        Model::new().no_timer_needed().spurious_wakes(2).newest_values_only().preemptions(2)
    }

    pub(crate) fn scene(scene: &Scene) {
        scene.registered(|caller| {
            let fails = CallBehavior { fails: true, ..CallBehavior::default() };
            let refused = caller.broadcast(&with_proof(), 1, fails).unwrap_err();
            assert_eq!(refused, Error::Os(Errno::from_raw(1)));
            caller.run_user_code();
        });
        target(scene);
        target(scene);
    }
}

fn calls(number: u32) -> impl FnOnce(&Thread) {
    move |caller| {
        let report = caller.broadcast(&registered_only(), number, CallBehavior::default()).unwrap();
        assert!(report.is_unanimous());
        caller.run_user_code();
    }
}

/// P2, P6: two callers, each the target of the other: both rounds succeed, in one order for both.
pub(crate) mod two_callers {
    use super::*;

    pub(crate) fn model() -> Model {
        Model::new().no_timer_needed().preemptions(3)
    }

    pub(crate) fn scene(scene: &Scene) {
        scene.registered(calls(1));
        scene.registered(calls(2));
    }
}

/// P2, P6: the same with a third thread.
pub(crate) mod two_callers_and_a_target {
    use super::*;

    pub(crate) fn model() -> Model {
        Model::new().no_timer_needed().newest_values_only().preemptions(1)
    }

    pub(crate) fn scene(scene: &Scene) {
        scene.registered(calls(1));
        scene.registered(calls(2));
        target(scene);
    }
}

/// P6: each target is summoned once, whichever thread claims it; refused summonses do not count.
pub(crate) mod helped_signalling {
    use super::*;

    pub(crate) fn model() -> Model {
        Model::new().refusals(2).newest_values_only().preemptions(1)
    }

    pub(crate) fn scene(scene: &Scene) {
        scene.registered(|caller| {
            let report = caller.broadcast(&registered_only(), 1, CallBehavior::default()).unwrap();
            assert_eq!(report.threads(), 4);
        });
        for _ in 0..3 {
            scene.registered(|target| {
                target.idle();
                assert_eq!(target.summonses(), 1, "summonses of thread {}", target.number());
            });
        }
    }
}
