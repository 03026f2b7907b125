//! Rounds among threads that do nothing but answer.

use psx_model::model::{Conduct, Model, Scene, Thread};
use psx_model::{Errno, Error};

use super::{plan, registered_only};

fn target(scene: &Scene) {
    scene.registered(|target| {
        target.step();
        target.step();
    });
}

fn round(threads: usize) -> impl FnOnce(&Thread) {
    move |caller| {
        let report = caller.broadcast(&registered_only(), 1, Conduct::default()).unwrap();
        assert_eq!((report.threads(), report.attempts()), (threads, 1));
        assert!(report.is_unanimous());
        caller.step();
    }
}

/// P2, P3 with one target, and all that the orderings let a load see.
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

/// The same, and the signal may arrive before each of the target's atomic operations.
pub(crate) mod one_target_interrupted_everywhere {
    use super::*;

    pub(crate) fn model() -> Model {
        Model::new().no_timer_needed().interrupted_everywhere().preemptions(4)
    }

    pub(crate) fn scene(scene: &Scene) {
        scene.registered(round(2));
        scene.registered(|target| {
            target.step();
            assert_eq!(target.walk(), 2);
            target.step();
        });
    }
}

/// P2, P3: each thread makes the call once, after the caller, and runs nothing in between.
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

/// The same with all that the orderings let a load see, and fewer turns.
pub(crate) mod two_targets_with_old_values {
    use super::*;

    pub(crate) fn model() -> Model {
        Model::new().no_timer_needed().preemptions(1)
    }

    pub(crate) fn scene(scene: &Scene) {
        scene.registered(round(3));
        scene.registered(Thread::step);
        scene.registered(Thread::step);
    }
}

/// P3: what fails on the caller is made by nobody.
pub(crate) mod call_fails_on_the_caller {
    use super::*;

    pub(crate) fn model() -> Model {
        Model::new().no_timer_needed().spurious_wakes(2).newest_values_only().preemptions(2)
    }

    pub(crate) fn scene(scene: &Scene) {
        scene.registered(|caller| {
            let fails = Conduct { fails: true, ..Conduct::default() };
            let refused = caller.broadcast(&plan(), 1, fails).unwrap_err();
            assert_eq!(refused, Error::Os(Errno::from_raw(1)));
            caller.step();
        });
        target(scene);
        target(scene);
    }
}

fn calls(number: u32) -> impl FnOnce(&Thread) {
    move |caller| {
        let report = caller.broadcast(&registered_only(), number, Conduct::default()).unwrap();
        assert!(report.is_unanimous());
        caller.step();
    }
}

/// Two callers, each the other's target: both get through, in the same order for both.
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

/// The same before a third thread.
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

/// Whoever claims an entry, it is summoned once, refused summonses not counted.
pub(crate) mod helped_signalling {
    use super::*;

    pub(crate) fn model() -> Model {
        Model::new().refusals(2).newest_values_only().preemptions(1)
    }

    pub(crate) fn scene(scene: &Scene) {
        scene.registered(|caller| {
            let report = caller.broadcast(&registered_only(), 1, Conduct::default()).unwrap();
            assert_eq!(report.threads(), 4);
        });
        for _ in 0..3 {
            scene.registered(|target| {
                target.until_over();
                assert_eq!(target.summonses(), 1, "summonses of thread {}", target.number());
            });
        }
    }
}
