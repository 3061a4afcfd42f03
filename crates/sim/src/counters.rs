//! Named numbers of a run, and of many runs: what is counted here appears by itself wherever totals are printed.

use std::collections::BTreeMap;
use std::fmt;

/// Named numbers of one run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters(BTreeMap<&'static str, u64>);

impl Counters {
    /// Counts so many more.
    pub fn add(&mut self, name: &'static str, count: u64) {
        *self.0.entry(name).or_default() += count;
    }

    /// Keeps the greatest, of a time or a size: its name ends with its unit.
    pub fn raise(&mut self, name: &'static str, to: u64) {
        let known = self.0.entry(name).or_default();
        *known = to.max(*known);
    }

    /// What was counted; 0 if nothing was.
    pub fn of(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    /// All, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.0.iter().map(|(name, count)| (*name, *count))
    }
}

/// Counters of many runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    runs: u64,
    /// What each run counted, where it is not 0.
    counted: BTreeMap<&'static str, Vec<u64>>,
}

/// One counter, over many runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Total {
    /// All runs together.
    pub sum: u64,
    /// Runs in which it is not 0.
    pub runs: u64,
    /// As many as this or more in half of the runs.
    pub median: u64,
    /// The greatest of any run.
    pub most: u64,
}

impl Totals {
    /// Counts one more run.
    pub fn add(&mut self, run: &Counters) {
        self.runs += 1;
        for (name, count) in run.iter() {
            // Named although it is 0: what should happen and never does must show.
            let counts = self.counted.entry(name).or_default();
            counts.extend((count > 0).then_some(count));
        }
    }

    /// All, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, Total)> {
        self.counted.iter().map(|(name, counts)| (*name, self.total(counts)))
    }

    /// One of them.
    pub fn of(&self, name: &str) -> Total {
        self.total(self.counted.get(name).map_or(&[], Vec::as_slice))
    }

    fn total(&self, counts: &[u64]) -> Total {
        let mut sorted = counts.to_vec();
        sorted.sort_unstable();
        let zeros = self.runs as usize - sorted.len();
        Total {
            sum: sorted.iter().sum(),
            runs: sorted.len() as u64,
            median: (self.runs as usize / 2).checked_sub(zeros).and_then(|at| sorted.get(at)).copied().unwrap_or(0),
            most: sorted.last().copied().unwrap_or(0),
        }
    }
}

/// A table, with its heading.
impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<32} {:>12} {:>12} {:>10} {:>10}", "counted", "in all", "seeds with", "median", "most")?;
        for (name, total) in self.iter() {
            let Total { sum, runs, median, most } = total;
            write!(f, "\n{name:<32} {sum:>12} {runs:>12} {median:>10} {most:>10}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_count_runs_in_which_nothing_happened() {
        let mut totals = Totals::default();
        for (reads, slowest) in [(3, 5), (0, 40), (8, 7), (1, 0), (0, 0)] {
            let mut run = Counters::default();
            run.add("reads", reads);
            run.raise("slowest ms", slowest);
            run.raise("slowest ms", 1);
            totals.add(&run);
        }
        assert_eq!(totals.of("reads"), Total { sum: 12, runs: 3, median: 1, most: 8 });
        assert_eq!(totals.of("slowest ms").most, 40);
        assert_eq!(totals.of("never"), Total { sum: 0, runs: 0, median: 0, most: 0 });
        assert_eq!(Totals::default().of("reads").median, 0);
        let mut never = Counters::default();
        never.add("never", 0);
        totals.add(&never);
        assert!(totals.to_string().contains("never"), "a name that is known shows at 0");
    }
}
