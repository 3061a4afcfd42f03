//! What deny.toml allows, held against what cargo resolves: licences, bans and sources, without cargo-deny. It reads no
//! licence texts and no advisories; cargo-deny does.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use serde_json::Value;

use crate::cargo::root;
use crate::metadata;

/// The parts of deny.toml that are checked here.
#[derive(Debug, Default, PartialEq, Eq)]
struct Policy {
    targets: Vec<String>,
    licences: Vec<String>,
    registries: Vec<String>,
    /// What must not come in, but for those who may depend on it.
    bans: Vec<(String, Vec<String>)>,
}

/// A package of the graph.
struct Found<'a> {
    name: &'a str,
    version: &'a str,
    licence: &'a str,
    /// Of a registry or repository; none for a path.
    source: Option<&'a str>,
    dependents: BTreeSet<&'a str>,
    /// What it asks for in any version, elsewhere than in a path.
    wildcards: Vec<&'a str>,
}

/// Prints what is not allowed; fails if there is anything.
pub(crate) fn check() -> Result<(), String> {
    let path = root().join("deny.toml");
    let text = fs::read_to_string(&path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    let policy = Policy::parse(&text)?;
    let mut args = vec!["metadata", "--locked", "--all-features", "--format-version", "1"];
    policy.targets.iter().for_each(|target| args.extend(["--filter-platform", target]));
    let json: Value = serde_json::from_str(&metadata::cargo(&args)?).map_err(|error| error.to_string())?;
    let packages = graph(&json).ok_or("cargo metadata has an unknown shape")?;
    let problems = policy.problems(&packages);
    problems.iter().for_each(|problem| eprintln!("{problem}"));
    match problems.len() {
        0 => {
            let (count, licences) = (packages.len(), policy.licences.join(", "));
            println!("deny: {count} packages: licences within {licences}; nothing banned; all from allowed sources");
            Ok(())
        }
        count => Err(format!("{count} things came in that deny.toml does not allow")),
    }
}

impl Policy {
    fn parse(text: &str) -> Result<Self, String> {
        let mut policy = Self::default();
        let (mut section, mut in_bans) = ("", false);
        for line in text.lines().map(|line| line.split('#').next().unwrap_or_default().trim()) {
            if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
                section = name;
                continue;
            }
            match (section, line.split_once(" = ").map_or(line, |(key, _)| key)) {
                ("graph", "targets") => policy.targets = strings(line),
                ("licenses", "allow") => policy.licences = strings(line),
                ("sources", "allow-registry") => policy.registries = strings(line),
                ("bans", "deny") => in_bans = true,
                ("bans", _) if in_bans && line.starts_with('{') => {
                    let mut named = strings(line).into_iter();
                    policy.bans.extend(named.next().map(|name| (name, named.collect())));
                }
                _ if line == "]" => in_bans = false,
                _ => {}
            }
        }
        match policy.targets.is_empty() || policy.licences.is_empty() || policy.registries.is_empty() {
            true => {
                Err("deny.toml: `targets`, `allow` and `allow-registry` must each be a list on one line".to_owned())
            }
            false => Ok(policy),
        }
    }

    fn problems(&self, packages: &[Found<'_>]) -> Vec<String> {
        let mut problems = Vec::new();
        for package in packages {
            let Found { name, version, licence, .. } = package;
            if !allows(licence, &|id| self.licences.iter().any(|allowed| allowed == id)) {
                problems.push(format!("{name} {version}: licence {licence:?} is not among the allowed ones"));
            }
            if let Some(source) = package.source
                && !self.registries.iter().any(|allowed| source.strip_prefix("registry+") == Some(allowed.as_str()))
            {
                problems.push(format!("{name} {version}: comes from {source}"));
            }
            for (_, wrappers) in self.bans.iter().filter(|(banned, _)| banned == name) {
                let by = package.dependents.iter().filter(|by| !wrappers.iter().any(|wrapper| wrapper == *by));
                problems.extend(by.map(|by| format!("{name} {version} is banned, and {by} depends on it")));
            }
            problems.extend(package.wildcards.iter().map(|to| format!("{name} asks for any version of {to}")));
        }
        for licence in &self.licences {
            if !packages.iter().any(|package| words(package.licence).contains(&licence.as_str())) {
                problems.push(format!("deny.toml: nothing has the licence {licence}, so it need not be allowed"));
            }
        }
        problems
    }
}

/// The quoted words of a line.
fn strings(line: &str) -> Vec<String> {
    line.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The packages that are built for one of the platforms.
fn graph(json: &Value) -> Option<Vec<Found<'_>>> {
    let members: BTreeSet<&str> = json.get("workspace_members")?.as_array()?.iter().filter_map(Value::as_str).collect();
    let mut packages = BTreeMap::new();
    for package in json.get("packages")?.as_array()? {
        let id = package.get("id")?.as_str()?;
        let asked = package.get("dependencies")?.as_array()?.iter().filter(|_| members.contains(id));
        let wildcards = asked.filter(|asked| {
            asked.get("req").and_then(Value::as_str) == Some("*") && asked.get("path").is_none_or(Value::is_null)
        });
        let found = Found {
            name: package.get("name")?.as_str()?,
            version: package.get("version")?.as_str()?,
            licence: package.get("license").and_then(Value::as_str).unwrap_or_default(),
            source: package.get("source").and_then(Value::as_str),
            dependents: BTreeSet::new(),
            wildcards: wildcards.filter_map(|asked| asked.get("name").and_then(Value::as_str)).collect(),
        };
        packages.insert(id, found);
    }
    let nodes = json.get("resolve")?.get("nodes")?.as_array()?;
    let mut built = BTreeSet::new();
    for node in nodes {
        let id = node.get("id")?.as_str()?;
        let name = packages.get(id)?.name;
        built.insert(id);
        for dependency in node.get("dependencies")?.as_array()?.iter().filter_map(Value::as_str) {
            packages.get_mut(dependency)?.dependents.insert(name);
        }
    }
    Some(packages.into_iter().filter(|(id, _)| built.contains(id)).map(|(_, found)| found).collect())
}

/// The words of a licence expression. `/` is an old way to write `OR`.
fn words(licence: &str) -> Vec<&str> {
    let spaced = licence.split([' ', '/']).flat_map(|word| {
        let inner = word.trim_matches(['(', ')']);
        let opening = word.len() - word.trim_start_matches('(').len();
        let closing = word.len() - word.trim_end_matches(')').len();
        std::iter::repeat_n("(", opening).chain([inner]).chain(std::iter::repeat_n(")", closing))
    });
    spaced.filter(|word| !word.is_empty()).collect()
}

/// Whether somebody who accepts `has` may take what has this licence expression.
fn allows(licence: &str, has: &dyn Fn(&str) -> bool) -> bool {
    let licence = licence.replace('/', " OR ");
    let mut rest = words(&licence).into_iter().peekable();
    either(&mut rest, has) && rest.next().is_none()
}

type Words<'a> = std::iter::Peekable<std::vec::IntoIter<&'a str>>;

fn either(rest: &mut Words<'_>, has: &dyn Fn(&str) -> bool) -> bool {
    let mut allowed = both(rest, has);
    while rest.next_if_eq(&"OR").is_some() {
        allowed |= both(rest, has);
    }
    allowed
}

fn both(rest: &mut Words<'_>, has: &dyn Fn(&str) -> bool) -> bool {
    let mut allowed = one(rest, has);
    while rest.next_if_eq(&"AND").is_some() {
        allowed &= one(rest, has);
    }
    allowed
}

fn one(rest: &mut Words<'_>, has: &dyn Fn(&str) -> bool) -> bool {
    match rest.next() {
        Some("(") => {
            let allowed = either(rest, has);
            allowed & (rest.next() == Some(")"))
        }
        Some(id) if rest.next_if_eq(&"WITH").is_some() => {
            let exception = rest.next().unwrap_or_default();
            has(&format!("{id} WITH {exception}"))
        }
        Some(id) => has(id),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DENY: &str = "[graph]\ntargets = [\"x86_64\"]\n[licenses]\nallow = [\"MIT\", \"ISC\"] # so\n[bans]\ndeny = [\n    # a reason\n    \
                        { crate = \"bad\" },\n    { crate = \"rare\", wrappers = [\"bench\"] },\n]\n[sources]\nallow-registry = [\"https://here\"]\n";

    fn package<'a>(name: &'a str, licence: &'a str, dependents: &[&'a str]) -> Found<'a> {
        let dependents = dependents.iter().copied().collect();
        Found {
            name,
            version: "1.0.0",
            licence,
            source: Some("registry+https://here"),
            dependents,
            wildcards: Vec::new(),
        }
    }

    #[test]
    fn licences_are_read_as_expressions() {
        let has = |id: &str| ["MIT", "Apache-2.0", "ISC"].contains(&id);
        for allowed in
            ["MIT", "MIT/GPL-3.0", "(MIT OR GPL-3.0) AND ISC", "GPL-3.0 WITH x OR MIT", "GPL-3.0 AND GPL-3.0 OR ISC"]
        {
            assert!(allows(allowed, &has), "{allowed}");
        }
        for refused in ["", "GPL-3.0", "MIT AND GPL-3.0", "Apache-2.0 WITH x", "(MIT", "MIT)", "MIT MIT"] {
            assert!(!allows(refused, &has), "{refused}");
        }
    }

    #[test]
    fn what_is_not_allowed_is_named() {
        let policy = Policy::parse(DENY).unwrap_or_default();
        let bans = [("bad".to_owned(), vec![]), ("rare".to_owned(), vec!["bench".to_owned()])];
        assert_eq!(policy.bans, bans);
        let fine = [package("a", "MIT", &[]), package("rare", "ISC", &["bench"])];
        assert_eq!(policy.problems(&fine), [""; 0]);
        let elsewhere = Found { source: Some("git+https://there"), ..package("c", "ISC", &[]) };
        let any = Found { wildcards: vec!["d"], ..package("d", "MIT", &[]) };
        let wrong = [
            package("a", "GPL-3.0", &[]),
            package("bad", "MIT", &["b"]),
            package("rare", "MIT", &["a"]),
            elsewhere,
            any,
        ];
        assert_eq!(policy.problems(&wrong).len(), 5);
        assert_eq!(policy.problems(&fine[..1]).len(), 1, "ISC is not needed");
        assert!(Policy::parse("[graph]\n").is_err());
    }
}
