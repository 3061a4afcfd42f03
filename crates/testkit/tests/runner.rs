//! The script runner must fail when a script is wrong: a test that cannot fail proves nothing.

use quorate_testkit::script::{Mode, Report, play, run_file};

/// A script with its recorded output, as the runner itself writes it.
fn recorded(text: &str) -> String {
    play("recorded", text).text
}

fn failures(report: &Report) -> String {
    report.failures.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

fn changes(report: &Report) -> String {
    report.changes.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

const GOOD: &str = "# Claim: a single voter leads by itself.\n\ncluster 1\ntimeout 1\nexpect leader 1 as 1-1\n";

#[test]
fn a_recorded_script_passes_and_stays_as_it_is() {
    let text = recorded(GOOD);
    assert!(text.contains("\n  1 becomes leader 1-1\n"), "output is recorded under its command:\n{text}");
    let report = play("good", &text);
    assert_eq!(failures(&report), "");
    assert_eq!(changes(&report), "");
    assert_eq!(report.text, text);
}

#[test]
fn a_wrong_expectation_fails_with_its_line_and_what_is() {
    let report = play("wrong", &recorded(&GOOD.replace("leader 1 as 1-1", "commit 1 = 7")));
    let told = failures(&report);
    assert!(told.starts_with("wrong:"), "the file is named: {told}");
    assert!(told.contains("`expect commit 1 = 7`\ncommit of node 1 is `2`"), "{told}");
}

#[test]
fn every_kind_of_expectation_can_fail() {
    let wrong = [
        "no leader",
        "leader 2",
        "leader 1 as 2-1",
        "leaders =",
        "down 1",
        "role 1 = follower",
        "vote 1 = 1-1",
        "durable-vote 1 = 2-1",
        "durable 1 = 1-1.3",
        "snapshot 1 = 1-1.2",
        "applied 1 = a",
        "log 1 = .",
        "terms 1 = 1 1",
        "following 1 = nobody",
        "last 1 = 0",
        "applied-index 1 = 1",
        "purged 1 = 1-1.2",
        "members 1 = {1,2}",
        "membership-at 1 = 1-1.2",
        "note 1 becomes leader 2-1",
        "not note 1 becomes leader",
        "never note 1 becomes leader",
        "ever note 1 halts",
        "write 1 truncate",
        "sent 1->2 Append",
        "ever sent 1->* Append",
        "waiting 1->* Append",
        "reply r1 = proposed",
        "same logs",
        "progress 1->2 = probe 0",
        "nonsense 1 = 2",
        "role 9 = leader",
        "role 1 leader",
    ];
    for expect in wrong {
        let report = play("wrong", &GOOD.replace("leader 1 as 1-1", expect));
        assert_eq!(report.failures.len(), 1, "`expect {expect}` passes");
    }
}

#[test]
fn a_script_without_a_claim_fails() {
    for text in [GOOD.replace("# Claim: ", "# "), GOOD.replace(" a single voter leads by itself.", " it works.")] {
        assert!(failures(&play("no-claim", &text)).contains("starts with a line `# Claim: ...`"), "{text}");
    }
}

#[test]
fn a_script_without_expectations_fails() {
    let report = play("no-expect", &GOOD.replace("expect leader 1 as 1-1\n", ""));
    assert!(failures(&report).contains("no `expect` line"));
}

#[test]
fn changed_output_fails_with_a_difference() {
    let text = recorded(GOOD).replace("  1 becomes leader 1-1", "  1 becomes leader 7-1");
    let told = changes(&play("changed", &text));
    assert!(told.contains("`timeout 1`"), "the command is named: {told}");
    assert!(told.contains("  - 1 becomes leader 7-1\n  + 1 becomes leader 1-1"), "{told}");
}

#[test]
fn missing_and_superfluous_output_fail() {
    let text = recorded(GOOD);
    let missing = text.replace("  1 becomes leader 1-1\n", "");
    assert!(changes(&play("missing", &missing)).contains("+ 1 becomes leader 1-1"));
    let superfluous = text.replace("expect leader 1 as 1-1\n", "expect leader 1 as 1-1\n  1 becomes leader 1-1\n");
    assert!(changes(&play("superfluous", &superfluous)).contains("remove the indented lines"));
}

#[test]
fn wrong_commands_fail_and_name_themselves() {
    for (command, told) in [
        ("clusters 3", "there is no command"),
        ("propose 7 a", "there is no node 7"),
        ("deliver 1->2", "no such message waits"),
        ("timeout", "the command lacks a node"),
        ("crash 1 now", "`now` is not a node"),
        ("cluster 2", "one cluster"),
        ("persist 1", "no write waiting"),
        ("restart 1 soon", "`soon` is not understood"),
    ] {
        let report = play("command", &GOOD.replace("timeout 1\n", &format!("{command}\n")));
        assert!(failures(&report).contains(told), "`{command}`: {}", failures(&report));
    }
}

#[test]
fn a_broken_safety_property_fails_without_an_expectation() {
    // A lie that no core can see through: node 2 acknowledges what it never stored.
    let text = "# Claim: the runner sees a commit that no quorum has on disk.\n\
                cluster 3\nelect 1 real\nstabilize\ncut 2 3\npropose 1 a\n\
                inject 2->1 append-reply 1-1 stream 1 round 1 matched 1-1.3\nexpect commit 1 = 2\n";
    assert!(failures(&play("lie", text)).contains("without a commit quorum that has it on disk"));
    // Two disks that contradict log matching.
    let text = "# Claim: the runner sees two entries under one log id.\n\
                cluster 2 stopped\ndisk 1 vote 1-1 log 1-1.2=a\ndisk 2 vote 1-1 log 1-1.2=b\n\
                restart 1,2\nexpect no leader\n";
    assert!(failures(&play("logs", text)).contains("log matching: 1-1.2 is b here and a elsewhere"));
}

#[test]
fn rewriting_keeps_prose_commands_and_expectations() {
    let stale = recorded(GOOD).replace("  1 becomes leader 1-1", "  1 becomes leader 7-1");
    let path = std::env::temp_dir().join(format!("quorate-script-{}.txt", std::process::id()));
    std::fs::write(&path, &stale).unwrap();
    let refused = run_file(&path, "stale", Mode::Check);
    assert!(refused.unwrap_err().to_string().contains("+ 1 becomes leader 1-1"));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), stale, "checking writes nothing");
    run_file(&path, "stale", Mode::Rewrite).unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), recorded(GOOD));

    let wrong = recorded(GOOD).replace("leader 1 as 1-1", "leader 1 as 2-1");
    std::fs::write(&path, &wrong).unwrap();
    run_file(&path, "wrong", Mode::Rewrite).unwrap_err();
    let kept = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert!(kept.contains("expect leader 1 as 2-1"), "rewriting never touches an expectation");
}

#[test]
fn ci_refuses_to_rewrite() {
    assert_eq!(Mode::from_env(None, Some("true")), Ok(Mode::Check));
    assert_eq!(Mode::from_env(Some("1"), None), Ok(Mode::Rewrite));
    assert_eq!(Mode::from_env(Some("0"), Some("true")), Ok(Mode::Check));
    assert!(Mode::from_env(Some("1"), Some("true")).is_err());
}

#[test]
fn a_script_plays_the_same_way_twice() {
    let text =
        "# Claim: the same script does the same thing twice.\ncluster 5\nrun 3000\nexpect note * becomes leader\n";
    assert_eq!(recorded(text), recorded(text));
}
