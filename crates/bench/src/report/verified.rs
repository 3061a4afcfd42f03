//! What `docs/verification.md` says of the runs that a durable figure rests on: a log that loses writes may be as fast as
//! it likes.

/// The runs, and the word of their command by which they are told from all others.
const RUNS: [(&str, &str); 2] = [
    ("the simulator's search", " sim --every-fault"),
    ("the process kill test", "etcd-process/run nothing_acknowledged"),
];

/// How the page's line begins.
pub(super) const BEGINS: &str = "- Of keeping what was acknowledged, [verification.md](verification.md) says: ";

/// One of them, as it was made.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Run<'a> {
    code: &'a str,
    minutes: &'a str,
    ended: &'a str,
}

/// The page's line for figures of this commit. `page` is the page of verification.
pub(super) fn line(page: &str, commit: &str) -> String {
    let said = RUNS.map(|(what, word)| match find(page, word, commit) {
        Some(run) => format!("{what} {}", told(&run, commit)),
        None => format!("{what} was not run"),
    });
    format!("{BEGINS}{}.", said.join("; "))
}

/// A row of its table `| run | code | minutes | ended |`: of several the one of this commit, else the first; `None` if
/// there is none, or it says that it was not run.
fn find<'a>(page: &'a str, word: &str, commit: &str) -> Option<Run<'a>> {
    let read = |row: &'a str| {
        let mut cells = row.split('|').map(str::trim).skip(2);
        let (code, minutes, ended) = (cells.next()?.trim_matches('`'), cells.next()?, cells.next()?);
        (!code.is_empty()).then_some(Run { code, minutes, ended })
    };
    let rows = page.lines().filter(|line| line.starts_with("| `") && line.contains(word));
    let runs: Vec<Run<'a>> = rows.filter_map(read).collect();
    runs.iter().find(|run| run.code == commit).or(runs.first()).cloned()
}

fn told(run: &Run<'_>, commit: &str) -> String {
    let Run { code, minutes, ended } = run;
    let ended = if *ended == "well" { "ended well" } else { "FAILED" };
    // Changes on top of a commit may be any changes.
    let of = match *code == commit && !code.contains(' ') {
        true => "of this commit".to_owned(),
        false => format!("of {code}, not of this commit,"),
    };
    format!("{of} {ended} ({minutes} minutes)")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "\
| run | code | minutes, with building | ended |
|---|---|---|---|
| `cargo run --bin quorate -- sim --every-fault --budget 1h` | `0123456789ab` | 60.1 | well |
| `cargo run --bin quorate -- sim --matrix` | `0123456789ab` | 1.5 | FAILED |
| `QUORATE_OPERATIONS=1000000 tests/etcd-process/run nothing_acknowledged` | | | NOT RUN |
";

    #[test]
    fn runs_count_for_the_commit_they_were_made_of() {
        let this = line(PAGE, "0123456789ab");
        assert!(this.contains("search of this commit ended well (60.1 minutes); the process kill test was not run."));
        let other = line(PAGE, "aaaaaaaaaaaa");
        assert!(other.contains("search of 0123456789ab, not of this commit, ended well"), "{other}");
        let failed = line(&PAGE.replace("well", "FAILED"), "0123456789ab");
        assert!(failed.contains("of this commit FAILED"), "{failed}");
    }

    #[test]
    fn of_several_searches_that_of_this_commit_counts() {
        let row = "| `cargo run --bin quorate -- sim --every-fault --seeds 8000` | `bbbbbbbbbbbb` | 6.0 | well |\n";
        let page = format!("{PAGE}{row}");
        assert!(line(&page, "bbbbbbbbbbbb").contains("search of this commit ended well (6.0 minutes)"));
        assert!(line(&page, "0123456789ab").contains("search of this commit ended well (60.1 minutes)"));
        assert!(line(&page, "cccccccccccc").contains("search of 0123456789ab, not of this commit, ended well"));
        assert!(line(&page.replace("6.0 | well", "6.0 | FAILED"), "bbbbbbbbbbbb").contains("of this commit FAILED"));
    }

    #[test]
    fn changes_on_top_of_a_commit_are_not_that_commit() {
        let page = PAGE.replace("0123456789ab", "0123456789ab and changes on top");
        assert!(line(&page, "0123456789ab and changes on top").contains("not of this commit"));
        assert!(line("", "0123456789ab").ends_with("search was not run; the process kill test was not run."));
    }
}
