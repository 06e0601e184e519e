//! Leaves the unwind tables out of a release: with `panic = "abort"` only backtraces use them, and the binary has no
//! symbols to name in one. They are a tenth of its size.

use std::env;

const SCRIPT: &str = "packaging/no-unwind-tables.ld";

fn main() {
    println!("cargo:rerun-if-changed={SCRIPT}");
    // Also where another profile inherits from `release`.
    let is_release = env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let root = env::var("CARGO_MANIFEST_DIR");
    if let Some(root) = root.ok().filter(|_| is_release) {
        println!("cargo:rustc-link-arg-bins=-Wl,-T,{root}/{SCRIPT}");
        println!("cargo:rustc-link-arg-bins=-Wl,--no-eh-frame-hdr");
    }
}
