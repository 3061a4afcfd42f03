//! `docs/benchmarks.md`: what stands between its marks is made of the JSON files beside it, and so is the README's table.

use std::fs;
use std::path::Path;

use super::{Report, readme, svg, text};
use crate::tables;

const BEGIN: &str = "<!-- begin: made by `quorate-bench page` -->";
const END: &str = "<!-- end -->";
/// Below a table about the disk: a log that loses writes may be as fast as it likes.
const CHECKED_ELSEWHERE: &str = "Nothing here says that this commit keeps what it acknowledged: \
    [verification.md](verification.md) lists the process kill test and the simulator's searches, each with its commit.";

/// Makes the page above `directory`, the table of the README above that, if there is one, and a chart beside each file.
pub(crate) fn write(directory: &Path) -> Result<(), String> {
    let page = directory.with_extension("md");
    let reports = read(directory)?;
    for report in &reports {
        let file = directory.join(format!("{}.svg", report.table));
        fs::write(&file, svg::chart(report)).map_err(|error| format!("cannot write {}: {error}", file.display()))?;
    }
    let folder = directory.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    rewrite(&page, &tables_of(&reports, &folder))?;
    println!("{}: {} tables", page.display(), reports.len());
    let readme = directory.join("../../README.md");
    if readme.exists() { rewrite(&readme, &readme::table_of(&reports)) } else { Ok(()) }
}

/// Puts the text between the file's marks.
fn rewrite(file: &Path, text: &str) -> Result<(), String> {
    let old = fs::read_to_string(file).map_err(|error| format!("cannot read {}: {error}", file.display()))?;
    let new = between_marks(&old, text).ok_or_else(|| format!("{} has no marks", file.display()))?;
    fs::write(file, new).map_err(|error| format!("cannot write {}: {error}", file.display()))
}

/// The reports of a directory, in the order of `quorate-bench list`. None if there is no such directory.
fn read(directory: &Path) -> Result<Vec<Report>, String> {
    let mut reports = Vec::new();
    for table in tables::all() {
        let file = directory.join(format!("{}.json", table.id));
        match fs::read_to_string(&file) {
            Ok(json) => reports.push(Report::from_json(&json).map_err(|error| format!("{}: {error}", file.display()))?),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(format!("cannot read {}: {error}", file.display())),
        }
    }
    Ok(reports)
}

fn between_marks(page: &str, text: &str) -> Option<String> {
    let (before, rest) = page.split_once(BEGIN)?;
    let (_old, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n\n{text}\n{END}{after}"))
}

fn tables_of(reports: &[Report], folder: &str) -> String {
    let missing: Vec<&str> = tables::all()
        .iter()
        .map(|table| table.id)
        .filter(|id| !reports.iter().any(|report| report.table == *id))
        .collect();
    let mut parts: Vec<String> = reports.iter().map(|report| section(report, folder)).collect();
    if !missing.is_empty() {
        parts.push(format!("Not measured yet: {}.\n", missing.join(", ")));
    }
    parts.join("\n")
}

fn section(report: &Report, folder: &str) -> String {
    let mut lines = vec![format!("### {}: {}", report.table, report.what), String::new()];
    lines.push(format!("    {}", report.command));
    lines.push(String::new());
    lines.extend(text::markdown_head(&report.rows));
    lines.extend(text::markdown_rows(&report.rows));
    lines.push(String::new());
    lines.push(format!("![{}: {}]({folder}/{}.svg)", report.table, report.what, report.table));
    lines.push(String::new());
    lines.push(format!("- Code: {}.", report.source.line()));
    lines.push(format!("- Machine: {}.", report.machine.line()));
    lines.extend(report.versions.iter().chain(&report.settings).map(|line| format!("- {line}.")));
    if let Some(line) = text::disk_line(report) {
        lines.push(format!("- {line}."));
        lines.push(format!("- {CHECKED_ELSEWHERE}"));
    }
    lines.extend(report.caveats.iter().map(|caveat| format!("- Not said: {caveat}.")));
    lines.push(String::new());
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::sample;

    #[test]
    fn only_what_is_between_the_marks_changes() {
        let page = format!("before\n{BEGIN}\nold\n{END}\nafter\n");
        let text = tables_of(&[sample()], "benchmarks");
        let new = between_marks(&page, &text).unwrap();
        assert!(new.starts_with("before\n") && new.ends_with("\nafter\n") && !new.contains("old"), "{new}");
        assert!(new.contains("| M4 | 1024 clients, put/s | quorate 900 (800 to 1000) |"), "{new}");
        assert!(new.contains("(benchmarks/M4.svg)") && new.contains("Not measured yet: M1"), "{new}");
        assert_eq!(between_marks(&new, &text).as_ref(), Some(&new));
        assert_eq!(between_marks("no marks", &text), None);
    }

    #[test]
    fn the_page_and_the_readme_are_what_their_files_say() {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
        let page = fs::read_to_string(docs.join("benchmarks.md")).unwrap();
        let reports = read(&docs.join("benchmarks")).unwrap();
        assert_eq!(between_marks(&page, &tables_of(&reports, "benchmarks")), Some(page), "run `quorate-bench page`");
        let readme = fs::read_to_string(docs.join("../README.md")).unwrap();
        assert_eq!(between_marks(&readme, &readme::table_of(&reports)), Some(readme), "run `quorate-bench page`");
    }
}
