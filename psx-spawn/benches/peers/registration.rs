//! What a registered thread costs: spawn and join compared with std, in pairs, and its memory.

use std::io;
use std::time::{Duration, Instant};

use crate::measure::{median, quantile};
use crate::programs::{Program, Running};
use crate::report::{header, row};

const PAIR: usize = 100;
/// The first is what the others are compared with.
const WAYS: &[(&str, &str)] = if cfg!(feature = "interpose") {
    &[
        ("create-libc", "the libc's own pthread_create, and join"),
        ("create", "pthread_create by feature `interpose`, and join"),
    ]
} else {
    &[
        ("spawn-std", "std::thread::spawn and join"),
        ("spawn-psx", "psx::thread::spawn and join"),
        ("spawn-adopt", "std::thread::spawn, adopt, join"),
    ]
};

pub(crate) fn run(programs: &[Program], budget: Duration) -> io::Result<()> {
    let psx = programs.last().expect("psx is a program");
    let start = Instant::now();
    let mut times = vec![Vec::new(); WAYS.len()];
    let mut ratios = vec![Vec::new(); WAYS.len()];
    while times[0].len() < 20 || start.elapsed() < budget {
        let mut peer = Running::start(psx, 1)?;
        for turn in 0..20 {
            let mut batch = vec![0.0; WAYS.len()];
            for way in (0..WAYS.len()).map(|way| (way + turn) % WAYS.len()) {
                let rounds = peer.rounds(WAYS[way].0, PAIR)?;
                batch[way] = median(rounds.into_iter().map(|time| time as f64 / 1e3));
                times[way].push(batch[way]);
            }
            for way in 0..WAYS.len() {
                ratios[way].push(batch[way] / batch[0]);
            }
        }
    }
    println!("\nStart and end of a thread, {} batches of {PAIR}, alternating:\n", times[0].len());
    header("", ["microseconds", "to the first", "middle half of the ratios"].into_iter());
    for (way, (_, name)) in WAYS.iter().enumerate() {
        let ratio = |at| quantile(ratios[way].iter().copied(), at);
        let cells = [
            format!("{:.2}", median(times[way].iter().copied())),
            format!("{:.3}", ratio(0.5)),
            format!("{:.3} to {:.3}", ratio(0.25), ratio(0.75)),
        ];
        row(name, cells.into_iter());
    }

    if cfg!(feature = "interpose") {
        // Every thread is registered at its start: there is nothing to adopt.
        return Ok(());
    }
    let mut peer = Running::start(psx, 1)?;
    let adoption = median(peer.rounds("adopt", 2000)?.into_iter().map(|time| time as f64));
    println!("\n`adopt` itself: {adoption:.0} ns in a new thread.");
    let bytes = peer.rounds("memory", 1000)?;
    match bytes[..] {
        [0] => println!("Memory of a registered thread: this libc does not report it."),
        _ => println!("Memory of a registered thread: {} bytes of heap (target 192).", bytes[0]),
    }
    Ok(())
}
