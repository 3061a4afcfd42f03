//! `compare`: what it takes to begin with Quorate, beside OpenRaft; the figures of COMPARE.md, "What it takes to begin".

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use crate::api;
use crate::cargo::{cargo, root, succeed};
use crate::figures::{self, to_implement};
use crate::lines::Lines;
use crate::metadata;
use crate::sizes::dependencies;

/// What a user of each library implements for a durable cluster: the library's package, as cargo is told of it, and the pages of
/// its traits.
const TRAITS: &[(&str, &[&str], &[&str])] = &[
    // With the features of `public-api`, whose pages lie in the same place.
    ("Quorate", &["quorate", "--features", "quorate/prometheus"], &["quorate/trait.RaftStateMachine.html"]),
    (
        "OpenRaft",
        &["openraft"],
        &[
            "openraft/type_config/trait.RaftTypeConfig.html",
            "openraft/storage/trait.RaftLogReader.html",
            "openraft/storage/trait.RaftLogStorage.html",
            "openraft/storage/trait.RaftStateMachine.html",
            "openraft/storage/trait.RaftSnapshotBuilder.html",
            "openraft/network/trait.RaftNetworkFactory.html",
            "openraft/network/v2/trait.RaftNetworkV2.html",
        ],
    ),
];

/// Prints what can be counted, and fails if a page says otherwise; with `--build`, measures two cold builds instead.
pub(crate) fn run(args: &[String]) -> Result<(), String> {
    match args {
        [] => count(),
        [one] if one == "--build" => build(),
        _ => Err("usage: cargo xtask compare [--build]".to_owned()),
    }
}

fn count() -> Result<(), String> {
    Lines::count(&root())?.print();
    figures::print_commands(&root())?;
    let read =
        |path: &Path| fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()));
    println!("\nwhat a user implements:");
    let target = root().join("target/api");
    for (name, package, pages) in TRAITS {
        let mut command = cargo();
        command
            .args(["doc", "--quiet", "--locked", "--no-deps", "--target-dir"])
            .arg(&target)
            .arg("--package")
            .args(*package);
        succeed(command.current_dir(root()), || format!("cargo doc of {name} failed"))?;
        let (mut methods, mut types, mut counted) = (0, 0, Vec::new());
        for page in *pages {
            let declaration = api::declaration(&read(&target.join("doc").join(page))?);
            let (required, associated) = to_implement(&declaration);
            let title = page.rsplit('/').next().and_then(|file| file.split('.').nth(1)).unwrap_or(page);
            println!("        {title}: {required} methods, {associated} types");
            methods += required;
            types += associated;
            counted.push((title.to_owned(), (required, associated)));
        }
        println!("{name}: {} traits, {methods} methods, {types} associated types", pages.len());
        if *name == "OpenRaft" && counted != figures::listed_traits(&root())? {
            return Err(format!("docs/compare-traits.tsv is stale: counted are {counted:?}"));
        }
    }
    println!("\ndependencies from the registry, a build's own apart:");
    for (package, what) in [("quorate", "log, TCP and TLS in it"), ("openraft", "without log and network")] {
        let edges = ["tree", "--package", package, "--edges", "normal", "--prefix", "none", "--format", "{p}"];
        println!("{:>7} {package}: {what}", dependencies(&metadata::cargo(&edges)?, package).0);
    }
    match figures::problems(&root())?[..] {
        [] => Ok(()),
        ref problems => Err(format!("the pages say otherwise:\n{}", problems.join("\n"))),
    }
}

/// What OpenRaft's closest example depends on (COMPARE.md names it), all of it but the example's own crates, and without
/// the TLS of its HTTP client: so a build of it takes longer than what is measured.
const OPPONENT: &str = "[package]
name = \"opponent\"
edition = \"2024\"

[workspace]

[dependencies]
openraft = { version = \"=0.10.0-alpha.37\", features = [\"serde\", \"type-alias\"] }
raft-log = \"0.4.5\"
rmp-serde = \"1.3\"
bytes = \"1\"
clap = { version = \"4\", features = [\"derive\", \"env\"] }
futures = \"0.3\"
http-body-util = \"0.1\"
hyper = { version = \"1\", features = [\"http1\", \"server\"] }
hyper-util = { version = \"0.1\", features = [\"tokio\"] }
log = \"0.4\"
reqwest = { version = \"0.12\", default-features = false, features = [\"json\"] }
serde = { version = \"1\", features = [\"derive\"] }
serde_json = \"1\"
tokio = { version = \"1\", features = [\"full\"] }
tracing = \"0.1\"
tracing-subscriber = { version = \"0.3\", features = [\"env-filter\"] }
";

/// Builds the quick start, and what OpenRaft's closest example depends on, each from nothing; what is downloaded is
/// downloaded before.
fn build() -> Result<(), String> {
    let scratch = root().join("target/compare");
    let opponent = scratch.join("opponent");
    let cannot = |error| format!("cannot write {}: {error}", opponent.display());
    fs::create_dir_all(opponent.join("src")).map_err(cannot)?;
    fs::write(opponent.join("Cargo.toml"), OPPONENT).map_err(cannot)?;
    fs::write(opponent.join("src/main.rs"), "fn main() {}\n").map_err(cannot)?;
    let counter: &[&str] = &["build", "--quiet", "--locked", "--package", "quorate", "--example", "counter"];
    let builds = [
        ("Quorate: examples/counter.rs", root(), counter),
        ("OpenRaft: dependencies of its closest example", opponent.clone(), &["build", "--quiet"][..]),
    ];
    for (_, directory, _) in &builds {
        succeed(cargo().args(["fetch", "--quiet"]).current_dir(directory), || "cargo fetch failed".to_owned())?;
    }
    for (what, directory, args) in builds {
        let target = scratch.join("target");
        if target.exists() {
            fs::remove_dir_all(&target).map_err(|error| format!("cannot remove {}: {error}", target.display()))?;
        }
        let (began, spent) = (Instant::now(), children()?);
        let mut command = cargo();
        command.args(args).arg("--target-dir").arg(&target).current_dir(&directory).env("CARGO_INCREMENTAL", "0");
        succeed(&mut command, || format!("{what} does not build"))?;
        let crates = fs::read_dir(target.join("debug/.fingerprint")).map(Iterator::count).unwrap_or_default();
        println!(
            "{what}: {} s, {} s of CPU, {crates} units, unoptimised",
            began.elapsed().as_secs(),
            children()? - spent
        );
    }
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    println!(
        "on {cores} cores of one machine, once: another gives other figures; seconds of CPU say more where others use them, too"
    );
    Ok(())
}

/// Seconds of CPU that finished children took (Linux only; 0 elsewhere).
fn children() -> Result<u64, String> {
    let Ok(stat) = fs::read_to_string("/proc/self/stat") else { return Ok(0) };
    let output =
        Command::new("getconf").arg("CLK_TCK").output().map_err(|error| format!("cannot run getconf: {error}"))?;
    let ticks: u64 = String::from_utf8_lossy(&output.stdout).trim().parse().unwrap_or(100);
    Ok(ticks_of_children(&stat) / ticks.max(1))
}

/// `cutime` and `cstime`, the 16th and 17th field; the second, a name in parentheses, may hold spaces.
fn ticks_of_children(stat: &str) -> u64 {
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
    fields.skip(13).take(2).filter_map(|field| field.parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_of_children_is_found_behind_any_name() {
        assert_eq!(ticks_of_children("7 (a b) c) S 1 2 3 4 5 6 7 8 9 10 11 12 30 4 20 0"), 34);
    }
}
