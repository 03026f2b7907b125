//! Explores each scene with the unchanged protocol, and prints the number of interleavings.

mod scenes;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use libtest_mimic::{Arguments, Trial};
use scenes::SCENARIOS;

fn main() {
    static HELD: AtomicU64 = AtomicU64::new(0);
    static INTERLEAVINGS: AtomicU64 = AtomicU64::new(0);

    let trials = SCENARIOS.iter().map(|scenario| {
        Trial::test(scenario.name, || {
            let start = Instant::now();
            let interleavings = (scenario.model)().explore(scenario.scene);
            println!("{}: {interleavings} interleavings, {:.1?}", scenario.name, start.elapsed());
            HELD.fetch_add(1, Ordering::Relaxed);
            INTERLEAVINGS.fetch_add(interleavings, Ordering::Relaxed);
            Ok(())
        })
    });
    let conclusion = libtest_mimic::run(&Arguments::from_args(), trials.collect());
    println!(
        "{} models hold, in {} interleavings",
        HELD.load(Ordering::Relaxed),
        INTERLEAVINGS.load(Ordering::Relaxed),
    );
    conclusion.exit();
}
