//! Every note of the core as the event that the list promises; and the list against the source.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod capture;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use quorate_core::{
    Campaign, GroupId, Incarnation, LeaderId, LogId, NodeId, Note, PeerState, Phase, StepDown, Vote, VoteAnswer,
    VoteReply,
};

use self::capture::{Capture, Seen, listed};
use crate::driver::{denied, refused, trace};

fn seen_in(say: impl FnOnce(NodeId, GroupId)) -> Vec<Seen> {
    let capture = Capture::default();
    tracing::subscriber::with_default(capture.clone(), || say(NodeId(7), GroupId(3)));
    capture.names();
    capture.take()
}

fn expect(seen: &[Seen], name: &str, values: &[(&str, &str)]) {
    let [one] = seen else { panic!("{name}: {seen:?}") };
    assert_eq!(one.name, name);
    let of = |field: &str| one.values.get(field).map(String::as_str);
    assert_eq!((of("node"), of("group")), (Some("7"), Some("3")), "{name}");
    for (field, value) in values {
        assert_eq!(of(field), Some(*value), "{name}");
    }
}

#[test]
fn every_note_is_an_event_of_its_own_name_with_the_fields_of_the_list() {
    let leader = LeaderId { term: 4, node_id: NodeId(2) };
    let (vote, log_id) = (Vote { leader_id: leader, committed: false }, LogId::new(leader, 9));
    let (peer, disk, phase) = (NodeId(2), Incarnation(1), Phase::Pre);
    let state = |state| Note::PeerState { peer, state };
    type Values = &'static [(&'static str, &'static str)];
    let notes: [(Note, &str, Values); 22] = [
        (Note::Campaigning { phase, vote }, "campaign_started", &[("phase", "Pre"), ("vote", "4-2")]),
        (Note::BecameLeader(leader), "leader_elected", &[("leader_id", "4-2")]),
        (
            Note::SteppedDown { leader_id: leader, reason: StepDown::NoQuorum },
            "leader_stepped_down",
            &[("leader_id", "4-2"), ("reason", "NoQuorum")],
        ),
        (Note::Following(leader), "leader_followed", &[("leader_id", "4-2")]),
        (Note::Granted { phase, vote }, "vote_granted", &[("phase", "Pre"), ("vote", "4-2")]),
        (state(PeerState::Probe), "peer_state", &[("peer", "2"), ("state", "Probe")]),
        (state(PeerState::Replicate), "peer_state", &[("peer", "2"), ("state", "Replicate")]),
        (state(PeerState::Snapshot), "peer_needs_snapshot", &[("peer", "2")]),
        (Note::Truncated { after: log_id }, "log_truncated", &[("after", "4-2.9")]),
        (Note::MembershipInForce(log_id), "membership_in_force", &[("log_id", "4-2.9")]),
        (Note::OtherIncarnation { peer, seen: disk }, "peer_has_other_disk", &[("peer", "2")]),
        (Note::LostLog { named: disk }, "log_lost", &[]),
        (Note::Rejoining { named: disk }, "rejoining", &[]),
        (Note::OlderCopy { peer, held: log_id }, "peer_is_older_copy", &[("peer", "2"), ("held", "4-2.9")]),
        (Note::PeerLostEntries { peer, hint: log_id }, "peer_lost_entries", &[("peer", "2"), ("hint", "4-2.9")]),
        (Note::Repaired { promised_end: log_id }, "log_repaired", &[("promised_end", "4-2.9")]),
        (Note::Impossible { from: peer, what: "why" }, "impossible_message", &[("peer", "2"), ("what", "\"why\"")]),
        (Note::BoundByLease, "campaign_held_back", &[]),
        (Note::ClockJumped, "clock_jumped", &[]),
        (Note::SnapshotInstalled(log_id), "snapshot_installed", &[("last", "4-2.9")]),
        (Note::Halted, "write_failed", &[]),
        (Note::Campaigning { phase: Phase::Real, vote }, "campaign_started", &[("phase", "Real")]),
    ];
    for (note, name, values) in notes {
        expect(&seen_in(|node, group| trace(node, group, &note)), name, values);
    }
}

#[test]
fn a_vote_that_is_not_given_says_why_on_both_sides() {
    let vote = Vote { leader_id: LeaderId { term: 4, node_id: NodeId(2) }, committed: false };
    let reply = |answer| VoteReply { phase: Phase::Real, campaign: Campaign(1), requested: vote, answer };
    let why = |why| [("phase", "Real"), ("vote", "4-2"), ("peer", "2"), ("why", why)];
    let alive = reply(VoteAnswer::LeaderAlive);
    expect(&seen_in(|node, group| refused(node, group, NodeId(2), &alive)), "vote_refused", &why("LeaderAlive"));
    expect(&seen_in(|node, group| denied(node, group, NodeId(2), &alive)), "vote_denied", &why("LeaderAlive"));
    let granted = reply(VoteAnswer::Granted);
    assert!(seen_in(|node, group| refused(node, group, NodeId(2), &granted)).is_empty(), "a grant is told by its note");
    assert!(seen_in(|node, group| denied(node, group, NodeId(2), &granted)).is_empty());
}

#[test]
fn the_list_holds_what_the_source_says_and_nothing_else() {
    let mut said = BTreeSet::new();
    for folder in ["src", "../net/src"] {
        collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder), &mut said);
    }
    assert_eq!(said, listed().into_keys().collect());
}

/// Names of events (`name: "..."`) and spans (the text after the target of a `_span!`) in a folder.
fn collect(folder: &Path, said: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            if path.file_name().is_some_and(|name| name != "tests") {
                collect(&path, said);
            }
            continue;
        }
        if path.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        let source = fs::read_to_string(&path).unwrap();
        let quoted = |after: &str| after.split('"').nth(1).unwrap().to_owned();
        // Every event has a name: none falls back to its place in the source.
        let places = source.matches("tracing::").count() - source.matches("use tracing::").count();
        let spans: Vec<&str> = source.split("_span!(").skip(1).collect();
        let names: Vec<&str> = source.split("name: \"").skip(1).collect();
        if !path.ends_with("driver/note.rs") {
            assert_eq!(places, spans.len() + names.len(), "{}", path.display());
        }
        said.extend(spans.into_iter().map(quoted));
        said.extend(names.into_iter().map(|name| name.split('"').next().unwrap().to_owned()));
    }
}
