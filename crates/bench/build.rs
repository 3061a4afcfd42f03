//! Notes of which code and by which compiler this program is built: the tree may have moved on when it runs.

use std::path::Path;
use std::process::Command;

/// What the program is built of, from the repository's root.
const BUILT: [&str; 3] = ["crates", "Cargo.toml", "Cargo.lock"];

fn main() {
    for place in BUILT {
        println!("cargo:rerun-if-changed=../../{place}");
    }
    for file in head() {
        println!("cargo:rerun-if-changed={file}");
    }
    let rustc = std::env::var_os("RUSTC").and_then(|rustc| said(Command::new(rustc).arg("-V")));
    note("QUORATE_BENCH_RUSTC", rustc);
    note("QUORATE_BENCH_COMMIT", commit());
}

fn note(name: &str, value: Option<String>) {
    println!("cargo:rustc-env={name}={}", value.unwrap_or_else(|| "unknown".to_owned()));
}

/// The files that change when another commit is checked out or made. None without a repository.
fn head() -> Vec<String> {
    let file = |name: &str| git(&["rev-parse", "--git-path", name]);
    let branch = git(&["symbolic-ref", "--quiet", "HEAD"]);
    // A branch lies in a file of its own or among the packed ones. One that is not there would mean: always changed.
    let names = ["HEAD".to_owned(), "packed-refs".to_owned()].into_iter().chain(branch);
    names.filter_map(|name| file(&name)).filter(|path| Path::new(path).exists()).collect()
}

/// Twelve digits, and whether anything that is built differs from that commit.
fn commit() -> Option<String> {
    let root = git(&["rev-parse", "--show-toplevel"])?;
    let status = ["-C", &root, "status", "--porcelain", "--"];
    let changed = git(&[&status[..], &BUILT, &[":(exclude)*.md"]].concat())?;
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    Some(if changed.is_empty() { commit } else { commit + " and changes on top" })
}

fn git(words: &[&str]) -> Option<String> {
    // Else looking at the state would lock it.
    said(Command::new("git").arg("--no-optional-locks").args(words))
}

/// What a program prints; `None` if it is not there or fails.
fn said(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    String::from_utf8(output.stdout).ok().map(|text| text.trim().to_owned())
}
