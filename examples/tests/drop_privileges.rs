//! What the example prints, where, and its exit status, as root and as any other user.

use std::process::{Command, Output};

fn drop_privileges(arguments: &[&str]) -> Output {
    let mut cargo = Command::new(env!("CARGO"));
    // From the workspace's root, so that it uses what `cargo test --workspace` has built.
    cargo.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    cargo.args(["run", "--quiet", "--example", "drop_privileges", "--"]);
    cargo.args(arguments).output().expect("cargo can be run")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("the example prints UTF-8")
}

#[track_caller]
fn assert_status(output: &Output, status: i32) {
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(status), "stdout:\n{out}\nstderr:\n{err}");
}

#[test]
fn every_thread_loses_its_privileges() {
    let output = drop_privileges(&["--threads", "12"]);
    assert_status(&output, 0);
    assert!(text(&output.stdout).contains("13 of 13 threads dropped their privileges."));
}

#[test]
fn one_thread_alone_loses_its_privileges() {
    let output = drop_privileges(&["--per-thread"]);
    assert_status(&output, 1);
    assert!(text(&output.stdout).contains("1 of 9 threads dropped their privileges."));
}

#[test]
fn a_thousand_threads_fit_on_a_screen() {
    let output = drop_privileges(&["--threads", "1000"]);
    assert_status(&output, 0);
    let lines = text(&output.stdout).lines().count();
    assert!(lines < 40, "{lines} lines");
}

#[test]
fn a_wrong_argument_gets_the_usage_and_status_2() {
    let wrong: [&[&str]; 5] =
        [&["--threads"], &["--threads", "many"], &["--threads", "0"], &["--thread"], &["8"]];
    for arguments in wrong {
        let output = drop_privileges(arguments);
        assert_status(&output, 2);
        assert!(text(&output.stderr).contains("usage: drop_privileges"), "{arguments:?}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }
}

#[test]
fn help_goes_to_standard_output() {
    let output = drop_privileges(&["--help"]);
    assert_status(&output, 0);
    assert!(text(&output.stdout).starts_with("usage: drop_privileges"));
}
