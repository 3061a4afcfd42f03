//! A report as text, for a terminal and, line by line, for the page.

use super::{Better, Report, Role, Row, Side, Spread, Verdict};
use crate::measure::Goal;
use crate::measure::disk::SyncLatency;

/// A number with about three digits, as people write them.
pub(crate) fn number(value: f64) -> String {
    let size = value.abs();
    if !value.is_finite() {
        "-".to_owned()
    } else if size >= 1e6 {
        format!("{:.2} M", value / 1e6)
    } else if size >= 1e4 {
        format!("{:.1} k", value / 1e3)
    } else if size >= 100.0 || value == value.trunc() {
        format!("{value:.0}")
    } else if size >= 1.0 {
        format!("{value:.2}")
    } else {
        format!("{value:.3}")
    }
}

pub(super) fn spread(spread: Spread) -> String {
    format!("{} ({} to {})", number(spread.median), number(spread.least), number(spread.greatest))
}

/// The whole report.
pub(crate) fn table(report: &Report) -> String {
    let mut lines = vec![format!("{}: {}", report.table, report.what), report.machine.line()];
    lines.push(report.source.line());
    lines.extend(report.versions.iter().cloned());
    lines.extend(report.settings.iter().cloned());
    lines.extend(disk_line(report));
    for row in &report.rows {
        lines.push(String::new());
        lines.push(format!("{} {}, {}: {}", row.id, row.what, row.unit, verdict_line(row)));
        let width = row.sides.iter().map(|side| side.name.len()).max().unwrap_or(0);
        lines.extend(row.sides.iter().map(|side| format!("   {:<width$}  {}", side.name, side_line(side))));
    }
    lines.push(String::new());
    lines.extend(report.caveats.iter().map(|caveat| format!("Not said: {caveat}")));
    lines.join("\n")
}

/// `fdatasync` before and after, for reports of the disk.
pub(crate) fn disk_line(report: &Report) -> Option<String> {
    let probe = |probe: &SyncLatency| format!("{} and {} us", number(probe.0.p50), number(probe.0.p99));
    let (before, after) = (report.disk.first().map(probe)?, report.disk.get(1).map(probe));
    let after = after.unwrap_or_else(|| "nothing that could be measured".to_owned());
    Some(format!("fdatasync of 4 KiB, median and 99 %: {before} before, {after} after"))
}

/// Ratios, share of the limit, goal.
fn verdict_line(row: &Row) -> String {
    let mut parts = Vec::new();
    if let Some(ratio) = row.ratio(Role::Beside) {
        parts.push(format!("{}x of the opponent's", spread(ratio)));
    }
    if let Some(cpu) = row.cpu_ratio() {
        parts.push(format!("{}x of its CPU", number(cpu.median)));
    }
    if let Some(share) = row.share_of_limit() {
        parts.push(format!("{} of the limit", number(share)));
    }
    parts.extend(goal(row));
    parts.join("; ")
}

/// The goal and how the row stands beside it.
pub(crate) fn goal(row: &Row) -> Option<String> {
    let said = match row.verdict()? {
        Verdict::Aim if row.goal?.has_aim() => "aim reached",
        Verdict::Aim => "must reached",
        Verdict::Must => "must reached",
        Verdict::Missed => "MUST MISSED",
    };
    let sign = match row.better {
        Better::Higher => ">=",
        Better::Lower => "<=",
    };
    let (must, aim, unit) = match row.goal? {
        Goal::Ratio { must, aim } => (must, aim, "x"),
        Goal::Value { must, aim } => (must, aim, ""),
        Goal::Aim(aim) => return Some(format!("{} (aim {sign} {})", said.replace("MUST", "aim"), number(aim))),
    };
    let aim = if must == aim { String::new() } else { format!(", aim {}{unit}", number(aim)) };
    Some(format!("{said} (must {sign} {}{unit}{aim})", number(must)))
}

fn side_line(side: &Side) -> String {
    let mut parts = Vec::new();
    parts.extend(side.values().map(spread));
    parts.extend(side.median(|trial| trial.cpu_ns).map(|ns| format!("{} CPU-ns", number(ns))));
    parts.extend(side.allocations().map(|count| format!("{} allocations", number(count))));
    parts.extend(latency(side));
    parts.join("  ")
}

