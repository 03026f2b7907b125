//! Rounds with late, dead or unregistered threads, lost summonses, and callers that die.

use psx_model::model::{CallBehavior, Model, Scene, Thread};
use psx_model::{Error, Outcome};

use super::{registered_only, with_proof};

fn tries_twice(caller: &Thread) {
    match caller.broadcast(&registered_only(), 1, CallBehavior::default()) {
        Ok(_) => {}
        Err(Error::Unreachable(late)) => assert!(late.iter().all(|thread| thread.tid() > 1)),
        Err(other) => panic!("{other}"),
    }
    caller.run_user_code();
    let second = caller.broadcast(&registered_only(), 2, CallBehavior::default());
    assert!(second.is_ok() || matches!(second, Err(Error::Unreachable(_))));
    caller.run_user_code();
}

/// P1, P6: the deadline passes before, during or after an arrival; then another round.
pub(crate) mod late_arrival {
    use super::*;

    pub(crate) fn model() -> Model {
        Model::new().timers(2).deadlines(2).preemptions(1)
    }

    pub(crate) fn scene(scene: &Scene) {
        scene.registered(tries_twice);
        scene.registered(|target| {
            target.run_user_code();
            target.run_user_code();
        });
    }
}

/// P1, P6: the same with two targets, of which one may be on time.
pub(crate) mod late_arrivals {
    use super::*;

    pub(crate) fn model() -> Model {
        Model::new().timers(1).deadlines(1).newest_values_only().preemptions(1)
    }

    pub(crate) fn scene(scene: &Scene) {
        scene.registered(tries_twice);
        scene.registered(Thread::run_user_code);
        scene.registered(Thread::run_user_code);
    }
}

/// P1, P4: an attempt that finds an unregistered thread releases all threads, so that it can register.
pub(crate) mod uncovered_and_retried {
    use super::*;

    pub(crate) fn model() -> Model {
        Model::new().deadlines(1).newest_values_only().preemptions(2)
    }

    pub(crate) fn scene(scene: &Scene) {
        scene.registered(|caller| {
            match caller.broadcast(&with_proof(), 1, CallBehavior::default()) {
                Ok(report) => assert!((2..=3).contains(&report.threads())),
                Err(Error::Uncovered(missed)) => assert_eq!(missed[0].tid(), 3),
                Err(other) => panic!("{other}"),
            }
            caller.run_user_code();
        });
        scene.registered(|parent| {
            parent.spawn_unregistered(|child| {
                child.adopt();
                child.run_user_code();
            });
            parent.run_user_code();
        });
    }
}

/// P1, P10: a target that dies in its call is found dead and reported, and the next round runs without it.
/// A thread that unregisters meanwhile finds the list intact.
pub(crate) mod death_in_the_call {
    use super::*;

    pub(crate) fn model() -> Model {
        Model::new().timers(1).newest_values_only().preemptions(2)
    }

    pub(crate) fn scene(scene: &Scene) {
        scene.registered(|caller| {
            let kills = CallBehavior { kills: Some(2), ..CallBehavior::default() };
            let report = caller.broadcast(&registered_only(), 1, kills).unwrap();
            assert_eq!(report.divergent().len(), 1);
            assert_eq!(report.divergent()[0].outcome(), Outcome::Died);
            assert_eq!(report.divergent()[0].thread().tid(), 2);
            let report = caller.broadcast(&registered_only(), 2, CallBehavior::default()).unwrap();
            assert!((1..=2).contains(&report.threads()));
        });
        scene.registered(|_| ());
        scene.registered(|survivor| {
            survivor.run_user_code();
            survivor.unregister();
            survivor.exit();
        });
    }
}

/// P6: a target that ends without answering, before its summons or after, is not waited for, and its
/// entry is unlinked.
pub(crate) mod death_before_answer {
    use super::*;

    pub(crate) fn model() -> Model {
        Model::new().timers(1).newest_values_only().preemptions(2)
    }

    pub(crate) fn scene(scene: &Scene) {
        scene.registered(|caller| {
            let report = caller.broadcast(&with_proof(), 1, CallBehavior::default()).unwrap();
            assert_eq!(report.threads(), 2);
            assert_eq!(caller.walk(), 2);
        });
        scene.registered(|target| {
            target.block_summons(true);
            target.exit();
        });
        scene.registered(Thread::run_user_code);
    }
}

/// P1: a target without the stack for the call refuses, while another target stops or has stopped: no
/// thread makes the call, unless the stack is large enough by then.
pub(crate) mod stack_too_small {
    use super::*;

    pub(crate) fn model() -> Model {
        Model::new().newest_values_only().no_timer_needed().preemptions(2)
    }

    pub(crate) fn scene(scene: &Scene) {
        scene.registered(|caller| {
            match caller.broadcast(&registered_only(), 1, CallBehavior::default()) {
                Ok(report) => assert_eq!(report.threads(), 3),
                Err(Error::StackTooSmall(threads)) => {
                    assert_eq!(threads.iter().map(|thread| thread.tid()).collect::<Vec<_>>(), [2]);
                }
                Err(other) => panic!("{other}"),
            }
            caller.run_user_code();
        });
        scene.registered(|target| {
            target.set_small_stack(true);
            target.run_user_code();
            target.run_user_code();
            target.set_small_stack(false);
            target.run_user_code();
        });
        scene.registered(Thread::run_user_code);
    }
}

/// P5, P7: an unregistered thread with the id of a registered thread that has died is not signalled, and
/// does not count as registered.
pub(crate) mod reused_id {
    use super::*;

