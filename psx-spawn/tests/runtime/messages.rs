//! What a program prints when it returns an error from `main` (P1).

use std::error::Error;
use std::process::Termination;
use std::thread as std_thread;
use std::time::Duration;

use psx::Privileges;
use psx_test_support::threads::start_unregistered;
use psx_test_support::{Case, Ending, Line};

use crate::kernel::STRICT;

/// The answer comes early: a busy machine may take long to stop the threads for it.
const LONG: Duration = Duration::from_secs(30);

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("messages::main_prints_a_sentence", main_prints_a_sentence).check(|child| {
            let foreign = child.expect("tid");
            assert_eq!(child.end(), Ending::Exited(1));
            let output = child.output();
            assert!(
                output.starts_with(&format!(
                    "Error: Uncovered: nothing changed: 1 thread of this process cannot be stopped \
                     by psx: {foreign} (foreign); "
                )),
                "{output}"
            );
            assert!(output.contains("psx::thread::adopt()"), "{output}");
        }),
        Case::new("messages::main_is_told_to_adopt_itself", |line| {
            // Nothing that main does here registers it: another thread makes the calls.
            std_thread::spawn(broadcast_and_print).join().expect("its end");
            line.send("over");
        })
        .check(|child| {
            child.expect("over");
            assert_eq!(child.end(), Ending::Exited(0));
            let (pid, output) = (child.pid(), child.output());
            assert!(
                output.contains(&format!("; {pid} (the main thread) has started no thread")),
                "{output}"
            );
        }),
    ]
}

/// What std does with the error of a `main` that returns a `Result`.
fn main_prints_a_sentence(line: &Line) {
    line.send(format_args!("tid {}", start_unregistered("foreign", || ())));
    let main = || -> Result<(), Box<dyn Error>> {
        Privileges::new().no_new_privs().apply_with(STRICT.timeout(LONG))?;
        Ok(())
    };
    main().report();
    std::process::exit(1);
}

fn broadcast_and_print() {
    let refused = Privileges::new().no_new_privs().apply_with(STRICT.timeout(LONG)).unwrap_err();
    eprintln!("{refused}");
}
