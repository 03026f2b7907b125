//! Tests of the documentation: README's first program, and sentences that several pages share. The programs
//! of docs/integration.md are documentation tests (src/lib.rs).

/// README's program, unchanged.
mod readme {
    include!("readme.rs");

    pub(crate) fn run() {
        main().expect("root may do all this");
    }
}

use std::net::TcpListener;
use std::process::ExitCode;

use psx_test_support::{Case, root};

const README: &str = include_str!("../../../../README.md");

fn main() -> ExitCode {
    psx_test_support::main(vec![
        Case::new("readme::program", |_| readme::run()).needs(port_80).check(|child| {
            // It serves until it is killed.
            child.wait_until(|child| {
                let tasks = child.tasks();
                tasks.len() == 2
                    && tasks.iter().all(|task| {
                        let id = "65534 65534 65534 65534";
                        (task.field("Uid"), task.field("Gid")) == (id, id)
                            && task.field("Groups").is_empty()
                            && task.field("CapPrm") == "0000000000000000"
                            && task.field("NoNewPrivs") == "1"
                    })
            });
        }),
        Case::new("readme::shows_that_program", |_| {
            let blocks = rust_blocks(README);
            assert_eq!(blocks, [include_str!("readme.rs")]);
        }),
        Case::new("documents::one_sentence_on_errors", |_| {
            let sentence = "On error, every thread has completed the same steps, those that the \
                            error lists: usually none.";
            for (place, text) in [
                ("README.md", README),
                ("psx-spawn/src/lib.rs", include_str!("../../../../psx-spawn/src/lib.rs")),
                ("error.rs", include_str!("../../../../psx-spawn/src/privileges/error.rs")),
            ] {
                assert!(words(text).contains(&words(sentence)), "{place}");
            }
        }),
        Case::new("documents::no_program_is_left_out", |_| {
            let page = include_str!("../../../../docs/integration.md");
            assert!(!rust_blocks(page).is_empty());
            assert!(!page.contains("```rust,"), "a program that is not compiled and run");
        }),
        Case::new("documents::examples_name_the_users_crate", |_| {
            // psx re-exports these from psx-core, and users read the examples on psx's pages.
            for (place, text) in [
                ("broadcast.rs", include_str!("../../../../psx-core/src/broadcast.rs")),
                ("errno.rs", include_str!("../../../../psx-core/src/errno.rs")),
                ("error.rs", include_str!("../../../../psx-core/src/error.rs")),
                ("report.rs", include_str!("../../../../psx-core/src/report.rs")),
                ("threads.rs", include_str!("../../../../psx-core/src/threads.rs")),
            ] {
                for line in text.lines().map(str::trim_start) {
                    // A line of an example that begins with a number sign is not shown.
                    let shown = line.starts_with("/// ") && !line.starts_with("/// # ");
                    assert!(!(shown && line.contains("psx_core")), "{place}: {line}");
                }
            }
        }),
    ])
}

/// For `Case::needs`.
fn port_80() -> Result<(), String> {
    root()?;
    TcpListener::bind("0.0.0.0:80").map(drop).map_err(|e| format!("needs port 80: {e}"))
}

/// The text of each block of Rust code.
fn rust_blocks(page: &str) -> Vec<&str> {
    let blocks = page.split("```rust\n").skip(1);
    blocks.map(|rest| rest.split_once("```").expect("the end of a block").0).collect()
}

/// The words alone, without line breaks and comment signs.
fn words(text: &str) -> String {
    let words = text.split_whitespace().filter(|word| !matches!(*word, "//!" | "///" | "//"));
    words.map(|word| word.trim_matches('*')).collect::<Vec<_>>().join(" ")
}
