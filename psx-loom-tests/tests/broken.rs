//! Removes one rule of the protocol at a time, and expects a named scene to fail with a named symptom: a
//! model that cannot fail proves nothing. A fault that never applies is an error too.
//!
//! Each fault is explored in a process of its own: a model that panics while it unwinds aborts.

mod scenes;

use std::process::Command;

use libtest_mimic::{Arguments, Failed, Trial};
use psx_model::model::{APPLIES, Fault};
use scenes::SCENARIOS;

/// A rule, the scene that needs it, and the message with which the scene fails without it.
struct Broken {
    fault: Fault,
    scene: &'static str,
    symptom: &'static str,
}

macro_rules! broken {
    ($($fault:ident: $scene:ident fails with $symptom:expr;)*) => {
        &[$(Broken { fault: Fault::$fault, scene: stringify!($scene), symptom: $symptom }),*]
    };
}

/// Two accesses that nothing orders, in loom's words.
const RACE: &str = "Causality violation";
const LOST: &str = "a wake-up was lost";
const MIXED: &str = "runs between the first call and the last";

const BROKEN: &[Broken] = broken! {
    GateNotClosed: spawn fails with RACE;
    PassesNotAwaited: spawn fails with RACE;
    GateBypassed: exit_with_old_values fails with RACE;
    PassReturnRelaxed: spawn fails with RACE;
    GateCloseRelaxed: spawn fails with RACE;
    GateOpenRelaxed: death_in_the_call fails with RACE;
    PhaseStoreRelaxed: one_target fails with RACE;
    PhaseLoadRelaxed: one_target fails with RACE;
    PhaseNotReloaded: one_target fails with RACE;
    EpochNotAdvanced: late_arrival fails with MIXED;
    CountdownRelaxed: one_target fails with RACE;
    LatchWaitRelaxed: one_target fails with RACE;
    LatchNotWoken: one_target fails with LOST;
    CountedTwice: late_arrivals fails with MIXED;
    ClaimNotAtomic: helped_signalling fails with "a second signal is queued";
    RefusalNotRecorded: helped_signalling fails with "Unreachable";
    LockNotRetried: registering_and_walking fails with RACE;
    LockReleaseRelaxed: registering_and_walking fails with RACE;
    LockWaitBlocksSummons: two_callers fails with LOST;
    WakeAllWakesOne: two_targets fails with LOST;
    DeathNotDetected: death_in_the_call fails with "no progress";
    OwnerDiedIgnored: reused_id fails with "summonses of an unregistered thread";
    DuplicateIdKept: duplicate_id fails with LOST;
    KernelCountIgnored: adoption fails with MIXED;
    StackRefusalLost: stack_too_small fails with RACE;
    MainEndReadAfterCount: main_exits fails with MIXED;
    MainAssumedEnded: main_exits fails with MIXED;
    LostNotResent: summons_lost fails with "Unreachable";
    CallerNotPolled: caller_dies fails with "deadlock";
    RoundNotRechecked: caller_exits fails with "a false alarm";
    DeadOwnerKeepsLock: caller_dies_before_round fails with "Busy";
    PendingNotInserted: late_signal fails with "a second signal is queued";
    IndexKeyRelaxed: late_signal_between_broadcasts fails with LOST;
    SummonRelaxed: late_signal_between_broadcasts fails with LOST;
    PendingNotWoken: late_signal fails with LOST;
    PendingNotFenced: late_signal_between_broadcasts fails with LOST;
    OwnerNotRecorded: two_callers fails with LOST;
};

/// Names, for the child process, the fault that it explores.
const FAULT: &str = "PSX_MODEL_FAULT";

fn main() {
    if let Ok(name) = std::env::var(FAULT) {
        let broken = BROKEN.iter().find(|broken| format!("{:?}", broken.fault) == name).unwrap();
        let scenario = SCENARIOS.iter().find(|scenario| scenario.name == broken.scene).unwrap();
        let interleavings = (scenario.model)().with_fault(broken.fault).explore(scenario.scene);
        println!("{name}: not noticed in {interleavings} interleavings");
        return;
    }
    let trials = BROKEN.iter().map(|broken| {
        let name = format!("{}_with_{:?}", broken.scene, broken.fault);
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
    let output = String::from_utf8_lossy(&explored.stderr);
    let applied = output.lines().filter(|line| line.starts_with(APPLIES)).count();
    let places = broken.fault.places();
    if applied != places {
        return Err(format!("applied at {applied} of {places} places:\n{output}").into());
    }
    if explored.status.success() {
        return Err(String::from_utf8_lossy(&explored.stdout).into_owned().into());
    }
    if !output.contains(broken.symptom) {
        return Err(format!("noticed, but not as \"{}\":\n{output}", broken.symptom).into());
    }
    Ok(())
}
