//! Compiles the C library of the example.

fn main() {
    println!("cargo:rerun-if-changed=c_thread.c");
    cc::Build::new().file("c_thread.c").warnings_into_errors(true).compile("c_thread");
}
