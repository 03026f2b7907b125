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

/// P2, P3: each thread makes the call once, after the caller, and runs nothing in between.
pub(crate) mod one_round {
    use super::*;

    pub(crate) fn model() -> Model {
        Model::new()
            .no_timer_needed()
            .spurious_wakes(2)
            .preemptions(3)
    }

    pub(crate) fn scene(scene: &Scene) {
        scene.registered(|caller| {
            let report = caller.broadcast(&plan(), 1, Conduct::default()).unwrap();
            assert_eq!((report.threads(), report.attempts()), (3, 1));
            assert!(report.is_unanimous());
            caller.step();
        });
        target(scene);
        target(scene);
    }
}

/// The same with one target, that the signal may reach before each of its atomic operations.
pub(crate) mod one_round_interrupted_everywhere {
    use super::*;

    pub(crate) fn model() -> Model {
        Model::new()
            .no_timer_needed()
            .spurious_wakes(1)
            .interrupted_everywhere()
    }

    pub(crate) fn scene(scene: &Scene) {
        scene.registered(|caller| {
            let report = caller
                .broadcast(&registered_only(), 1, Conduct::default())
                .unwrap();
            assert_eq!(report.threads(), 2);
            caller.step();
        });
        scene.registered(|target| {
            target.step();
            assert!(target.walk() >= 1);
            target.step();
        });
    }
}

/// P3: what fails on the caller is made by nobody.
pub(crate) mod call_fails_on_the_caller {
    use super::*;

    pub(crate) fn model() -> Model {
        Model::new()
            .no_timer_needed()
            .spurious_wakes(2)
            .preemptions(3)
    }

    pub(crate) fn scene(scene: &Scene) {
        scene.registered(|caller| {
            let fails = Conduct {
                fails: true,
                ..Conduct::default()
            };
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
        let report = caller
            .broadcast(&registered_only(), number, Conduct::default())
            .unwrap();
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
        Model::new().no_timer_needed().preemptions(2)
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
        Model::new().refusals(3).preemptions(2)
    }

    pub(crate) fn scene(scene: &Scene) {
        scene.registered(|caller| {
            let report = caller
                .broadcast(&registered_only(), 1, Conduct::default())
                .unwrap();
            assert_eq!(report.threads(), 4);
        });
        for _ in 0..3 {
            scene.registered(|target| {
                target.until_over();
                assert_eq!(
                    target.summonses(),
                    1,
                    "summonses of thread {}",
                    target.number()
                );
            });
        }
    }
}
