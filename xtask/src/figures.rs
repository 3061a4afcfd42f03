//! The figures of "What it takes to begin" that are known without a build: what README.md and COMPARE.md must say of lines,
//! commands, traits and crates. `check-docs` holds the pages against them, and so does `compare`, which counts more.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::lines::Lines;
use crate::metadata;
use crate::sizes::dependencies;

/// Commands to a first result, each with the page it stands in.
const COMMANDS: &str = "docs/compare-commands.tsv";

/// What OpenRaft's traits ask for.
const TRAITS: &str = "docs/compare-traits.tsv";

/// Where our own commands must stand.
const README: &str = "README.md";

/// Where our own trait is listed, and the title of its entry.
const LISTING: (&str, &str) = ("docs/api/quorate.txt", "trait quorate::RaftStateMachine");

/// Required methods and associated types of traits, in the order of their list.
pub(crate) type Traits = Vec<(String, (usize, usize))>;

/// What was counted.
struct Figures {
    lines: Lines,
    /// Of whom, how many.
    commands: BTreeMap<String, usize>,
    /// What our trait asks for, and what theirs do.
    traits: ((usize, usize), Traits),
    /// Crates from the registry: ours, ours without default features, OpenRaft's.
    crates: [usize; 3],
    /// OpenRaft's version.
    version: String,
}

/// A row of a page: how it begins, and the words that its second and third cell must have.
struct Row(&'static str, Vec<String>, Vec<String>);

/// Where a page says something else than is counted.
pub(crate) fn problems(root: &Path) -> Result<Vec<String>, String> {
    let figures = Figures::count(root)?;
    let mut found = Vec::new();
    for (page, rows) in [(README, figures.short()), ("COMPARE.md", figures.long())] {
        let content = read(root, page)?;
        found.extend(rows.iter().filter_map(|row| row.problem(page, &content)));
        found.extend(figures.other_versions(page, &content));
    }
    Ok(found)
}

/// What the listing of OpenRaft's traits says.
pub(crate) fn listed_traits(root: &Path) -> Result<Traits, String> {
    parse_traits(&read(root, TRAITS)?)
}

/// Prints how many commands lead to a first result, and which.
pub(crate) fn print_commands(root: &Path) -> Result<(), String> {
    let mut last = String::new();
    let (listed, counts) = commands(&read(root, COMMANDS)?, &read(root, README)?)?;
    println!("\ncommands to a first result ({COMMANDS} says from where):");
    for (of, command) in listed {
        if of != last {
            println!("{:>7} {of}", counts.get(&of).copied().unwrap_or_default());
            last = of;
        }
        println!("          {command}");
    }
    Ok(())
}

impl Figures {
    fn count(root: &Path) -> Result<Self, String> {
        let crates = |package: &str, more: &[&str]| {
            let edges = ["tree", "--package", package, "--edges", "normal", "--prefix", "none", "--format", "{p}"];
            Ok::<usize, String>(dependencies(&metadata::cargo(&[&edges, more].concat())?, package).0)
        };
        Ok(Self {
            lines: Lines::count(root)?,
            commands: commands(&read(root, COMMANDS)?, &read(root, README)?)?.1,
            traits: (ours(&read(root, LISTING.0)?)?, listed_traits(root)?),
            crates: [crates("quorate", &[])?, crates("quorate", &["--no-default-features"])?, crates("openraft", &[])?],
            version: version(&read(root, "Cargo.lock")?)?,
        })
    }

    /// Traits, methods and types of OpenRaft.
    fn theirs(&self) -> [usize; 3] {
        let traits = &self.traits.1;
        [traits.len(), traits.iter().map(|(_, (m, _))| m).sum(), traits.iter().map(|(_, (_, t))| t).sum()]
    }

    fn commands_of(&self, who: &str) -> usize {
        self.commands.get(who).copied().unwrap_or_default()
    }

    fn short(&self) -> Vec<Row> {
        let ((methods, types), lines) = (self.traits.0, &self.lines);
        vec![
            row("| lines for a counter on three durable nodes |", &[lines.counter.0], &[lines.counter.1]),
            row("| lines for a key-value store over HTTP", &[lines.kv.0], &[lines.kv.1]),
            row("| traits, methods, types to implement |", &[1, methods, types], &self.theirs()),
            row("| commands to a first result |", &[self.commands_of("counter")], &[self.commands_of("openraft")]),
            row("| crates that come with it |", &[self.crates[0]], &[self.crates[2]]),
        ]
    }

    fn long(&self) -> Vec<Row> {
        let ((methods, types), lines) = (self.traits.0, &self.lines);
        let [traits, their_methods, their_types] = self.theirs();
        let of_crate = |name: &str| lines.crates.get(name).copied().unwrap_or_default();
        let by_macro = self.traits.1.first().map_or(0, |(_, (_, types))| *types);
        let ours = ["counter", "server"].map(|who| self.commands_of(who));
        let theirs = ["openraft", "etcd"].map(|who| self.commands_of(who));
        vec![
            row("| lines for a counter on three durable nodes |", &[lines.counter.0], &[lines.counter.1]),
            row(
                "| lines for a key-value store over HTTP",
                &[lines.kv.0],
                &[lines.kv.1, of_crate("raft-kv-log-wal-sm-mem")],
            ),
            row("| traits to implement |", &[1], &[traits]),
            row("| methods to implement |", &[methods], &[their_methods]),
            row("| associated types to name |", &[types], &[their_types, by_macro]),
            row("| commands to a first result |", &ours, &theirs),
            row("| crates that come with it |", &self.crates[..2], &self.crates[2..]),
        ]
    }

    /// Versions of OpenRaft that a page names, and that are not the one which is counted.
    fn other_versions(&self, page: &str, content: &str) -> Option<String> {
        let mut named = content.match_indices("0.10.0-alpha.").map(|(at, _)| {
            let rest = &content[at..];
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '.' && c != '-').unwrap_or(rest.len());
            rest[..end].trim_end_matches('.')
        });
        let other = named.find(|named| *named != self.version)?;
        Some(format!("{page}: names OpenRaft {other}, counted is {}", self.version))
    }
}

