//! `package`: every crate that is published, as it would be uploaded: its description, its files, and that it builds alone.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::cargo::{cargo, root, succeed};
use crate::metadata;

/// What a registry takes at most: keywords of a crate, and characters of one.
const KEYWORDS: usize = 5;
const KEYWORD_CHARACTERS: usize = 20;

/// What every published crate carries besides its source.
const CARRIED: &[&str] = &["Cargo.toml", "README.md", "LICENSE-MIT", "LICENSE-APACHE"];

/// Macros and attributes that name a file.
const NAMES_A_FILE: &[&str] = &["include_str!(\"", "include_bytes!(\"", "include!(\"", "#[path = \""];

/// Checks what the manifests say and what the packages hold, and builds them from that alone; with `--no-verify`, does
/// not build them.
pub(crate) fn run(args: &[String]) -> Result<(), String> {
    let is_built = match args {
        [] => true,
        [one] if one == "--no-verify" => false,
        _ => return Err("usage: cargo xtask package [--no-verify]".to_owned()),
    };
    let metadata = metadata::whole()?;
    let all = metadata.get("packages").and_then(Value::as_array).ok_or("cargo metadata has an unknown shape")?;
    let rust = rust_version(all)?;
    let published: Vec<&Value> = all.iter().filter(|package| is_published(package)).collect();
    let names: Vec<&str> = published.iter().map(|package| text(package, "name")).collect();
    let mut problems = Vec::new();
    for package in &published {
        let name = text(package, "name");
        let wrong = manifest_problems(package, &names);
        problems.extend(wrong.into_iter().map(|problem| format!("{name}: {problem}")));
        let listed = metadata::cargo(&["package", "--list", "--allow-dirty", "--package", name])?;
        let files: BTreeSet<PathBuf> = listed.lines().map(PathBuf::from).collect();
        let directory = Path::new(text(package, "manifest_path")).parent().unwrap_or(Path::new("."));
        let wrong = file_problems(directory, &files)?;
        problems.extend(wrong.into_iter().map(|problem| format!("{name}: {problem}")));
        println!("{name:<16} {:>4} files", files.len());
    }
    for problem in &problems {
        eprintln!("{problem}");
    }
    if !problems.is_empty() {
        return Err(format!("{} problems in what would be published", problems.len()));
    }
    forget_earlier(&names)?;
    let mut command = cargo();
    command.args(["package", "--quiet", "--locked", "--allow-dirty"]).current_dir(root());
    command.args(names.iter().flat_map(|name| ["--package", name]));
    command.args((!is_built).then_some("--no-verify"));
    succeed(&mut command, || "cargo package failed".to_owned())?;
    let how = if is_built { "built from their packages alone" } else { "packed, not built" };
    println!("package: {} crates {how}, in target/package; {}", names.len(), toolchain(&rust)?);
    Ok(())
}

/// Cargo takes packages of an earlier run for those of this one, because they have the same version: what it unpacked
/// and built of them is removed.
fn forget_earlier(names: &[&str]) -> Result<(), String> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| std::env::home_dir().map(|home| home.join(".cargo")));
    for kind in ["src", "cache"] {
        let Some(registries) = home.as_ref().map(|home| home.join("registry").join(kind)) else { continue };
        // A registry that is a directory of this machine has no host in its name.
        for local in entries(&registries).filter(|path| file_name(path).starts_with('-')) {
            entries(&local).filter(|path| is_of(names, path)).try_for_each(|path| remove(&path))?;
        }
    }
    let built = root().join("target/debug/.fingerprint");
    entries(&built).filter(|path| is_of(names, path)).try_for_each(|path| remove(&path))
}

fn entries(directory: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    // What is not there holds nothing.
    fs::read_dir(directory).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()))
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Whether a file is named after one of these crates: its name, and behind a hyphen a version or a hash.
fn is_of(names: &[&str], path: &Path) -> bool {
    file_name(path).rsplit_once('-').is_some_and(|(name, _)| names.contains(&name))
}

fn remove(path: &Path) -> Result<(), String> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    removed.map_err(|error| format!("cannot remove {}: {error}", path.display()))
}

