//! `book`: the guide as pages, if mdBook is installed. Its chapters are tested without it.

use std::io::ErrorKind;
use std::path::Path;
use std::process::Command;

/// Makes target/book; says how to get mdBook if it is not there.
pub(crate) fn build() -> Result<(), String> {
    let guide = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/guide");
    match Command::new("mdbook").arg("build").arg(&guide).status() {
        Ok(status) if status.success() => {
            println!("book: target/book/index.html");
            Ok(())
        }
        Ok(status) => Err(format!("mdbook failed: {status}")),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            Err("mdbook is not installed: `cargo install mdbook`, then again; or read docs/guide/src as it is"
                .to_owned())
        }
        Err(error) => Err(format!("cannot run mdbook: {error}")),
    }
}
