//! What cargo says about the workspace.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// One package of the workspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Package {
    pub(crate) name: String,
    /// The directory of its manifest.
    pub(crate) directory: PathBuf,
    pub(crate) dependencies: Vec<Dependency>,
}

/// One line of a `[dependencies]`, `[build-dependencies]` or `[dev-dependencies]` table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Dependency {
    pub(crate) name: String,
    /// Only for tests, examples and benchmarks.
    pub(crate) is_dev: bool,
}

/// The packages of this workspace, by name.
pub(crate) fn workspace() -> Result<Vec<Package>, String> {
    parse(&whole()?).ok_or_else(|| "cargo metadata has an unknown shape".to_owned())
}

/// All that cargo says about the packages of this workspace.
pub(crate) fn whole() -> Result<Value, String> {
    let json = cargo(&["metadata", "--no-deps", "--format-version", "1"])?;
    serde_json::from_str(&json).map_err(|error| format!("cargo metadata is not JSON: {error}"))
}

fn parse(json: &Value) -> Option<Vec<Package>> {
    let mut packages = Vec::new();
    for package in json.get("packages")?.as_array()? {
        let mut dependencies = Vec::new();
        for dependency in package.get("dependencies")?.as_array()? {
            dependencies.push(Dependency {
                name: dependency.get("name")?.as_str()?.to_owned(),
                is_dev: dependency.get("kind")?.as_str() == Some("dev"),
            });
        }
        let manifest = Path::new(package.get("manifest_path")?.as_str()?);
        packages.push(Package {
            name: package.get("name")?.as_str()?.to_owned(),
            directory: manifest.parent()?.to_owned(),
            dependencies,
        });
    }
    packages.sort_by(|a, b| a.name.cmp(&b.name));
    Some(packages)
}

/// Runs the cargo that runs us and returns what it printed.
pub(crate) fn cargo(args: &[&str]) -> Result<String, String> {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(program).args(args).output().map_err(|error| format!("cannot run cargo: {error}"))?;
    if !output.status.success() {
        return Err(format!("cargo {} failed:\n{}", args.join(" "), String::from_utf8_lossy(&output.stderr)));
    }
    String::from_utf8(output.stdout).map_err(|_| format!("cargo {} did not print text", args.join(" ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_and_the_kinds_of_their_dependencies_are_read() {
        let json = serde_json::json!({"packages": [{
            "name": "b",
            "manifest_path": "/w/crates/b/Cargo.toml",
            "dependencies": [{"name": "a", "kind": null}, {"name": "t", "kind": "dev"}, {"name": "g", "kind": "build"}],
        }]});
        let packages = parse(&json).unwrap();
        assert_eq!(packages[0].directory, Path::new("/w/crates/b"));
        let kinds: Vec<_> = packages[0].dependencies.iter().map(|d| (d.name.as_str(), d.is_dev)).collect();
        assert_eq!(kinds, [("a", false), ("t", true), ("g", false)]);
        assert!(parse(&serde_json::json!({})).is_none());
    }
}
