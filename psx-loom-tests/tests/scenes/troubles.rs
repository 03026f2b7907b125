//! Rounds that something comes in the way of.

use psx_model::model::{Conduct, Model, Scene, Thread};
use psx_model::{Error, Outcome};

use super::{plan, registered_only};

fn tries_twice(caller: &Thread) {
    match caller.broadcast(&registered_only(), 1, Conduct::default()) {
        Ok(_) => {}
        Err(Error::Unreachable(late)) => assert!(late.iter().all(|thread| thread.tid() > 1)),
        Err(other) => panic!("{other}"),
    }
    caller.step();
    let second = caller.broadcast(&registered_only(), 2, Conduct::default());
    assert!(second.is_ok() || matches!(second, Err(Error::Unreachable(_))));
    caller.step();
}

/// P1, P6: the deadline against an arrival, at any moment; then another round.
pub(crate) mod late_arrival {
    use super::*;

    pub(crate) fn model() -> Model {
        Model::new().timers(2).deadlines(2).preemptions(1)
    }

    pub(crate) fn scene(scene: &Scene) {
        scene.registered(tries_twice);
        scene.registered(|target| {
            target.step();
            target.step();
        });
    }
}

/// The same with two targets, so that one may be on time.
pub(crate) mod late_arrivals {
    use super::*;

    pub(crate) fn model() -> Model {
        Model::new().timers(1).deadlines(1).newest_values_only().preemptions(1)
    }

    pub(crate) fn scene(scene: &Scene) {
        scene.registered(tries_twice);
        scene.registered(Thread::step);
        scene.registered(Thread::step);
    }
}

/// P4: an attempt that finds a stranger lets the world go, so that the stranger gets in.
pub(crate) mod uncovered_and_retried {
    use super::*;

    pub(crate) fn model() -> Model {
        Model::new().deadlines(1).newest_values_only().preemptions(2)
    }

