//! docs/promises.md names the scenes, cases and rows that test each promise. All exist, each promise has
//! some, and the doc of a scene names the same promises as the page. docs/architecture.md names functions:
//! they exist in the files that it links.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::{env, fs};

const PROMISES: [&str; 10] = ["P1", "P2", "P3", "P4", "P5", "P6", "P7", "P8", "P9", "P10"];
/// In psx-loom-tests/tests/scenes.
const SCENE_FILES: [&str; 4] = ["attempts", "rounds", "lists", "failures"];

fn read(file: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the repository's folder");
    fs::read_to_string(root.join(file)).unwrap_or_else(|e| panic!("{file}: {e}"))
}

/// What one of this package's test programs says that it has.
fn listed(test: &str) -> BTreeSet<String> {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or("cargo".into()));
    cargo.args(["test", "--quiet", "-p", "psx-spawn", "--test", test, "--", "--list"]);
    let output = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).output().expect("cargo");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("a list of names");
    text.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect()
}

/// The models' list has lines like `rounds::one_target,`. Its package is not built for this: loom does
/// not support every compiler that psx does.
fn scenes() -> BTreeSet<String> {
    let list = read("psx-loom-tests/tests/scenes/mod.rs");
    let names = list.lines().filter_map(|line| line.trim().strip_suffix(',')?.split_once("::"));
    let of_files = names.filter(|(file, _)| SCENE_FILES.contains(file));
    of_files.map(|(_, name)| name.to_owned()).collect()
}

#[test]
fn every_promise_names_tests_that_exist() {
    let kinds = BTreeMap::from([
        ("scenes", scenes()),
        ("runtime cases", listed("runtime")),
        ("privileges cases", listed("privileges")),
        ("fault rows", listed("faults")),
    ]);
    let page = read("docs/promises.md");
    let sections: Vec<_> = page.split("\n## ").skip(1).collect();
    let promises: Vec<_> = sections.iter().filter_map(|text| text.split(':').next()).collect();
    assert_eq!(promises, PROMISES);
    let arguments = read("docs/protocol.md");
    for (promise, section) in PROMISES.iter().zip(sections) {
        let (_, title) =
            section.lines().next().unwrap_or_default().split_once(": ").expect("a title");
        let heading = format!("\n### {promise}: {title}\n");
        assert!(arguments.contains(&heading), "protocol.md says why {promise} holds");
        let anchor = format!("{promise}-{title}").to_lowercase().replace(' ', "-");
        let link = format!("](protocol.md#{anchor})");
        assert!(section.contains(&link), "{promise} links to its argument: {link}");
        let mut named = 0;
        for row in section.lines().filter_map(|line| line.strip_prefix("| ")) {
            let Some((kind, names)) = row.split_once(" | ") else { continue };
            let known = kinds.get(kind).unwrap_or_else(|| panic!("{promise}: {kind:?}"));
            for name in names.split('`').skip(1).step_by(2) {
                assert!(known.contains(name), "{promise}: no {name} among the {kind}");
                named += 1;
            }
        }
        assert!(named > 0, "nothing tries {promise}");
    }
}

/// The promises that the doc of each scene begins with, as in `/// P1, P6: ...`.
fn promises_of_scenes() -> BTreeSet<(String, String)> {
    let mut pairs = BTreeSet::new();
    for file in SCENE_FILES {
        let text = read(&format!("psx-loom-tests/tests/scenes/{file}.rs"));
        let mut doc = None;
        for line in text.lines() {
            if let Some(text) = line.strip_prefix("/// ") {
                doc = doc.or(Some(text));
                continue;
            }
            let scene = line.strip_prefix("pub(crate) mod ").and_then(|l| l.strip_suffix(" {"));
            if let (Some(scene), Some((promises, _))) =
                (scene, doc.take().and_then(|doc| doc.split_once(": ")))
            {
                pairs.extend(promises.split(", ").map(|p| (scene.to_owned(), p.to_owned())));
            }
        }
    }
    pairs
}

#[test]
fn every_scene_names_its_promises() {
    let named = promises_of_scenes();
    let scenes_with_a_promise: BTreeSet<_> = named.iter().map(|(scene, _)| scene.clone()).collect();
    assert_eq!(scenes_with_a_promise, scenes(), "the scenes whose doc names a promise, all scenes");
    let page = read("docs/promises.md");
    let mut on_page = BTreeSet::new();
    for section in page.split("\n## ").skip(1) {
        let promise = section.split(':').next().unwrap_or_default();
        let row = section.lines().find_map(|line| line.strip_prefix("| scenes | "));
        let names = row.unwrap_or_default().split('`').skip(1).step_by(2);
        on_page.extend(names.map(|scene| (scene.to_owned(), promise.to_owned())));
    }
    let differences: Vec<_> = named.symmetric_difference(&on_page).collect();
    assert!(
        differences.is_empty(),
        "in a scene's doc or on the page, not in both: {differences:?}"
    );
}

/// The page's steps are like ``[gate.rs](../psx-core/src/sync/gate.rs) `Gate::enter`: ...``.
#[test]
fn architecture_names_functions_that_exist() {
    let page = read("docs/architecture.md");
    let mut named = 0;
    for step in page.split("](../").skip(1) {
        let (file, rest) = step.split_once(')').expect("the end of a link");
        let (names, _) = rest.split_once(": ").expect("what the functions do");
        let source = read(file);
        for name in names.split('`').skip(1).step_by(2) {
            let function = name.rsplit("::").next().unwrap_or(name);
            let starts = ["(", "<"].map(|next| format!("fn {function}{next}"));
            assert!(starts.iter().any(|start| source.contains(start)), "no {name} in {file}");
            named += 1;
        }
    }
    assert!(named > 0, "no functions");
}
