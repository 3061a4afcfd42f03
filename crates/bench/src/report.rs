//! Medians, spreads and the lines that are printed.

use crate::args::Options;
use crate::clients::Trial;

/// The trials of one client count.
#[derive(Debug)]
pub(crate) struct Row {
    clients: usize,
    ours: Vec<Trial>,
    theirs: Vec<Trial>,
    echo: Vec<Trial>,
}

impl Row {
    pub(crate) fn new(clients: usize) -> Self {
        Self { clients, ours: Vec::new(), theirs: Vec::new(), echo: Vec::new() }
    }

    /// Adds one pair and the echo measured beside it.
    pub(crate) fn push(&mut self, ours: Trial, theirs: Trial, echo: Trial) {
        self.ours.push(ours);
        self.theirs.push(theirs);
        self.echo.push(echo);
    }

    /// The median of the pairs' ratios with their spread, and the medians of each side.
    pub(crate) fn summary(&self) -> String {
        let ratios = Spread::of(self.ours.iter().zip(&self.theirs).map(|(a, b)| a.per_second / b.per_second));
        let cpu = Spread::of(self.ours.iter().zip(&self.theirs).map(|(a, b)| a.cpu_ns / b.cpu_ns));
        let limit = Spread::of(self.ours.iter().zip(&self.echo).map(|(a, b)| a.per_second / b.per_second));
        format!(
            "\n== {} clients: quorate/openraft {:.2}x put/s (pairs {:.2} to {:.2}), {:.3}x cpu/put ({:.3} to {:.3}); {:.2}x of echo\n{}\n{}\n{}\n",
            self.clients,
            ratios.median,
            ratios.least,
            ratios.greatest,
            cpu.median,
            cpu.least,
            cpu.greatest,
            limit.median,
            side("quorate", &self.ours),
            side("openraft", &self.theirs),
            side("echo", &self.echo),
        )
    }
}

fn side(name: &str, trials: &[Trial]) -> String {
    let speed = Spread::of(trials.iter().map(|trial| trial.per_second));
    let cpu = Spread::of(trials.iter().map(|trial| trial.cpu_ns));
    format!(
        "   {name:<9} {:>12.0} put/s  ({:.0} to {:.0})  {:>9.0} cpu-ns/put",
        speed.median, speed.least, speed.greatest, cpu.median
    )
}

/// What is printed first: whoever reads the figures needs to know how they were made.
pub(crate) fn heading(options: &Options) -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let build = if cfg!(debug_assertions) { "DEBUG build, the figures mean nothing" } else { "release build" };
    format!(
        "3 nodes in one process, in memory; {cores} cores, {build}; {} client + {} server threads; {} pairs of {:?} after {:?}; openraft 0.10.0-alpha.37, appends by {:?}, snapshot every {}",
        options.client_threads,
        options.server_threads,
        options.pairs,
        options.measure,
        options.warmup,
        options.openraft_appends,
        options.openraft_snapshot,
    )
}

/// One pair as it comes in.
pub(crate) fn pair_line(clients: usize, pair: usize, ours: &Trial, theirs: &Trial, echo: &Trial) -> String {
    format!(
        "{clients:>5} clients, pair {}: quorate {:>9.0}/s {:>6.0} ns, openraft {:>9.0}/s {:>6.0} ns, ratio {:.2}; echo {:>9.0}/s {:>6.0} ns",
        pair + 1,
        ours.per_second,
        ours.cpu_ns,
        theirs.per_second,
        theirs.cpu_ns,
        ours.per_second / theirs.per_second,
        echo.per_second,
        echo.cpu_ns,
    )
}

/// Median and extremes of a few numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Spread {
    least: f64,
    median: f64,
    greatest: f64,
}

impl Spread {
    fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = values.collect();
        sorted.sort_by(f64::total_cmp);
        let Some((&least, &greatest)) = sorted.first().zip(sorted.last()) else {
            return Self { least: f64::NAN, median: f64::NAN, greatest: f64::NAN };
        };
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 };
        Self { least, median, greatest }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_of_the_pairs_ratios() {
        assert_eq!(Spread::of([3.0, 1.0, 2.0].into_iter()), Spread { least: 1.0, median: 2.0, greatest: 3.0 });
        assert_eq!(Spread::of([4.0, 1.0].into_iter()).median, 2.5);
        assert!(Spread::of([].into_iter()).median.is_nan());

        let trial = |per_second| Trial { per_second, cpu_ns: 10.0 };
        let mut row = Row::new(1);
        for (ours, theirs) in [(10.0, 1.0), (9.0, 3.0), (8.0, 4.0)] {
            row.push(trial(ours), trial(theirs), trial(100.0));
        }
        assert!(row.summary().contains("quorate/openraft 3.00x put/s (pairs 2.00 to 10.00)"), "{}", row.summary());
    }
}
