//! What a program says when it does no more with an error than to return it from `main`.

use std::error::Error;
use std::process::Termination;
use std::sync::mpsc;
use std::thread as std_thread;
use std::time::Duration;

use psx::Privileges;

use crate::kernel::{STRICT, idle, tid};
use crate::support::{Case, Ending, Line};

/// The answer comes early: a busy machine may take long to stop the threads for it.
const LONG: Duration = Duration::from_secs(30);

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("messages::main_prints_a_sentence", main_prints_a_sentence).judge(|child| {
            let foreign = child.hear("tid");
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
            // Main registers by nothing that it does here: another thread does it all.
            std_thread::spawn(broadcast_and_say).join().expect("its end");
            line.say("over");
        })
        .judge(|child| {
            child.hear("over");
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
    let (send, ids) = mpsc::channel();
    let body = move || {
        send.send(tid()).expect("main waits");
        idle()
    };
    std_thread::Builder::new().name("foreign".into()).spawn(body).expect("a thread");
    line.say(format_args!("tid {}", ids.recv().expect("its id")));
    let main = || -> Result<(), Box<dyn Error>> {
        Privileges::new().no_new_privs().apply_with(STRICT.timeout(LONG))?;
        Ok(())
    };
    main().report();
    std::process::exit(1);
}

fn broadcast_and_say() {
    let refused = Privileges::new().no_new_privs().apply_with(STRICT.timeout(LONG)).unwrap_err();
    eprintln!("{refused}");
}
