//! The README's table: of each of these tables the row where Quorate stands worst beside its goal, made of the same files as
//! the page, which has all rows.

use std::collections::BTreeMap;

use super::{Better, Report, Row, text};
use crate::measure::Goal;

/// The tables that the README tells of, in its order.
const TOLD: [&str; 20] = [
    "M1", "M2", "M3", "M4", "M5", "M6", "M7", "M8", "L1", "L2", "D1", "D2", "D3", "D4", "D5", "D6", "R1", "R2", "R4",
    "N2",
];

/// What stands between the README's marks.
pub(crate) fn table_of(reports: &[Report]) -> String {
    let told = |id: &&str| reports.iter().find(|report| report.table == **id);
    let missing: Vec<&str> = TOLD.into_iter().filter(|id| told(id).is_none()).collect();
    let reports: Vec<&Report> = TOLD.iter().filter_map(told).collect();
    let rows: Vec<String> = reports.iter().filter_map(|report| worst(report)).collect();
    let mut lines = Vec::new();
    if !rows.is_empty() {
        lines.push("| row | beside | Quorate's to its (pairs) | goal |".to_owned());
        lines.push("|---|---|---|---|".to_owned());
        lines.extend(rows);
        lines.push(String::new());
        lines.push(format!("Measured {}.", places(&reports).join("; ")));
        lines.push(String::new());
    }
    if !missing.is_empty() {
        lines.push(format!("Not measured yet: {}.", missing.join(", ")));
        lines.push(String::new());
    }
    lines.join("\n")
}

/// Of the rows with a goal the one that stands worst beside it.
fn worst(report: &Report) -> Option<String> {
    let told = report.rows.iter().filter_map(|row| Some((row, standing(row)?)));
    let (row, _) = told.min_by(|(_, left), (_, right)| left.total_cmp(right))?;
    let (name, value) = match (row.goal?, row.side(row.compared_with())) {
        (Goal::Ratio { .. }, Some(side)) => (side.name.as_str(), text::spread(row.measured()?)),
        _ => ("-", format!("{} by itself", text::spread(row.measured()?))),
    };
    Some(format!("| {} {}, {} | {name} | {value} | {} |", row.id, row.what, row.unit, text::goal(row)?))
}

/// What was measured, to what must be; more is better.
fn standing(row: &Row) -> Option<f64> {
    let (measured, must) = match row.goal? {
        Goal::Ratio { must, .. } | Goal::Value { must, .. } | Goal::Aim(must) => (row.measured()?.median, must),
    };
    Some(match row.better {
        Better::Higher => measured / must,
        Better::Lower => must / measured,
    })
}

/// Commits and machines, and which tables are of each if there are several.
fn places(reports: &[&Report]) -> Vec<String> {
    let mut places: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for report in reports {
        let place = format!("on commit {}, {}", report.source.commit, report.machine.line());
        places.entry(place).or_default().push(&report.table);
    }
    let several = places.len() > 1;
    let said = |(place, tables): (String, Vec<&str>)| match several {
        true => format!("{place}: {}", tables.join(", ")),
        false => place,
    };
    places.into_iter().map(said).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::sample;

    #[test]
    fn of_a_table_the_row_is_told_that_stands_worst_beside_its_goal() {
        let mut report = sample();
        report.table = "M5".into();
        let mut alone = report.rows[0].clone();
        alone.sides.remove(1);
        report.rows.push(alone.clone());
        alone.goal = None;
        alone.sides[0].trials.iter_mut().for_each(|trial| trial.value = 1.0);
        report.rows.push(alone);
        let table = table_of(&[report.clone()]);
        let told = "| M4 1024 clients, put/s | echo | 0.500 (0.500 to 0.500) | MUST MISSED (must >= 2.50x, aim 4x) |\n";
        assert!(table.contains(told), "{table}");
        assert_eq!(table.matches("M4 1024").count(), 1, "{table}");
        assert!(
            table.contains("\nMeasured on commit 0123456789ab, 2 cores (a <processor>), Linux a kernel, a disk.\n")
        );
        assert!(table.contains("Not measured yet: M1, M2, M3,"), "{table}");
        // Where less is better, the greatest ratio is the worst.
        report.rows.iter_mut().for_each(|row| row.better = Better::Lower);
        assert!(table_of(&[report]).contains("| openraft | 4 (3 to 10) |"));
    }

    #[test]
    fn a_goal_without_an_opponent_is_told_with_its_value() {
        let mut report = sample();
        report.rows[0].goal = Some(Goal::Value { must: 800.0, aim: 1000.0 });
        let table = table_of(&[report]);
        let told = "| - | 900 (800 to 1000) by itself | must reached (must >= 800, aim 1000) |";
        assert!(table.contains(told), "{table}");
    }

    #[test]
    fn tables_of_several_commits_are_told_apart() {
        let mut reports = [sample(), sample()];
        reports[0].table = "M1".into();
        reports[1].table = "M2".into();
        reports[1].source.commit = "another".into();
        let table = table_of(&reports);
        assert!(table.contains(", a disk: M1; on commit another, ") && table.contains(", a disk: M2."), "{table}");
    }

    #[test]
    fn without_files_nothing_is_claimed() {
        let table = table_of(&[]);
        assert!(table.starts_with("Not measured yet: M1,") && !table.contains('|'), "{table}");
    }
}
