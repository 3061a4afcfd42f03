//! What a person reads of the core: ids as logs print them, and refusals of settings, rules and requests by name.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed step fails the test")]

use std::collections::BTreeSet;
use std::time::Duration;

use quorate_core::{
    AppendAnswer, AppendReply, Bug, ClusterId, Config, Incarnation, Instant, LeaderId, LogId, LogIds, Node, NodeId,
    Precondition, Refusal, Round, RuleError, Run, Runs, ServerState, Span, StartId, StreamId, TransferFailure, Vote,
};

#[test]
fn ids_are_printed_as_term_node_and_index() {
    let leader = LeaderId::new(7, 2);
    let end = LogId::new(leader, 40);
    assert_eq!(format!("{leader} {leader:?} {end} {end:?}"), "7-2 7-2 7-2.40 7-2.40");
    let (asked, led) = (Vote { leader_id: leader, committed: false }, Vote::committed(leader));
    assert_eq!(format!("{asked} {asked:?}, {led} {led:?}"), "7-2 7-2?, 7-2 committed 7-2+");
    assert_eq!(ClusterId(0xab).to_string(), format!("{:0>32}", "ab"));
    assert_eq!(Incarnation(0xcd).to_string(), format!("{:0>32}", "cd"));
    assert_eq!(format!("{:?}", Instant::ORIGIN + Duration::from_millis(1500)), "1.5s");
}

#[test]
fn a_log_is_printed_as_its_runs() {
    let (first, second) = (LeaderId::new(1, 1), LeaderId::new(2, 3));
    let runs = [Run { leader_id: first, last: 5 }, Run { leader_id: second, last: 9 }];
    let log = LogIds::new(LogId::new(first, 2), runs);
    assert_eq!(format!("{log:?}"), "(1-1.2)[1-1..5, 2-3..9]");
    let mut list = Runs::default();
    runs.into_iter().for_each(|run| list.push(run));
    assert_eq!(format!("{list:?}"), "[1-1..5, 2-3..9]");
    let span = Span { prev: LogId::new(first, 5), last: LogId::new(second, 9) };
    assert_eq!(format!("{span:?}"), "(1-1.5, 2-3.9]");
}

#[test]
fn states_preconditions_and_planted_bugs_have_words() {
    let states =
        [ServerState::Learner, ServerState::Follower, ServerState::Candidate, ServerState::Leader, ServerState::Halted];
    let states = states.map(|state| state.to_string()).join(" ");
    assert_eq!(states, "learner follower candidate leader halted");
    let at = LogId::new(LeaderId::new(1, 1), 3);
    let asked =
        [Precondition::LeaderId(at.leader_id), Precondition::LastLogId(at), Precondition::LastMembershipLogId(at)];
    let asked = asked.map(|precondition| precondition.to_string()).join(", ");
    assert_eq!(asked, "leader 1-1, last log id 1-1.3, last membership log id 1-1.3");
    let said: BTreeSet<&str> = Bug::ALL.iter().map(|bug| bug.what()).collect();
    assert_eq!(said.len(), Bug::ALL.len(), "each does something wrong, and no two the same");
}

#[test]
fn tunables_that_do_not_go_together_are_refused_by_name() {
    let millis = Duration::from_millis;
    type Spoil = fn(&mut Config);
    let refused: [(Spoil, &str, &str); 7] = [
        (|config| config.election_timeout_max = config.election_timeout_min, "election_timeout_max", "be greater than"),
        (|config| config.heartbeat_interval = Duration::ZERO, "heartbeat_interval", "be greater than zero"),
        (|config| config.heartbeat_interval = Duration::from_millis(151), "heartbeat_interval", "be at most half of"),
        (|config| config.retransmit_timeout = Duration::from_millis(59), "retransmit_timeout", "be at least"),
        (|config| config.max_clock_drift = Duration::from_millis(151), "max_clock_drift", "be at most half of"),
        (|config| config.max_inflight_bytes = 1, "max_inflight_bytes", "be at least max_append_bytes"),
        (|config| config.max_inflight_appends = 0, "max_inflight_appends", "be at least 1"),
    ];
    let sound = Config::new(1, Incarnation(1));
    assert_eq!((sound.check(), sound.election_timeout_min), (Ok(()), millis(300)));
    for (spoil, field, must) in refused {
        let mut config = sound.clone();
        spoil(&mut config);
        let error = config.check().unwrap_err();
        assert_eq!(error.field, field);
        assert!(error.to_string().contains(&format!("`{field}` must {must}")), "{error}");
        assert_eq!((error.is_retryable(), error.outcome_is_unknown()), (false, false));
    }
}

#[test]
fn rules_that_cannot_be_are_refused_in_words() {
    let said = |error: RuleError| error.to_string();
    assert!(said(RuleError::Empty).contains("at least one voter set"));
    assert!(said(RuleError::UnknownNode(NodeId(4))).contains("voter 4 is not a node"));
    assert!(said(RuleError::TooManyVoters(21)).contains("over 21 voters"));
    assert_eq!((RuleError::Empty.is_retryable(), RuleError::Empty.outcome_is_unknown()), (false, false));
}

