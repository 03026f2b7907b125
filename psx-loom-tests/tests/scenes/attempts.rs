//! Threads that are late for an attempt, and the attempts that wait until they have taken their signals (P9).
//!
//! In every scene without lost summonses the model's kernel fails if a second signal is queued for a thread
//! that has not taken the first and is not in its handler.

use psx_model::model::{CallBehavior, Model, Scene, Thread};
use psx_model::{Error, Report};

use super::registered_only;

fn broadcast(caller: &Thread, round: u32) -> Result<Report, Error> {
    let result = caller.broadcast(&registered_only(), round, CallBehavior::default());
    caller.run_user_code();
    result
}

/// A broadcast that ends only when all threads have made the call.
fn succeeds(caller: &Thread, round: u32) {
    let report = broadcast(caller, round).unwrap();
    assert!(report.attempts() <= 2);
}

/// P9: the pause passes before, during or after an arrival. The target takes its signal while it runs, or
/// in the next attempt.
pub(crate) mod late_signal {
    use super::*;

    pub(crate) fn model() -> Model {
        Model::new().timers(1).shorter_deadlines(1).no_timer_needed().preemptions(2)
    }

    pub(crate) fn scene(scene: &Scene) {
        scene.registered(|caller| succeeds(caller, 1));
        scene.registered(|target| {
            target.run_user_code();
            target.run_user_code();
        });
    }
}

/// P9: the same, and a signal may arrive before each operation.
pub(crate) mod late_signal_interrupted_everywhere {
    use super::*;

    pub(crate) fn model() -> Model {
        let model = Model::new().timers(1).shorter_deadlines(1).interrupted_everywhere();
        model.newest_values_only().preemptions(3)
    }

    pub(crate) fn scene(scene: &Scene) {
        scene.registered(|caller| succeeds(caller, 1));
        scene.registered(Thread::run_user_code);
    }
}

/// P9: a broadcast ends at its deadline, and its late target takes the signal just when the next broadcast
/// begins: the target arrives, or gets another signal.
pub(crate) mod late_signal_between_broadcasts {
    use super::*;

    pub(crate) fn model() -> Model {
        Model::new().timers(1).deadlines(1).no_timer_needed().preemptions(2)
    }

    pub(crate) fn scene(scene: &Scene) {
        scene.registered(|caller| match broadcast(caller, 1) {
            Ok(_) => {}
            Err(Error::Unreachable(late)) => {
                assert_eq!(late[0].tid(), 2);
                succeeds(caller, 2);
            }
            Err(other) => panic!("{other}"),
        });
        scene.registered(|target| {
            target.run_user_code();
            target.run_user_code();
        });
    }
}

/// P9, P6: a late thread ends without taking its signal: the caller finds it dead, and goes on.
pub(crate) mod late_thread_exits {
    use super::*;

    pub(crate) fn model() -> Model {
        Model::new().timers(1).shorter_deadlines(1).newest_values_only().preemptions(2)
    }

    pub(crate) fn scene(scene: &Scene) {
        scene.registered(|caller| {
            succeeds(caller, 1);
            assert_eq!(caller.walk(), 2);
        });
        scene.registered(|target| {
            target.block_summons(true);
            target.signal_point();
            target.exit();
        });
        scene.registered(Thread::run_user_code);
    }
}

/// P9, P6: a thread that blocks its signal until the broadcast has ended is named, all others run on, and no
/// thread has made the call.
pub(crate) mod late_thread_never_answers {
    use super::*;

    pub(crate) fn model() -> Model {
        Model::new().timers(1).shorter_deadlines(1).newest_values_only().preemptions(2)
    }

    pub(crate) fn scene(scene: &Scene) {
        scene.registered(|target| {
            target.block_summons(true);
            target.idle();
        });
        scene.registered(|caller| match broadcast(caller, 1) {
            Ok(report) => assert_eq!(report.threads(), 3, "before the signal was blocked"),
            Err(Error::Unreachable(late)) => assert_eq!((late.len(), late[0].tid()), (1, 1)),
            Err(other) => panic!("{other}"),
        });
        scene.registered(Thread::run_user_code);
    }
}

/// P9: a target is late for two callers, one of which backs off while the other makes its round.
pub(crate) mod late_for_two_callers {
    use super::*;

    pub(crate) fn model() -> Model {
        Model::new().timers(1).shorter_deadlines(1).newest_values_only().preemptions(1)
    }

    pub(crate) fn scene(scene: &Scene) {
        scene.registered(|caller| drop(broadcast(caller, 1).unwrap()));
        scene.registered(|caller| drop(broadcast(caller, 2).unwrap()));
        scene.registered(Thread::run_user_code);
    }
}

/// P9: a thread that is late for one caller makes a broadcast itself.
pub(crate) mod late_caller {
    use super::*;

    pub(crate) fn model() -> Model {
        Model::new().timers(1).shorter_deadlines(1).newest_values_only().preemptions(2)
    }

    pub(crate) fn scene(scene: &Scene) {
        scene.registered(|caller| drop(broadcast(caller, 1).unwrap()));
        scene.registered(|late| {
            late.block_summons(true);
            late.block_summons(false);
            drop(broadcast(late, 2).unwrap());
        });
    }
}
