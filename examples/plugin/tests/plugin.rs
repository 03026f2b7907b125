//! A C program loads the plug-in, once or twice, uses it, closes it, and continues.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::{env, fs, process};

/// The plug-in, a copy of it that counts as another library, and the host.
struct Files {
    plugin: PathBuf,
    copy: PathBuf,
    host: PathBuf,
}

static FILES: LazyLock<Files> = LazyLock::new(|| {
    let executable = env::current_exe().expect("this test");
    let deps = executable.parent().expect("a folder");
    let folder = deps.join(format!("psx-plugin-{}", process::id()));
    fs::create_dir_all(&folder).expect("a folder for the files");
    let files = Files {
        plugin: folder.join("one.so"),
        copy: folder.join("two.so"),
        host: folder.join("host"),
    };
    // Cargo builds the library before its tests.
    let built = deps.join("libpsx_plugin.so");
    let built = if built.exists() { built } else { deps.join("../libpsx_plugin.so") };
    for copy in [&files.plugin, &files.copy] {
        fs::copy(&built, copy).expect("the plug-in");
    }
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("host.c");
    let mut compiler = Command::new("cc");
    compiler
        .args(["-Wall", "-Wextra", "-pthread", "-rdynamic", "-o"])
        .args([&files.host, &source])
        .arg("-ldl");
    assert!(compiler.status().expect("a C compiler, `cc`").success());
    files
});

fn host(scenario: &str) {
    let output = Command::new(&FILES.host)
        .arg(scenario)
        .args([&FILES.plugin, &FILES.copy])
        .output()
        .expect("the host");
    let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    println!("{scenario}: {out}");
    assert!(output.status.success(), "{scenario}: {}\n{out}{err}", output.status);
}

#[test]
fn unregistered_threads_take_signal_33_inside_malloc() {
    host("beside-setgid");
}

#[test]
fn it_is_closed_and_loaded_again() {
    host("reload");
}

#[test]
fn two_plugins_have_a_psx_each() {
    host("two");
}

#[test]
fn a_clock_that_cannot_be_read_is_an_error() {
    host("no-clock");
}