    pub(crate) fn model() -> Model {
        Model::new().deadlines(1).newest_values_only().preemptions(3)
    }

    pub(crate) fn scene(scene: &Scene) {
        scene.registered(|caller| {
            match caller.broadcast(&with_proof(), 1, CallBehavior::default()) {
                Ok(report) => assert_eq!(report.threads(), 2),
                Err(Error::Uncovered(missed)) => assert_eq!(missed[0].tid(), 2),
                Err(other) => panic!("{other}"),
            }
            caller.run_user_code();
        });
        scene.unregistered_with_reused_id(|thread| {
            thread.signal_point();
            assert_eq!(thread.summonses(), 0, "summonses of an unregistered thread");
            thread.adopt();
            thread.run_user_code();
        });
    }
}

/// P4: of two entries with one id the older one has no thread, even where no robust mutex shows it.
pub(crate) mod duplicate_id {
    use super::*;

    pub(crate) fn model() -> Model {
        Model::new().no_robust_mutexes().no_timer_needed().preemptions(2)
    }

    pub(crate) fn scene(scene: &Scene) {
        scene.registered(|caller| {
            let report = caller.broadcast(&with_proof(), 1, CallBehavior::default()).unwrap();
            assert_eq!(report.threads(), 2);
            assert_eq!(caller.walk(), 2);
            caller.run_user_code();
        });
        scene.registered_with_reused_id(|target| {
            target.run_user_code();
            target.run_user_code();
        });
    }
}

/// P6: another handler takes a summons: the caller installs its own again, and resends the summons.
pub(crate) mod summons_lost {
    use super::*;

    pub(crate) fn model() -> Model {
        Model::new().losses(2).newest_values_only().preemptions(1)
    }

    pub(crate) fn scene(scene: &Scene) {
        scene.registered(|caller| {
            let report = caller.broadcast(&registered_only(), 1, CallBehavior::default()).unwrap();
            assert_eq!(report.threads(), 3);
            caller.run_user_code();
        });
        scene.registered(Thread::run_user_code);
        scene.registered(Thread::run_user_code);
    }
}

/// P6: a target dies as it summons another: it is not waited for, and the target that it had claimed is
/// summoned.
pub(crate) mod death_while_helping {
    use super::*;

    pub(crate) fn model() -> Model {
        Model::new().deaths(1).newest_values_only().preemptions(1)
    }

    pub(crate) fn scene(scene: &Scene) {
        scene.registered(|caller| {
            let report = caller.broadcast(&with_proof(), 1, CallBehavior::default()).unwrap();
            assert!((3..=4).contains(&report.threads()));
            caller.run_user_code();
        });
        for _ in 0..3 {
            scene.registered(Thread::run_user_code);
        }
    }
}

fn dies(caller: &Thread, after: bool) {
    let kills = CallBehavior { kills: Some(1), kills_after_call: after, ..CallBehavior::default() };
    let _ = caller.broadcast(&registered_only(), 1, kills);
    unreachable!("the caller dies in its call");
}

/// P1: a caller dies in its call, before it has made it: a target finds it dead, and ends the process.
pub(crate) mod caller_dies {
    use super::*;

    pub(crate) fn model() -> Model {
        Model::new().no_timer_needed().polls(1).newest_values_only().preemptions(2)
    }

    pub(crate) fn scene(scene: &Scene) {
        scene.registered(|caller| dies(caller, false));
        scene.registered(Thread::run_user_code);
        scene.registered(Thread::run_user_code);
    }
}

/// P1: the same after the caller has made the call, and before any target has.
pub(crate) mod caller_dies_after_call {
    use super::*;

    pub(crate) fn model() -> Model {
        Model::new().no_timer_needed().polls(1).preemptions(2)
    }

    pub(crate) fn scene(scene: &Scene) {
        scene.registered(|caller| dies(caller, true));
        scene.registered(Thread::run_user_code);
    }
}

/// P1: a caller without targets dies: a thread that waits at the gate finds it dead, and ends the process.
pub(crate) mod caller_dies_alone {
    use super::*;

    pub(crate) fn model() -> Model {
        Model::new().no_timer_needed().polls(1).preemptions(2)
    }

    pub(crate) fn scene(scene: &Scene) {
        scene.registered(|caller| dies(caller, false));
        scene.unregistered(|thread| {
            thread.adopt();
            thread.run_user_code();
        });
    }
}

/// P6: a caller dies before it has stopped a thread: the next caller gets the lock.
pub(crate) mod caller_dies_before_round {
    use super::*;

    pub(crate) fn model() -> Model {
        Model::new().newest_values_only().preemptions(2)
    }

    pub(crate) fn scene(scene: &Scene) {
        scene.registered(|caller| {
            let early = CallBehavior { kills_before_round: true, ..CallBehavior::default() };
            let _ = caller.broadcast(&with_proof(), 1, early);
            unreachable!("the caller dies before its round");
        });
        scene.registered(|caller| {
            let report = caller.broadcast(&with_proof(), 2, CallBehavior::default()).unwrap();
            assert!((1..=2).contains(&report.threads()));
            caller.run_user_code();
        });
    }
}

/// P6: a caller that exits after its round does not count as dead in it.
pub(crate) mod caller_exits {
    use super::*;

    pub(crate) fn model() -> Model {
        Model::new().polls(2).newest_values_only().preemptions(3)
    }

    pub(crate) fn scene(scene: &Scene) {
        scene.registered(|caller| {
            caller.broadcast(&registered_only(), 1, CallBehavior::default()).unwrap();
            caller.unregister();
            caller.exit();
        });
        scene.registered(Thread::run_user_code);
    }
}
