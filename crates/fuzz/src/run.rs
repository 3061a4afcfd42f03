//! Many inputs of one target.

use std::collections::BTreeSet;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::mutate::mutate;
use crate::outcome::Outcome;
use crate::rng::Rng;
use crate::target::Target;

/// Most inputs that are kept to be changed again because they went a way of their own.
const MAX_KEPT: usize = 2000;
/// Longest input that is kept, in bytes.
const MAX_KEPT_BYTES: usize = 128 << 10;

/// What a run did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Inputs tried.
    pub inputs: u64,
    /// Those of which all was accepted.
    pub accepted: u64,
    /// Most layers of one that were.
    pub deepest: u32,
    /// Ways that inputs went, as far as errors tell them apart.
    pub ways: usize,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let share = 100.0 * self.accepted as f64 / self.inputs.max(1) as f64;
        write!(f, "{} inputs, {share:.1} % accepted, {} ways, deepest {}", self.inputs, self.ways, self.deepest)
    }
}

/// Hands inputs to `each`, which says what became of them: the corpus as it is, then changed ones without end until
/// `each` gives nothing.
pub fn inputs(target: &Target, seed: u64, mut each: impl FnMut(&[u8]) -> Option<Outcome>) {
    let mut pool = (target.corpus)();
    let valid = pool.len();
    let mut rng = Rng::new(seed);
    let mut ways = BTreeSet::new();
    for input in &pool {
        let Some(outcome) = each(input) else { return };
        ways.insert(outcome.shape);
    }
    loop {
        // Half of the inputs come from valid ones: changes of changes lead ever further away.
        let from = if rng.one_in(2) { rng.below(valid) } else { rng.below(pool.len()) };
        let mut input = pool[from].clone();
        mutate(&mut input, &pool[rng.below(pool.len())], &mut rng);
        if !rng.one_in(8) {
            (target.repair)(&mut input);
        }
        let Some(outcome) = each(&input) else { return };
        if ways.insert(outcome.shape) && pool.len() < MAX_KEPT && input.len() <= MAX_KEPT_BYTES {
            pool.push(input);
        }
    }
}

/// Changes an input in place for libFuzzer, which gives it room for `max_size` bytes; gives its new size.
pub fn change(target: Option<Target>, bytes: &mut [u8], size: usize, max_size: usize, seed: u32) -> usize {
    let Some(target) = target else { return size };
    let mut rng = Rng::new(seed.into());
    let mut input = bytes[..size].to_vec();
    // Parts of other inputs are libFuzzer's own crossing.
    mutate(&mut input, &bytes[..size], &mut rng);
    input.truncate(max_size.min(bytes.len()));
    if !rng.one_in(8) {
        (target.repair)(&mut input);
    }
    bytes[..input.len()].copy_from_slice(&input);
    input.len()
}

/// Tries `count` inputs.
///
/// # Errors
/// The first input that made the target panic, with what it said.
pub fn run(target: &Target, seed: u64, count: u64) -> Result<Report, String> {
    let (mut report, mut failed, mut ways) = (Report::default(), None, BTreeSet::new());
    inputs(target, seed, |input| {
        if report.inputs == count {
            return None;
        }
        report.inputs += 1;
        match catch_unwind(AssertUnwindSafe(|| (target.run)(input))) {
            Ok(outcome) => {
                report.accepted += u64::from(outcome.accepted);
                report.deepest = report.deepest.max(outcome.depth);
                ways.insert(outcome.shape);
                Some(outcome)
            }
            Err(panic) => {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no text");
                let number = report.inputs;
                let name = target.name;
                failed = Some(format!("{name}, seed {seed}, input {number}: {text}\n{}", hex(input)));
                None
            }
        }
    });
    report.ways = ways.len();
    failed.map_or(Ok(report), Err)
}

/// Bytes as text: 32 a line, two digits each; runs of 16 zeros and more as `*` and their number.
pub fn hex(bytes: &[u8]) -> String {
    let (mut out, mut at, mut column) = (String::new(), 0, 0);
    while at < bytes.len() {
        let zeros = bytes[at..].iter().take_while(|byte| **byte == 0).count();
        if zeros >= 16 {
            out.push_str(&format!("{}*{zeros}\n", if column > 0 { "\n" } else { "" }));
            (at, column) = (at + zeros, 0);
            continue;
        }
        out.push_str(&format!("{:02x}", bytes[at]));
        (at, column) = (at + 1, column + 1);
        if column == 32 {
            out.push('\n');
            column = 0;
        }
    }
    out
}

/// Reads what [`hex`] wrote; lines that start with `#` are comments.
///
/// # Errors
/// Names the line that is none.
pub fn unhex(text: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
        let bad = || format!("not bytes: {line}");
        if let Some(zeros) = line.strip_prefix('*') {
            bytes.resize(bytes.len() + zeros.parse::<usize>().map_err(|_| bad())?, 0);
            continue;
        }
        for at in (0..line.len()).step_by(2) {
            let digits = line.get(at..at + 2).ok_or_else(bad)?;
            bytes.push(u8::from_str_radix(digits, 16).map_err(|_| bad())?);
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_as_text_are_the_same_bytes() {
        let mut bytes: Vec<u8> = (0..100).collect();
        bytes.extend([0; 15]);
        bytes.push(1);
        bytes.extend([0; 500]);
        bytes.push(2);
        assert_eq!(unhex(&format!("# why\n{}", hex(&bytes))), Ok(bytes));
        assert!(unhex("0g").is_err() && unhex("1").is_err() && unhex("*x").is_err());
    }
}
