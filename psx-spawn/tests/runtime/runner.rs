//! The runner itself: that a case can fail, and that its check sees the child from outside.

use std::os::unix::process::CommandExt;
use std::thread;
use std::time::Duration;

use psx_test_support::{Case, Ending, root};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("runner::panic_on_any_thread_fails", |_| {
            thread::spawn(|| panic!("deliberately")).join().unwrap_err();
        })
        .check(|child| {
            assert_eq!(child.end(), Ending::Exited(101));
            assert!(child.output().contains("deliberately"));
        }),
        Case::new("runner::limit_is_hard", |_| {
            loop {
                thread::park();
            }
        })
        .limit(Duration::from_millis(100))
        .check(|child| assert_eq!(child.end(), Ending::Hung)),
        Case::new("runner::signal_differs_from_exit", |_| std::process::abort())
            .check(|child| assert_eq!(child.end(), Ending::Killed(libc::SIGABRT))),
        Case::new("runner::line_and_user", |line| {
            line.send("ready 3");
            line.expect("go");
        })
        .prepare(|command| {
            command.uid(1000).gid(1000);
        })
        .needs(root)
        .check(|child| {
            assert_eq!(child.expect("ready"), "3");
            child.assert_all("Uid", "1000 1000 1000 1000");
            child.assert_all("Groups", "");
            child.send("go");
            assert_eq!(child.end(), Ending::Exited(0));
        }),
    ]
}