    pub(crate) fn scene(scene: &Scene) {
        scene.registered(|caller| {
            match caller.broadcast(&plan(), 1, Conduct::default()) {
                Ok(report) => assert!((2..=3).contains(&report.threads())),
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

/// A target that dies in its call is noticed and told of, and the next round does without it; who
/// leaves the list meanwhile finds it whole.
pub(crate) mod death_in_the_call {
    use super::*;

    pub(crate) fn model() -> Model {
        Model::new().timers(1).newest_values_only().preemptions(2)
    }

    pub(crate) fn scene(scene: &Scene) {
        scene.registered(|caller| {
            let kills = Conduct { kills: Some(2), ..Conduct::default() };
            let report = caller.broadcast(&registered_only(), 1, kills).unwrap();
            assert_eq!(report.divergent().len(), 1);
            assert_eq!(report.divergent()[0].outcome(), Outcome::Died);
            assert_eq!(report.divergent()[0].thread().tid(), 2);
            let report = caller.broadcast(&registered_only(), 2, Conduct::default()).unwrap();
            assert!((1..=2).contains(&report.threads()));
        });
        scene.registered(|_| ());
        scene.registered(|survivor| {
            survivor.step();
            survivor.leave();
            survivor.exit();
        });
    }
}

/// A target that ends without answering, before its summons or after, is not waited for, and its
/// entry is buried.
pub(crate) mod death_without_an_answer {
    use super::*;

    pub(crate) fn model() -> Model {
        Model::new().timers(1).newest_values_only().preemptions(2)
    }

    pub(crate) fn scene(scene: &Scene) {
        scene.registered(|caller| {
            let report = caller.broadcast(&plan(), 1, Conduct::default()).unwrap();
            assert_eq!(report.threads(), 2);
            assert_eq!(caller.walk(), 2);
        });
        scene.registered(|mortal| {
            mortal.block_summons(true);
            mortal.exit();
        });
        scene.registered(Thread::step);
    }
}

/// P1: a target without the stack for the call refuses, while another one stops or has stopped. No
/// thread makes the call, and the next round has both.
pub(crate) mod stack_too_small {
    use super::*;

    pub(crate) fn model() -> Model {
        Model::new().newest_values_only().no_timer_needed().preemptions(2)
    }

    pub(crate) fn scene(scene: &Scene) {
        scene.registered(|caller| {
            match caller.broadcast(&registered_only(), 1, Conduct::default()) {
                Ok(report) => assert_eq!(report.threads(), 3),
                Err(Error::StackTooSmall(threads)) => {
                    assert_eq!(threads.iter().map(|thread| thread.tid()).collect::<Vec<_>>(), [2]);
                }
                Err(other) => panic!("{other}"),
            }
            caller.step();
        });
        scene.registered(|target| {
            target.small_stack(true);
            target.step();
            target.step();
            target.small_stack(false);
            target.step();
        });
        scene.registered(Thread::step);
    }
}

/// P7: an unregistered thread with the id of a registered one that has died is not signalled, and not
/// taken for it.
pub(crate) mod id_of_the_dead {
    use super::*;

    pub(crate) fn model() -> Model {
        Model::new().deadlines(1).newest_values_only().preemptions(3)
    }

    pub(crate) fn scene(scene: &Scene) {
        scene.registered(|caller| {
            match caller.broadcast(&plan(), 1, Conduct::default()) {
                Ok(report) => assert_eq!(report.threads(), 2),
                Err(Error::Uncovered(missed)) => assert_eq!(missed[0].tid(), 2),
                Err(other) => panic!("{other}"),
            }
            caller.step();
        });
        scene.foreign_again(|heir| {
            heir.interrupt();
            assert_eq!(heir.summonses(), 0, "summonses of an unregistered thread");
            heir.adopt();
            heir.step();
        });
    }
}

/// Of two entries with one id the older one has no thread, also where no mark says so.
pub(crate) mod two_entries_with_one_id {
    use super::*;

    pub(crate) fn model() -> Model {
        Model::new().no_robust_mutexes().no_timer_needed().preemptions(2)
    }

    pub(crate) fn scene(scene: &Scene) {
        scene.registered(|caller| {
            let report = caller.broadcast(&plan(), 1, Conduct::default()).unwrap();
            assert_eq!(report.threads(), 2);
            assert_eq!(caller.walk(), 2);
            caller.step();
        });
        scene.registered_again(|heir| {
            heir.step();
            heir.step();
        });
    }
}

/// Another handler takes a summons: the caller puts its own back, and sends it again.
pub(crate) mod summons_lost {
    use super::*;

    pub(crate) fn model() -> Model {
        Model::new().losses(2).newest_values_only().preemptions(1)
    }

    pub(crate) fn scene(scene: &Scene) {
        scene.registered(|caller| {
            let report = caller.broadcast(&registered_only(), 1, Conduct::default()).unwrap();
            assert_eq!(report.threads(), 3);
            caller.step();
        });
        scene.registered(Thread::step);
        scene.registered(Thread::step);
    }
}

/// A target dies as it passes the summons on: it is not waited for, and nor is what it has claimed lost.
pub(crate) mod death_while_helping {
    use super::*;

    pub(crate) fn model() -> Model {
        Model::new().deaths(1).newest_values_only().preemptions(1)
    }

    pub(crate) fn scene(scene: &Scene) {
        scene.registered(|caller| {
            let report = caller.broadcast(&plan(), 1, Conduct::default()).unwrap();
            assert!((3..=4).contains(&report.threads()));
            caller.step();
        });
        for _ in 0..3 {
            scene.registered(Thread::step);
        }
    }
}

fn dies(caller: &Thread, after: bool) {
    let kills = Conduct { kills: Some(1), kills_after: after, ..Conduct::default() };
    let _ = caller.broadcast(&registered_only(), 1, kills);
    unreachable!("the caller dies in its call");
}

/// A caller that dies in its call, before it has made it: its target notices, and ends the process.
pub(crate) mod caller_dies {
    use super::*;

    pub(crate) fn model() -> Model {
        Model::new().no_timer_needed().looks(1).newest_values_only().preemptions(2)
    }

    pub(crate) fn scene(scene: &Scene) {
        scene.registered(|caller| dies(caller, false));
        scene.registered(Thread::step);
        scene.registered(Thread::step);
    }
}

/// The same when the caller has made the call, and no other thread has.
pub(crate) mod caller_dies_having_called {
    use super::*;

    pub(crate) fn model() -> Model {
        Model::new().no_timer_needed().looks(1).preemptions(2)
    }

    pub(crate) fn scene(scene: &Scene) {
        scene.registered(|caller| dies(caller, true));
        scene.registered(Thread::step);
    }
}

/// A caller that dies without a target: whoever waits at the gate notices.
pub(crate) mod caller_dies_alone {
    use super::*;

    pub(crate) fn model() -> Model {
        Model::new().no_timer_needed().looks(1).preemptions(2)
    }

    pub(crate) fn scene(scene: &Scene) {
        scene.registered(|caller| dies(caller, false));
        scene.foreign(|foreign| {
            foreign.adopt();
            foreign.step();
        });
    }
}

/// A caller that dies before it has stopped anybody: the next caller gets its turn.
pub(crate) mod caller_dies_early {
    use super::*;

    pub(crate) fn model() -> Model {
        Model::new().newest_values_only().preemptions(2)
    }

    pub(crate) fn scene(scene: &Scene) {
        scene.registered(|caller| {
            let early = Conduct { kills_early: true, ..Conduct::default() };
            let _ = caller.broadcast(&plan(), 1, early);
            unreachable!("the caller dies before its round");
        });
        scene.registered(|caller| {
            let report = caller.broadcast(&plan(), 2, Conduct::default()).unwrap();
            assert!((1..=2).contains(&report.threads()));
            caller.step();
        });
    }
}

/// A caller that ends its round and then its life is not taken for one that died in its round.
pub(crate) mod caller_leaves {
    use super::*;

    pub(crate) fn model() -> Model {
        Model::new().looks(2).newest_values_only().preemptions(3)
    }

    pub(crate) fn scene(scene: &Scene) {
        scene.registered(|caller| {
            caller.broadcast(&registered_only(), 1, Conduct::default()).unwrap();
            caller.leave();
            caller.exit();
        });
        scene.registered(Thread::step);
    }
}
