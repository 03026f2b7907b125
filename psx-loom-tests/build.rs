//! Compiles psx-core's source as a model: with loom's atomics, and a model of the kernel below it.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-cfg=psx_loom");
}