/// Each names what it is about, and says who should ask again, or what to do.
#[test]
fn refusals_say_what_to_do() {
    let at = |index| LogId::new(LeaderId::new(2, 1), index);
    let (one, two) = (NodeId(1), NodeId(2));
    let lags = |matched| Refusal::NotCaughtUp { node: two, matched, last: at(9) };
    let moved = Refusal::PreconditionFailed {
        expected: Precondition::LastLogId(at(3)),
        actual: Precondition::LastLogId(at(4)),
    };
    let again = [
        (Refusal::NotLeader { leader: Some(two) }, "ask node 2"),
        (Refusal::NotLeader { leader: None }, "no leader is known"),
        (Refusal::Transferring { to: two }, "handed to node 2: ask there"),
        (Refusal::ChangeInProgress { log_id: at(7) }, "at 2-1.7 is not finished: wait"),
        (Refusal::NotYetCommitted, "try again shortly"),
        (Refusal::NotSeenYet(two), "node 2 has not been heard of yet: wait"),
        (lags(LogId::ZERO), "node 2 has acknowledged nothing"),
        (lags(at(5)), "holds the log up to 2-1.5, the log ends at 2-1.9; wait for it"),
        (Refusal::WouldLoseQuorum { silent: vec![one, two] }, "voters 1, 2 are silent; start them"),
        (Refusal::NothingApplied, "nothing was applied yet"),
        (Refusal::SnapshotFailed, "the log says why"),
        (Refusal::SnapshotDeferred, "ask again later"),
    ];
    let final_ones = [
        (Refusal::NoVoters, "no voters"),
        (Refusal::UnknownNode(two), "node 2 is not among the nodes of the cluster"),
        (moved, "last log id 2-1.3 was expected, last log id 2-1.4 is"),
        (Refusal::RuleNeeded { added: vec![one], removed: vec![two] }, "adding {1} and removing {2} needs a new rule"),
        (Refusal::IsVoter(two), "remove it from the voters first"),
        (Refusal::BadRule(RuleError::Empty), "at least one voter set"),
        (Refusal::AlreadyInitialized, "already belongs to a cluster"),
        (Refusal::NotAmongVoters, "not among the voters named"),
        (Refusal::LeaseDisabled, "`LeaseReads`"),
        (Refusal::Halted, "stopped after a failed write"),
    ];
    let cases = again.map(|case| (case, true)).into_iter().chain(final_ones.map(|case| (case, false)));
    for ((refusal, words), retryable) in cases {
        let said = refusal.to_string();
        assert!(said.contains(words), "{said}");
        assert_eq!((refusal.is_retryable(), refusal.outcome_is_unknown()), (retryable, false), "{said}");
        let named = if said.contains("ask node 2") || said.contains("ask there") { Some(two) } else { None };
        assert_eq!(refusal.leader(), named, "{said}");
    }
}

#[test]
fn a_transfer_that_failed_says_who_leads() {
    let two = NodeId(2);
    let cases = [
        (TransferFailure::NoTarget, "no other voter was heard of", true),
        (TransferFailure::NotVoter(two), "node 2 does not vote", false),
        (TransferFailure::TimedOut { to: two }, "node 2 did not take over in time; this node leads on", true),
        (TransferFailure::Aborted { to: two }, "aborted; this node leads on", true),
        (TransferFailure::LeaderChanged { leader: two }, "leader 2 took over", false),
    ];
    for (failure, words, retryable) in cases {
        let refusal = Refusal::NotTransferred(failure);
        assert!(refusal.to_string().contains(words), "{refusal}");
        assert_eq!((failure.is_retryable(), refusal.is_retryable()), (retryable, retryable), "{refusal}");
        assert!(!failure.outcome_is_unknown(), "{refusal}");
    }
}

#[test]
fn an_address_is_a_node_without_labels() {
    let address = String::from("host:1");
    let nodes = [Node::from(&address), Node::from("host:1"), Node::from(address)];
    assert_eq!(nodes, ["host:1"; 3].map(Node::at));
}

/// One message says what two would (law 8), if they are of one stream and nothing goes back.
#[test]
fn a_reply_takes_in_a_later_one_of_its_stream() {
    let leader = LeaderId::new(3, 1);
    let accepted = |index: u64| AppendAnswer::Accepted { matched: LogId::new(leader, index) };
    let reply = |round: u64, index: u64, promised: u64| AppendReply {
        vote: Vote::committed(leader),
        stream: StreamId(1),
        round: Round(round),
        promised: Duration::from_millis(promised),
        lost: None,
        answer: accepted(index),
    };
    let absorbed = |mut first: AppendReply, later: AppendReply| first.absorb(&later).then_some(first);
    assert_eq!(absorbed(reply(1, 5, 30), reply(1, 9, 0)), Some(reply(1, 9, 30)), "one round: its promise holds");
    assert_eq!(absorbed(reply(1, 5, 30), reply(2, 9, 10)), Some(reply(2, 9, 10)), "a promise belongs to its round");
    assert_eq!(absorbed(reply(2, 5, 0), reply(1, 9, 0)), None, "an earlier round");
    assert_eq!(absorbed(reply(1, 9, 0), reply(1, 5, 0)), None, "a match goes back");
    assert_eq!(absorbed(reply(1, 5, 0), AppendReply { stream: StreamId(2), ..reply(1, 9, 0) }), None, "another stream");
    let lost = AppendReply { lost: Some(StartId(1)), ..reply(1, 5, 0) };
    assert_eq!(absorbed(lost, reply(1, 9, 0)), None, "the word of a loss must arrive");
    let refused = AppendReply { answer: AppendAnswer::Refused { seen: Vote::committed(leader) }, ..reply(1, 9, 0) };
    assert_eq!(absorbed(reply(1, 5, 0), refused), None, "not an acceptance");
}