/// Medians over the trials of their percentiles.
pub(crate) fn latency(side: &Side) -> Option<String> {
    let p50 = side.median(|trial| Some(trial.latency?.p50))?;
    let p99 = side.median(|trial| Some(trial.latency?.p99))?;
    let p999 = side.median(|trial| Some(trial.latency?.p999))?;
    let most = side.median(|trial| Some(trial.latency?.most))?;
    Some(format!("latency {} / {} / {} / {} us", number(p50), number(p99), number(p999), number(most)))
}

/// The head of the page's table of these rows.
pub(crate) fn markdown_head(rows: &[Row]) -> [String; 2] {
    let mut names = vec!["row", "what", "Quorate", "beside", "ratio (pairs)", "of the limit", "CPU-ns"];
    if counted(rows) {
        names.push("allocations");
    }
    names.extend(["latency, us", "goal"]);
    [format!("| {} |", names.join(" | ")), format!("|{}", "---|".repeat(names.len()))]
}

/// Whether any side of them had its allocations counted.
fn counted(rows: &[Row]) -> bool {
    rows.iter().flat_map(|row| &row.sides).any(|side| side.allocations().is_some())
}

/// The page's lines of these rows.
pub(crate) fn markdown_rows(rows: &[Row]) -> Vec<String> {
    let counted = counted(rows);
    rows.iter().map(|row| markdown_row(row, counted)).collect()
}

fn markdown_row(row: &Row, counted: bool) -> String {
    let value = |role| row.side(role).and_then(|side| side.values().map(|found| (side, found)));
    let cell = |role| value(role).map_or("-".to_owned(), |(side, found)| format!("{} {}", side.name, spread(found)));
    let both =
        |of: fn(&Side) -> Option<f64>| match (row.side(Role::Ours).and_then(of), row.side(Role::Beside).and_then(of)) {
            (Some(ours), Some(theirs)) => format!("{} / {}", number(ours), number(theirs)),
            (Some(ours), None) => number(ours),
            _ => "-".to_owned(),
        };
    let cpu = both(|side| side.median(|trial| trial.cpu_ns));
    let allocations = if counted { format!("{} | ", both(Side::allocations)) } else { String::new() };
    let latency = |role| row.side(role).and_then(latency).map(|text| text.replace("latency ", "").replace(" us", ""));
    let latency = match (latency(Role::Ours), latency(Role::Beside)) {
        (Some(ours), Some(theirs)) => format!("{ours}; beside {theirs}"),
        (Some(ours), None) => ours,
        _ => "-".to_owned(),
    };
    format!(
        "| {} | {}, {} | {} | {} | {} | {} | {cpu} | {allocations}{latency} | {} |",
        row.id,
        row.what,
        row.unit,
        cell(Role::Ours),
        cell(Role::Beside),
        row.ratio(Role::Beside).map_or("-".to_owned(), |ratio| format!("**{}**", spread(ratio))),
        row.share_of_limit().map_or("-".to_owned(), number),
        goal(row).unwrap_or_else(|| "-".to_owned()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::sample;

    #[test]
    fn a_row_says_ratio_limit_and_goal() {
        let text = table(&sample());
        assert!(text.contains("M4 1024 clients, put/s: 4 (3 to 10)x of the opponent's"), "{text}");
        assert!(text.contains("0.500 of the limit; aim reached (must >= 2.50x, aim 4x)"), "{text}");
        assert!(text.contains("Not said: nothing of a network"), "{text}");
    }

    #[test]
    fn allocations_have_a_column_where_they_were_counted() {
        let mut rows = sample().rows;
        assert!(!markdown_head(&rows)[0].contains("allocations"));
        rows[0].sides[0].allocations = Some(0.25);
        rows[0].sides[1].allocations = Some(12.0);
        rows.push(sample().rows.remove(0));
        let (head, lines) = (markdown_head(&rows), markdown_rows(&rows));
        assert!(head[0].contains("| CPU-ns | allocations | latency, us |"), "{head:?}");
        assert!(lines[0].contains(" | 0.250 / 12 | - |") && lines[1].contains(" | - | - |"), "{lines:?}");
        assert!(head.iter().chain(&lines).all(|line| line.matches('|').count() == 11), "{head:?} {lines:?}");
    }

    #[test]
    fn numbers_have_three_digits() {
        let texts = [0.1234, 1.5, 2.0, 123.4, 12345.0, 3_210_000.0].map(number);
        assert_eq!(texts, ["0.123", "1.50", "2", "123", "12.3 k", "3.21 M"]);
    }
}