impl Row {
    fn problem(&self, page: &str, content: &str) -> Option<String> {
        let Row(begin, ours, theirs) = self;
        let line = content.lines().find(|line| line.starts_with(begin)).unwrap_or_default();
        let cells: Vec<&str> = line.split('|').collect();
        let has = |cell: usize, number: &String| {
            let mut words = cells.get(cell).copied().unwrap_or_default().split([' ', ':', ';', '(', ')']);
            words.any(|word| word.trim_end_matches([',', '.']) == number)
        };
        let is_right = ours.iter().all(|number| has(2, number)) && theirs.iter().all(|number| has(3, number));
        let wanted = format!("{}, and {} of the other", ours.join(", "), theirs.join(", "));
        (!is_right).then(|| format!("{page}: the row {begin:?} must name {wanted}"))
    }
}

fn row(begin: &'static str, ours: &[usize], theirs: &[usize]) -> Row {
    let texts = |numbers: &[usize]| numbers.iter().map(|number| text(*number)).collect();
    Row(begin, texts(ours), texts(theirs))
}

/// As pages write it: 1,304.
fn text(number: usize) -> String {
    match number {
        0..1000 => number.to_string(),
        _ => format!("{},{:03}", number / 1000, number % 1000),
    }
}

fn read(root: &Path, name: &str) -> Result<String, String> {
    fs::read_to_string(root.join(name)).map_err(|error| format!("cannot read {name}: {error}"))
}

/// The rows of a list with tabs, its comments left out.
fn rows(list: &str) -> impl Iterator<Item = Vec<&str>> {
    list.lines().filter(|row| !row.starts_with('#') && !row.is_empty()).map(|row| row.split('\t').collect())
}

/// Of whom which commands, and how many of each. What is said to stand in our README must.
#[expect(clippy::type_complexity, reason = "a list and its counts")]
fn commands(list: &str, readme: &str) -> Result<(Vec<(String, String)>, BTreeMap<String, usize>), String> {
    let (mut listed, mut counts) = (Vec::new(), BTreeMap::new());
    for row in rows(list) {
        let [of, command, from] = row[..] else { return Err(format!("{COMMANDS}: not of, command, from: {row:?}")) };
        let is_sourced = match from {
            README => readme.contains(command),
            "every one of them" => command == "git clone",
            other => other
                .split(' ')
                .nth(1)
                .is_some_and(|commit| commit.len() >= 8 && commit.bytes().all(|byte| byte.is_ascii_hexdigit())),
        };
        if !is_sourced {
            return Err(format!("{COMMANDS}: `{command}` does not stand in {from}, or no commit is named"));
        }
        listed.push((of.to_owned(), command.to_owned()));
        *counts.entry(of.to_owned()).or_default() += 1;
    }
    Ok((listed, counts))
}

