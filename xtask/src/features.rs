//! `features`: every crate that is published compiles without features, with each alone, and with all.

use serde_json::Value;

use crate::cargo::{cargo, root, succeed};
use crate::metadata;
use crate::package::is_published;

/// Checks each combination; `cargo xtask features quorate` those of one crate.
pub(crate) fn run(args: &[String]) -> Result<(), String> {
    let metadata = metadata::whole()?;
    let all = metadata.get("packages").and_then(Value::as_array).ok_or("cargo metadata has an unknown shape")?;
    let mut count = 0;
    for package in all.iter().filter(|package| is_published(package)) {
        let name = package.get("name").and_then(Value::as_str).unwrap_or_default();
        if !args.is_empty() && !args.iter().any(|arg| arg == name) {
            continue;
        }
        let features = features(package);
        println!("{name}: {}", if features.is_empty() { "no features".to_owned() } else { features.join(", ") });
        for options in combinations(&features) {
            let mut command = cargo();
            command.args(["check", "--quiet", "--locked", "--package", name]).args(&options).current_dir(root());
            succeed(&mut command, || format!("{name} does not compile with {}", options.join(" ")))?;
            count += 1;
        }
    }
    if count == 0 {
        return Err(format!("no published crate has one of these names: {}", args.join(" ")));
    }
    println!("features: {count} combinations compile");
    Ok(())
}

/// The names of a package's features but for `default`.
fn features(package: &Value) -> Vec<&str> {
    let features = package.get("features").and_then(Value::as_object);
    features.into_iter().flatten().map(|(name, _)| name.as_str()).filter(|name| *name != "default").collect()
}

/// None, each alone, all: as options of cargo.
fn combinations<'a>(features: &[&'a str]) -> Vec<Vec<&'a str>> {
    let mut found = vec![vec!["--no-default-features"]];
    found.extend(features.iter().map(|feature| vec!["--no-default-features", "--features", feature]));
    if features.len() > 1 {
        found.push(vec!["--all-features"]);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn none_each_alone_and_all() {
        let package = serde_json::json!({"features": {"default": ["a"], "a": [], "b": ["a"]}});
        let found = combinations(&features(&package));
        let each = |feature| vec!["--no-default-features", "--features", feature];
        assert_eq!(found, [vec!["--no-default-features"], each("a"), each("b"), vec!["--all-features"]]);
        assert_eq!(combinations(&[]).len(), 1);
    }
}
