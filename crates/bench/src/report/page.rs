//! `docs/benchmarks.md`: what stands between its marks is made of the JSON files beside it, and so is the README's table.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::{Report, readme, svg, text, verified};
use crate::tables;

const BEGIN: &str = "<!-- begin: made by `quorate-bench page` -->";
const END: &str = "<!-- end -->";

/// What the page is made of, beside the reports.
#[derive(Default)]
struct Sources {
    /// The directory of the files, as the page names it.
    folder: String,
    /// The page of verification.
    verification: String,
    /// What people wrote about a table, by its name.
    notes: BTreeMap<String, String>,
}

impl Sources {
    fn read(directory: &Path) -> Result<Self, String> {
        let folder = directory.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        let verification = read_if_there(&directory.with_file_name("verification.md"))?.unwrap_or_default();
        let mut notes = BTreeMap::new();
        for table in tables::all() {
            if let Some(note) = read_if_there(&directory.join(format!("{}.md", table.id)))? {
                notes.insert(table.id.to_owned(), note);
            }
        }
        Ok(Self { folder, verification, notes })
    }
}

fn read_if_there(file: &Path) -> Result<Option<String>, String> {
    match fs::read_to_string(file) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("cannot read {}: {error}", file.display())),
    }
}

/// Makes the page above `directory`, the table of the README above that, if there is one, and a chart beside each file.
pub(crate) fn write(directory: &Path) -> Result<(), String> {
    let page = directory.with_extension("md");
    let reports = read(directory)?;
    for report in &reports {
        let file = directory.join(format!("{}.svg", report.table));
        fs::write(&file, svg::chart(report)).map_err(|error| format!("cannot write {}: {error}", file.display()))?;
    }
    rewrite(&page, &tables_of(&reports, &Sources::read(directory)?))?;
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
        if let Some(json) = read_if_there(&file)? {
            reports.push(Report::from_json(&json).map_err(|error| format!("{}: {error}", file.display()))?);
        }
    }
    Ok(reports)
}

fn between_marks(page: &str, text: &str) -> Option<String> {
    let (before, rest) = page.split_once(BEGIN)?;
    let (_old, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n\n{text}\n{END}{after}"))
}

fn tables_of(reports: &[Report], sources: &Sources) -> String {
    let missing: Vec<&str> = tables::all()
        .iter()
        .map(|table| table.id)
        .filter(|id| !reports.iter().any(|report| report.table == *id))
        .collect();
    let mut parts: Vec<String> = reports.iter().map(|report| section(report, sources)).collect();
    if !missing.is_empty() {
        parts.push(format!("Not measured yet: {}.\n", missing.join(", ")));
    }
    parts.join("\n")
}

fn section(report: &Report, sources: &Sources) -> String {
    let folder = &sources.folder;
    let mut lines = vec![format!("### {}: {}", report.table, report.what), String::new()];
    lines.push(format!("    {}", report.command));
    lines.push(String::new());
    lines.extend(text::markdown_head(&report.rows));
    lines.extend(text::markdown_rows(&report.rows));
    lines.push(String::new());
    lines.push(format!("![{}: {}]({folder}/{}.svg)", report.table, report.what, report.table));
    lines.push(String::new());
    if let Some(note) = sources.notes.get(&report.table) {
        lines.extend([note.trim().to_owned(), String::new()]);
    }
    lines.push(format!("- Code: {}.", report.source.line()));
    lines.push(format!("- Machine: {}.", report.machine.line()));
    lines.extend(report.versions.iter().chain(&report.settings).map(|line| format!("- {line}.")));
    lines.extend(text::disk_line(report).map(|line| format!("- {line}.")));
    if tables::all().iter().any(|table| table.id == report.table && table.durable) {
        lines.push(verified::line(&sources.verification, &report.source.commit));
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
        let text = tables_of(&[sample()], &Sources { folder: "benchmarks".into(), ..Sources::default() });
        let new = between_marks(&page, &text).unwrap();
        assert!(new.starts_with("before\n") && new.ends_with("\nafter\n") && !new.contains("old"), "{new}");
        assert!(new.contains("| M4 | 1024 clients, put/s | quorate 900 (800 to 1000) |"), "{new}");
        assert!(new.contains("(benchmarks/M4.svg)") && new.contains("Not measured yet: M1"), "{new}");
        assert_eq!(between_marks(&new, &text).as_ref(), Some(&new));
        assert_eq!(between_marks("no marks", &text), None);
    }

    #[test]
    fn a_note_stands_below_the_chart_and_what_is_durable_is_held_to_its_checks() {
        let mut report = sample();
        let notes = BTreeMap::from([("M4".to_owned(), "It bends there because.\n".to_owned())]);
        let sources = Sources { notes, ..Sources::default() };
        let text = section(&report, &sources);
        assert!(text.contains("M4.svg)\n\nIt bends there because.\n\n- Code: "), "{text}");
        assert!(!text.contains(verified::BEGINS), "{text}");
        // Also if the disk could not be looked at a second time.
        report.table = "D1".into();
        let text = section(&report, &sources);
        assert!(text.contains(verified::BEGINS) && !text.contains("It bends"), "{text}");
    }

    /// What the page of verification says changes with every run of it: then this test makes the page anew.
    #[test]
    fn the_page_and_the_readme_are_what_their_files_say() {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
        let page = fs::read_to_string(docs.join("benchmarks.md")).unwrap();
        let reports = read(&docs.join("benchmarks")).unwrap();
        let sources = Sources::read(&docs.join("benchmarks")).unwrap();
        let made = between_marks(&page, &tables_of(&reports, &sources)).unwrap();
        let own = |page: &str| -> Vec<String> {
            page.lines().filter(|line| !line.starts_with(verified::BEGINS)).map(str::to_owned).collect()
        };
        assert!(own(&made) == own(&page), "run `quorate-bench page`");
        if made != page {
            fs::write(docs.join("benchmarks.md"), made).unwrap();
        }
        let readme = fs::read_to_string(docs.join("../README.md")).unwrap();
        assert_eq!(between_marks(&readme, &readme::table_of(&reports)), Some(readme), "run `quorate-bench page`");
    }
}
