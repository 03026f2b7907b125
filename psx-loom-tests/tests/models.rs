//! Explores each scene with the protocol as it is. Prints how many interleavings that took.

mod scenes;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use libtest_mimic::{Arguments, Trial};
use scenes::PIECES;

fn main() {
    static HELD: AtomicU64 = AtomicU64::new(0);
    static INTERLEAVINGS: AtomicU64 = AtomicU64::new(0);

    let trials = PIECES.iter().map(|piece| {
        Trial::test(piece.name, || {
            let began = Instant::now();
            let interleavings = (piece.model)().explore(piece.scene);
            println!("{}: {interleavings} interleavings, {:.1?}", piece.name, began.elapsed());
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
