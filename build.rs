//! Leaves the unwind tables out of a release: with `panic = "abort"` only backtraces use them, and the binary has no
//! symbols to name in one. They are a tenth of its size.

use std::error::Error;
use std::path::Path;
use std::{env, fs};

/// For any linker of Linux.
const LINKER_SCRIPT: &str = "SECTIONS { /DISCARD/ : { *(.eh_frame) } } INSERT AFTER .text;\n";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    // Also where another profile inherits from `release`.
    if env::var("PROFILE")? == "release" {
        let script = Path::new(&env::var("OUT_DIR")?).join("no-unwind-tables.ld");
        fs::write(&script, LINKER_SCRIPT)?;
        println!("cargo:rustc-link-arg-bins=-Wl,-T,{}", script.display());
        println!("cargo:rustc-link-arg-bins=-Wl,--no-eh-frame-hdr");
    }
    Ok(())
}
