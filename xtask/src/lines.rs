//! Lines that a user writes, here and for OpenRaft: ours are counted, the other's stand in docs/compare-lines.tsv, by file
//! and commit.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::sizes::lines_of;
use crate::source::count_lines;

/// Where the lines of OpenRaft's example are listed.
const LISTED: &str = "docs/compare-lines.tsv";

/// What a user of each library writes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Lines {
    /// A counter on three durable nodes: Quorate, OpenRaft without what it is that counts.
    pub(crate) counter: (usize, usize),
    /// A key-value store over HTTP: Quorate, OpenRaft.
    pub(crate) kv: (usize, usize),
    /// Of OpenRaft's, by crate.
    pub(crate) crates: BTreeMap<String, usize>,
}

impl Lines {
    pub(crate) fn count(root: &Path) -> Result<Self, String> {
        let read = |name: &str| {
            let path = root.join(name);
            fs::read_to_string(&path).map_err(|error| format!("cannot read {}: {error}", path.display()))
        };
        let (crates, both, kv) = sums(&read(LISTED)?)?;
        Ok(Self {
            counter: (count_lines(&read("examples/counter.rs")?).0, both),
            kv: (lines_of(&root.join("examples/kv-http/src"))?, kv),
            crates,
        })
    }

    pub(crate) fn print(&self) {
        println!("lines of Rust that a user writes (neither blank nor comment, without tests):");
        println!("{:>7} durable counter, three nodes: examples/counter.rs", self.counter.0);
        println!("{:>7} durable key-value store over HTTP: examples/kv-http/src", self.kv.0);
        println!("{:>7} OpenRaft: log and network, which a durable counter needs beside its own code", self.counter.1);
        println!("{:>7} OpenRaft: durable key-value store over HTTP, by crate ({LISTED}):", self.kv.1);
        for (name, lines) in &self.crates {
            println!("        {lines:>7} {name}");
        }
    }
}

/// Lines by crate; of the rows that a counter needs; of all.
fn sums(listed: &str) -> Result<(BTreeMap<String, usize>, usize, usize), String> {
    let (mut crates, mut both, mut all) = (BTreeMap::new(), 0, 0);
    for row in listed.lines().filter(|row| !row.starts_with('#') && !row.is_empty()) {
        let bad = || format!("{LISTED}: not example, crate, file, lines, commit: {row}");
        let [example, name, _file, lines, commit] = row.split('\t').collect::<Vec<_>>()[..] else { return Err(bad()) };
        let lines: usize = lines.parse().map_err(|_| bad())?;
        if commit.len() < 8 || !commit.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(bad());
        }
        *crates.entry(name.to_owned()).or_default() += lines;
        all += lines;
        match example {
            "counter" => both += lines,
            "kv" => {}
            _ => return Err(bad()),
        }
    }
    Ok((crates, both, all))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_summed() {
        let listed = "# a comment\ncounter\tlog\ta.rs\t1000\t0b99a488\nkv\tapp\tb.rs\t304\t0b99a488\n";
        let (crates, both, all) = sums(listed).unwrap_or_default();
        assert_eq!((crates.get("log"), both, all), (Some(&1000), 1000, 1304));
        assert!(sums("kv\tapp\tb.rs\tmany\t0b99a488\n").is_err() && sums("kv\tapp\tb.rs\t1\tHEAD\n").is_err());
    }
}
