//! The real packages, in a temporary Debian system.

use std::path::Path;
use std::process::Command;

#[test]
fn they_install_upgrade_remove_and_purge() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let status = Command::new(root.join("packaging/test.sh")).status().expect("bash");
    assert!(status.success(), "{status}");
}