fn parse_traits(list: &str) -> Result<Traits, String> {
    let parse = |row: Vec<&str>| match row[..] {
        [name, methods, types] => Some((name.to_owned(), (methods.parse().ok()?, types.parse().ok()?))),
        _ => None,
    };
    rows(list).map(|row| parse(row).ok_or_else(|| format!("{TRAITS}: a row is not trait, methods, types"))).collect()
}

/// Required methods and associated types of our own trait, from the listing that `public-api` keeps.
fn ours(listing: &str) -> Result<(usize, usize), String> {
    let entry = listing.lines().skip_while(|line| *line != LISTING.1).skip(1);
    let lines: Vec<String> = entry
        .take_while(|line| !line.is_empty())
        .map(|line| line.strip_prefix("    ").unwrap_or(line).to_owned())
        .collect();
    match to_implement(&lines) {
        (0, _) => Err(format!("{}: no methods of {}", LISTING.0, LISTING.1)),
        counted => Ok(counted),
    }
}

/// Required methods and associated types of a trait's declaration, as rustdoc writes it.
pub(crate) fn to_implement(declaration: &[String]) -> (usize, usize) {
    let (mut methods, mut types, mut is_required) = (0, 0, false);
    for line in declaration {
        let line = line.strip_prefix("    ").unwrap_or(line);
        match line {
            "// Required methods" | "// Required method" => is_required = true,
            "// Provided methods" | "// Provided method" => is_required = false,
            _ if line.starts_with("type ") => types += 1,
            _ if is_required && (line.starts_with("fn ") || line.starts_with("async fn ")) => methods += 1,
            _ => {}
        }
    }
    (methods, types)
}

/// The version of OpenRaft in a lock file.
fn version(lock: &str) -> Result<String, String> {
    let mut lines = lock.lines().skip_while(|line| *line != "name = \"openraft\"").skip(1);
    let version = lines.next().and_then(|line| line.strip_prefix("version = \"")?.strip_suffix('"'));
    version.map(str::to_owned).ok_or_else(|| "Cargo.lock does not name openraft".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_must_be_implemented_is_counted() {
        let text = "pub trait T: Sized {\n    type A: B;\n    type C;\n    // Required methods\n    fn a(\n        &self,\n    ) -> u8;\n    \
                    async fn b(&self);\n    // Provided methods\n    fn c(&self) { ... }\n}";
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        assert_eq!(to_implement(&lines), (2, 2));
        let listing = format!("struct a\n\n{}\n{}\n\nstruct b", LISTING.1, text.replace('\n', "\n    "));
        assert_eq!(ours(&listing), Ok((2, 2)));
        assert!(ours("trait other\n").is_err());
    }

    #[test]
    fn pages_are_held_against_what_was_counted() {
        let page = "| lines | 28, all of it | no example; 1,304 (124) |\n| other | 1 | 2 |\n";
        let problem = |ours: &[usize], theirs: &[usize]| row("| lines |", ours, theirs).problem("page", page);
        assert_eq!(problem(&[28], &[1304, 124]), None);
        assert!(problem(&[29], &[1304]).is_some() && problem(&[28], &[28]).is_some());
        assert!(row("| gone |", &[1], &[]).problem("page", page).is_some());
    }

    #[test]
    fn commands_are_counted_and_ours_stand_in_the_readme() {
        let list = "# of\tcommand\tfrom\na\tgit clone\tevery one of them\na\tcargo run\tREADME.md\nb\tgo get\tx/y 0b99a488 z\n";
        let counts = commands(list, "Try: cargo run").map(|(_, counts)| counts);
        assert_eq!(counts, Ok(BTreeMap::from([("a".to_owned(), 2), ("b".to_owned(), 1)])));
        assert!(commands(list, "Try: make").is_err());
        assert!(commands("b\tgo get\tx/y HEAD z\n", "").is_err());
    }

    #[test]
    fn another_version_on_a_page_is_noticed() {
        let figures = Figures {
            lines: Lines { counter: (0, 0), kv: (0, 0), crates: BTreeMap::new() },
            commands: BTreeMap::new(),
            traits: ((0, 0), Vec::new()),
            crates: [0; 3],
            version: version("name = \"openraft\"\nversion = \"0.10.0-alpha.3\"\n").unwrap_or_default(),
        };
        assert_eq!(figures.other_versions("page", "0.10.0-alpha.3, and 0.10.0-alpha.3."), None);
        assert!(figures.other_versions("page", "of 0.10.0-alpha.37, which").is_some());
    }
}
