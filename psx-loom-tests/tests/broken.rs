//! Removes one rule of the protocol at a time, and expects a scene to find out. A model that cannot
//! fail proves nothing.
//!
//! Each fault is explored in a process of its own: a model that fails in the middle of an unwinding
//! may take the process with it, and what it says of that goes to nobody's screen.

mod scenes;

use std::process::Command;

use libtest_mimic::{Arguments, Failed, Trial};
use psx_model::model::Fault;
use scenes::PIECES;

/// A rule, the scene that needs it, and what the scene says without it.
struct Broken {
    fault: Fault,
    scene: &'static str,
    symptom: &'static str,
}

macro_rules! broken {
    ($($fault:ident: $scene:ident says $symptom:expr;)*) => {
        &[$(Broken { fault: Fault::$fault, scene: stringify!($scene), symptom: $symptom }),*]
    };
}

/// Something that nothing orders: loom's words.
const RACE: &str = "Causality violation";
/// Everybody sleeps, and only a timer would help.
const LOST: &str = "a wake-up was lost";
const MIXED: &str = "runs between the first call and the last";

const BROKEN: &[Broken] = broken! {
    GateNotClosed: birth says RACE;
    PassesNotAwaited: birth says RACE;
    GateBarged: exit_with_old_values says RACE;
    PassReturnRelaxed: birth says RACE;
    GateCloseRelaxed: birth says RACE;
    GateOpenRelaxed: death_in_the_call says RACE;
    PhaseStoreRelaxed: one_target says RACE;
    PhaseLoadRelaxed: one_target says RACE;
    PhaseNotReadAgain: one_target says RACE;
    EpochStandsStill: late_arrival says MIXED;
    CountdownRelaxed: one_target says RACE;
    LatchWaitRelaxed: one_target says RACE;
    LatchForgetsToWake: one_target says LOST;
    CountedTwice: late_arrivals says MIXED;
    ClaimNotAtomic: helped_signalling says "summonses of thread";
    RefusalForgotten: helped_signalling says "Unreachable";
    LockNotTriedAgain: registering_and_walking says RACE;
    LockReleaseRelaxed: registering_and_walking says RACE;
    TurnBlocksSummons: two_callers says LOST;
    WakeAllWakesOne: two_targets says LOST;
    DeathUnnoticed: death_in_the_call says "time goes by and nothing comes of it";
    OwnerDiedUnread: id_of_the_dead says "summonses of an unregistered thread";
    DuplicateIdKept: two_entries_with_one_id says LOST;
    CountOfOnesOwn: adoption says MIXED;
    StackRefusalLost: stack_too_small says RACE;
    MainEndSeenAfterCount: main_leaves says MIXED;
    MainTakenForEnded: main_leaves says MIXED;
    LostNotSentAgain: summons_lost says "Unreachable";
    CallerNotWatched: caller_dies says "deadlock";
    RoundNotCheckedAgain: caller_leaves says "a false alarm";
    DeadOwnerKeepsLock: caller_dies_early says "Busy";
    TurnNotMarked: two_callers says LOST;
};

/// Names, for the child process, the fault that it is to explore.
const FAULT: &str = "PSX_MODEL_FAULT";

fn main() {
    if let Ok(name) = std::env::var(FAULT) {
        let broken = BROKEN.iter().find(|broken| format!("{:?}", broken.fault) == name).unwrap();
        let piece = PIECES.iter().find(|piece| piece.name == broken.scene).unwrap();
        let interleavings = (piece.model)().without(broken.fault).explore(piece.scene);
        println!("{name}: nothing noticed in {interleavings} interleavings");
        return;
    }
    let trials = BROKEN.iter().map(|broken| {
        let name = format!("{}_without_{:?}", broken.scene, broken.fault);
        Trial::test(name, || expect_symptom(broken))
    });
    let trials = trials.collect::<Vec<_>>();
    let faults = trials.len();
    let conclusion = libtest_mimic::run(&Arguments::from_args(), trials);
    println!("{} of {faults} faults were noticed", conclusion.num_passed);
    conclusion.exit();
}

fn expect_symptom(broken: &Broken) -> Result<(), Failed> {
    let explored = Command::new(std::env::current_exe()?)
        .env(FAULT, format!("{:?}", broken.fault))
        .env("RUST_BACKTRACE", "0")
        .output()?;
    let said = String::from_utf8_lossy(&explored.stderr);
    if explored.status.success() {
        return Err(format!("not noticed: {}", String::from_utf8_lossy(&explored.stdout)).into());
    }
    if !said.contains(broken.symptom) {
        return Err(format!("noticed, but not as \"{}\":\n{said}", broken.symptom).into());
    }
    Ok(())
}
