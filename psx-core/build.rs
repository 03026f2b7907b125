//! `links` needs a build script; this one has nothing to find.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
}
