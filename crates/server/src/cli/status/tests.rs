//! Reports for clusters in every state.

use super::*;

fn member(id: u64, port: u16) -> Member {
    Member {
        id,
        name: format!("n{id}"),
        peer_urls: vec![],
        client_urls: vec![format!("http://h:{port}")],
        is_learner: false,
    }
}

fn said(id: u64, leader: u64, term: u64, applied: u64) -> Result<Said, String> {
    let errors = if leader == 0 { vec!["etcdserver: no leader".to_owned()] } else { vec![] };
    let status = StatusResponse {
        header: Some(ResponseHeader { cluster_id: 7, member_id: id, revision: 1, raft_term: term }),
        leader,
        raft_term: term,
        raft_index: applied,
        raft_applied_index: applied,
        db_size: 2048,
        errors,
        ..Default::default()
    };
    Ok(Said { status, members: (1..=3).map(|id| member(id, id as u16)).collect() })
}

fn report(results: Vec<Result<Said, String>>) -> Report {
    let answers = results.into_iter().zip(1..).map(|(result, port)| {
        let address = Address { host: "h".to_owned(), port };
        Answer { address, result }
    });
    Report::of(&answers.collect::<Vec<_>>())
}

#[test]
fn a_healthy_cluster_is_called_so() {
    let report = report(vec![said(1, 2, 5, 90), said(2, 2, 5, 100), said(3, 2, 5, 100)]);
    assert!(report.healthy, "{}", report.text);
    assert!(report.text.contains("leader: n2 in term 5"), "{}", report.text);
    assert!(report.text.lines().any(|line| line.starts_with("h:1 ") && line.contains("  10  ")), "{}", report.text);
    assert!(report.text.ends_with("healthy\n"));
}

#[test]
fn an_endpoint_that_does_not_answer_is_named_with_what_to_do() {
    let report = report(vec![said(1, 2, 5, 100), said(2, 2, 5, 100), Err("connection refused".into())]);
    assert!(!report.healthy);
    assert!(report.text.contains("problem: h:3 does not answer: connection refused"), "{}", report.text);
    assert!(report.text.contains("next: start the node at h:3"), "{}", report.text);
}

#[test]
fn without_a_leader_it_says_how_many_are_missing() {
    let refused = || Err("connection refused".to_owned());
    let report = report(vec![said(1, 0, 9, 100), refused(), refused()]);
    assert!(!report.healthy);
    assert!(report.text.contains("leader: none"), "{}", report.text);
    assert!(report.text.contains("nobody leads: 1 of 3 voters answered here, 2 are needed"), "{}", report.text);
}

#[test]
fn a_leader_of_an_older_term_does_not_count() {
    let report = report(vec![said(1, 1, 4, 100), said(2, 3, 5, 100), said(3, 3, 5, 100)]);
    assert!(report.text.contains("leader: n3 in term 5"), "{}", report.text);
}

#[test]
fn two_leaders_of_a_term_are_a_disagreement() {
    let report = report(vec![said(1, 1, 5, 100), said(2, 3, 5, 100), said(3, 3, 5, 100)]);
    assert!(!report.healthy);
    assert!(report.text.contains("nodes disagree on who leads in term 5"), "{}", report.text);
}

#[test]
fn a_node_far_behind_is_a_problem() {
    let report = report(vec![said(1, 2, 5, 1), said(2, 2, 5, 5000), said(3, 2, 5, 5000)]);
    assert!(!report.healthy);
    assert!(report.text.contains("h:1 is 4999 entries behind"), "{}", report.text);
}

#[test]
fn members_that_were_not_asked_are_offered() {
    let report = report(vec![said(1, 0, 5, 100)]);
    assert!(report.text.contains("quorate status --endpoints=h:1,h:2,h:3"), "{}", report.text);
}

#[test]
fn nothing_at_all_answers() {
    let report = report(vec![Err("connection refused".into())]);
    assert!(!report.healthy);
    assert!(report.text.contains("leader: none"), "{}", report.text);
}

#[test]
fn endpoints_are_read_with_or_without_a_scheme() {
    let parsed = parse(&["a:1".into(), " http://b:2".into()]).unwrap();
    assert_eq!(parsed.iter().map(Address::to_string).collect::<Vec<_>>(), ["a:1", "b:2"]);
    assert!(parse(&["https://b:2".into()]).unwrap_err().to_string().contains("--endpoints"));
    assert!(parse(&["b".into()]).unwrap_err().to_string().contains("no port"));
}