/// The lowest Rust that the manifests name; all name the same.
fn rust_version(packages: &[Value]) -> Result<String, String> {
    let versions: BTreeSet<&str> = packages.iter().map(|package| text(package, "rust_version")).collect();
    match versions.iter().collect::<Vec<_>>()[..] {
        [one] if !one.is_empty() => Ok((*one).to_owned()),
        _ => Err(format!("every package must name the same rust-version, there are {versions:?}")),
    }
}

/// Whether this run shows that the lowest Rust is enough: it does if it is the one that builds. In CI it must.
fn toolchain(lowest: &str) -> Result<String, String> {
    let output =
        Command::new("rustc").arg("--version").output().map_err(|error| format!("cannot run rustc: {error}"))?;
    let line = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let version = line.split_whitespace().nth(1).unwrap_or_default();
    match is_release_of(version, lowest) {
        true => Ok(format!("rust-version {lowest} is the toolchain's ({version})")),
        false if std::env::var_os("CI").is_some() => {
            Err(format!("CI builds with {version}, so nothing shows that rust-version {lowest} is enough"))
        }
        false => Ok(format!("built with {version}: this run does not show that rust-version {lowest} is enough")),
    }
}

/// Whether 1.95.2 is a 1.95.
fn is_release_of(version: &str, lowest: &str) -> bool {
    version == lowest || version.strip_prefix(lowest).is_some_and(|rest| rest.starts_with('.'))
}

/// A field that is text; empty if it is missing.
fn text<'a>(package: &'a Value, field: &str) -> &'a str {
    package.get(field).and_then(Value::as_str).unwrap_or_default()
}

/// A list of texts; empty if it is missing.
fn texts<'a>(package: &'a Value, field: &str) -> Vec<&'a str> {
    package.get(field).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect()
}

/// `publish = false` is an empty list of registries; null is all of them.
pub(crate) fn is_published(package: &Value) -> bool {
    package.get("publish").is_none_or(Value::is_null)
}

/// What is missing or too long in a manifest, and dependencies that would not be there for who takes the crate.
fn manifest_problems(package: &Value, published: &[&str]) -> Vec<String> {
    let fields = ["description", "license", "repository", "readme", "rust_version"];
    let missing = fields.iter().filter(|field| text(package, field).is_empty());
    let mut problems: Vec<String> = missing.map(|field| format!("there is no {field}")).collect();
    let keywords = texts(package, "keywords");
    if keywords.is_empty() || keywords.len() > KEYWORDS {
        problems.push(format!("{} keywords; 1 to {KEYWORDS} are taken", keywords.len()));
    }
    let long = keywords.iter().filter(|keyword| keyword.len() > KEYWORD_CHARACTERS);
    problems.extend(long.map(|keyword| format!("the keyword {keyword} is longer than {KEYWORD_CHARACTERS}")));
    if texts(package, "categories").is_empty() {
        problems.push("there are no categories".to_owned());
    }
    for dependency in package.get("dependencies").and_then(Value::as_array).into_iter().flatten() {
        let is_ours = dependency.get("path").is_some_and(Value::is_string);
        let (name, is_dev) = (text(dependency, "name"), text(dependency, "kind") == "dev");
        // A path without a version is left out of the package, which is right for tests only.
        if is_ours && !is_dev && (text(dependency, "req") == "*" || !published.contains(&name)) {
            problems.push(format!("it depends on {name}, which is not published or has no version"));
        }
    }
    problems
}

