//! The README's table: how the rows that were measured for a goal stand beside others, made of the same files as the page,
//! which also says what the goal was.

use super::{Better, Report, Role, Row, text};

/// The tables that the README tells of, in its order.
const TOLD: [&str; 12] = ["M1", "M2", "M4", "M5", "M6", "D1", "D2", "D3", "D4", "D5", "R1", "R4"];

/// What stands between the README's marks.
pub(crate) fn table_of(reports: &[Report]) -> String {
    let told = |id: &&str| reports.iter().find(|report| report.table == **id);
    let missing: Vec<&str> = TOLD.into_iter().filter(|id| told(id).is_none()).collect();
    let rows: Vec<String> = TOLD.iter().filter_map(told).flat_map(|report| &report.rows).filter_map(line).collect();
    let mut lines = Vec::new();
    if !rows.is_empty() {
        lines.push("| row | beside | Quorate's to its (pairs) | better is |".to_owned());
        lines.push("|---|---|---|---|".to_owned());
        lines.extend(rows);
        lines.push(String::new());
    }
    if !missing.is_empty() {
        lines.push(format!("Not measured yet: {}.", missing.join(", ")));
        lines.push(String::new());
    }
    lines.join("\n")
}

/// `None` of a row without a goal.
fn line(row: &Row) -> Option<String> {
    row.goal?;
    let role = if row.side(Role::Beside).is_some() { Role::Beside } else { Role::Limit };
    let better = match row.better {
        Better::Higher => "more",
        Better::Lower => "less",
    };
    let (name, ratio) = (&row.side(role)?.name, text::spread(row.ratio(role)?));
    Some(format!("| {} {}, {} | {name} | {ratio} | {better} |", row.id, row.what, row.unit))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::sample;

    #[test]
    fn rows_with_a_goal_are_told_with_whom_they_stand_beside() {
        let mut report = sample();
        let mut alone = report.rows[0].clone();
        alone.sides.remove(1);
        alone.goal = None;
        report.rows.push(alone.clone());
        alone.goal = report.rows[0].goal;
        alone.better = Better::Lower;
        report.rows.push(alone);
        let table = table_of(&[report]);
        assert!(table.contains("| M4 1024 clients, put/s | openraft | 4 (3 to 10) | more |\n"), "{table}");
        assert!(table.contains("| echo | 0.500 (0.500 to 0.500) | less |"), "{table}");
        assert_eq!(table.matches("M4 1024").count(), 2, "{table}");
        assert!(table.contains("Not measured yet: M1, M2, M5,"), "{table}");
    }

    #[test]
    fn without_files_nothing_is_claimed() {
        let table = table_of(&[]);
        assert!(table.starts_with("Not measured yet: M1,") && !table.contains('|'), "{table}");
    }
}