/// What a package lacks: files that it must carry, and files that its source names and it does not hold.
fn file_problems(directory: &Path, files: &BTreeSet<PathBuf>) -> Result<Vec<String>, String> {
    let missing = CARRIED.iter().filter(|file| !files.contains(Path::new(file)));
    let mut problems: Vec<String> = missing.map(|file| format!("{file} is not in the package")).collect();
    for file in files.iter().filter(|file| file.extension().is_some_and(|extension| extension == "rs")) {
        let path = directory.join(file);
        let source = fs::read_to_string(&path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        for named in named_files(&source) {
            let target = normal(&file.parent().unwrap_or(Path::new("")).join(named));
            if target.is_none_or(|target| !files.contains(&target)) {
                problems.push(format!("{} names {named}, which is not in the package", file.display()));
            }
        }
    }
    Ok(problems)
}

/// The files that source names, as it writes them.
fn named_files(source: &str) -> Vec<&str> {
    let mut found = Vec::new();
    for opening in NAMES_A_FILE {
        let rests = source.match_indices(opening).map(|(at, _)| &source[at + opening.len()..]);
        found.extend(rests.filter_map(|rest| rest.split('"').next()));
    }
    found
}

/// A path without `..`; none if it leaves where it starts.
fn normal(path: &Path) -> Option<PathBuf> {
    let mut parts = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(part) => parts.push(part),
            Component::ParentDir if parts.pop() => {}
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(parts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn good() -> Value {
        json!({
            "name": "a", "description": "d", "license": "l", "repository": "r", "readme": "README.md",
            "rust_version": "1.95", "keywords": ["k"], "categories": ["c"], "publish": null,
            "dependencies": [
                {"name": "b", "path": "/w/b", "req": "^0.1.0", "kind": null},
                {"name": "t", "path": "/w/t", "req": "*", "kind": "dev"},
                {"name": "bytes", "req": "^1", "kind": null},
            ],
        })
    }

    #[test]
    fn a_manifest_says_all_that_a_registry_wants() {
        assert_eq!(manifest_problems(&good(), &["a", "b"]), Vec::<String>::new());
        assert_eq!(manifest_problems(&good(), &["a"]).len(), 1, "b is not published");
        for field in ["description", "license", "repository", "readme", "rust_version", "keywords", "categories"] {
            let mut package = good();
            package.as_object_mut().unwrap().remove(field);
            assert_eq!(manifest_problems(&package, &["a", "b"]).len(), 1, "{field}");
        }
        let mut package = good();
        package["dependencies"][0]["req"] = json!("*");
        assert_eq!(manifest_problems(&package, &["a", "b"]).len(), 1, "no version");
        package = good();
        package["keywords"] = json!(["much-longer-than-twenty"]);
        assert_eq!(manifest_problems(&package, &["a", "b"]).len(), 1);
    }

    #[test]
    fn what_is_not_published_is_told_by_its_empty_list() {
        assert!(is_published(&json!({"publish": null})));
        assert!(!is_published(&json!({"publish": []})));
    }

    #[test]
    fn one_rust_version_is_named_by_all() {
        let package = |version: &str| json!({ "rust_version": version });
        assert_eq!(rust_version(&[package("1.95"), package("1.95")]), Ok("1.95".to_owned()));
        assert!(rust_version(&[package("1.95"), package("1.96")]).is_err());
        assert!(rust_version(&[json!({})]).is_err());
        assert!(
            is_release_of("1.95.0", "1.95") && !is_release_of("1.96.0", "1.95") && !is_release_of("1.950.0", "1.95")
        );
    }

    #[test]
    fn files_outside_of_the_package_are_found() {
        let directory = std::env::temp_dir().join(format!("quorate-xtask-package-{}", std::process::id()));
        fs::create_dir_all(directory.join("src/deep")).unwrap();
        fs::write(directory.join("src/lib.rs"), "#![doc = include_str!(\"../README.md\")]").unwrap();
        let inner = "const A: &str = include_str!(\"../list.md\");\n#[path = \"../../../b/src/x.rs\"]\nmod x;\n";
        fs::write(directory.join("src/deep/a.rs"), inner).unwrap();
        let mut files: BTreeSet<PathBuf> = CARRIED.iter().map(PathBuf::from).collect();
        files.extend(["src/lib.rs", "src/deep/a.rs", "src/list.md"].map(PathBuf::from));
        let problems = file_problems(&directory, &files).unwrap();
        assert_eq!(problems, ["src/deep/a.rs names ../../../b/src/x.rs, which is not in the package"]);
        files.remove(Path::new("README.md"));
        assert_eq!(file_problems(&directory, &files).unwrap().len(), 3, "not carried, and named");
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn what_an_earlier_run_left_is_told_by_its_name() {
        let names = ["quorate", "quorate-core"];
        for left in ["quorate-0.1.0", "quorate-core-0.1.0.crate", "quorate-8a16a2", "x/quorate-core-77aa"] {
            assert!(is_of(&names, Path::new(left)), "{left}");
        }
        for other in ["quorate-corelib-1.0.0", "serde-1.0.0", "quorate"] {
            assert!(!is_of(&names, Path::new(other)), "{other}");
        }
    }
}
