//! What is searched: a small cluster, and how often each thing may happen in it.

use std::collections::BTreeSet;

use quorate_core::{ChangeMembers, LeaderIdMode, NodeId, Toggle};

/// When writes become durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Disk {
    /// At once: fewer states, and longer schedules.
    Quick,
    /// At any time, in their order; a crash loses the rest.
    AnyTime,
}

/// What a link from one node to another does with messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Links {
    /// It delivers them in any order.
    AnyOrder,
    /// It delivers them in order, and loses any: far fewer states, and longer schedules.
    InOrder,
}

/// What is known of the entry that damage takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loss {
    /// Something after the damage names it.
    Named,
    /// Nothing does: it may have been any that the leader of the node's vote could send.
    Unnamed,
}

/// How a search begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Beginning {
    /// Nobody leads; every log holds the first membership.
    NoLeader,
    /// Node 1 was elected in term 1 and everybody knows all of it.
    Led,
}

/// The bounds of a search. Every message may be delayed for ever, which is what losing it means.
#[derive(Clone, Debug)]
pub(crate) struct Scope {
    pub(crate) name: &'static str,
    pub(crate) mode: LeaderIdMode,
    pub(crate) pre_vote: Toggle,
    pub(crate) check_quorum: Toggle,
    pub(crate) disk: Disk,
    pub(crate) links: Links,
    pub(crate) begins: Beginning,
    pub(crate) voters: &'static [u64],
    pub(crate) learners: &'static [u64],
    pub(crate) max_term: u64,
    /// Election time-outs.
    pub(crate) campaigns: u8,
    pub(crate) proposals: u8,
    pub(crate) crashes: u8,
    /// Crashes after which the last entry of the log is damaged. More than one could take the last copy of an entry.
    pub(crate) damages: u8,
    pub(crate) loss: Loss,
    pub(crate) duplicates: u8,
    /// Sends that the sender is told are lost.
    pub(crate) lost_sends: u8,
    /// Time-outs of a leader: heartbeats, retransmissions, a lapsed quorum.
    pub(crate) beats: u8,
    /// The voters of a change that may be asked for once.
    pub(crate) change: Option<&'static [u64]>,
    /// Messages under way at once.
    pub(crate) messages: usize,
}

impl Scope {
    const BASE: Scope = Scope {
        name: "",
        mode: LeaderIdMode::Advanced,
        pre_vote: Toggle::Off,
        check_quorum: Toggle::Off,
        disk: Disk::Quick,
        links: Links::InOrder,
        begins: Beginning::NoLeader,
        voters: &[1, 2, 3],
        learners: &[],
        max_term: 3,
        campaigns: 3,
        proposals: 0,
        crashes: 0,
        damages: 0,
        loss: Loss::Named,
        duplicates: 0,
        lost_sends: 0,
        beats: 0,
        change: None,
        messages: 10,
    };

    /// Every scope, by name.
    pub(crate) fn all() -> Vec<Scope> {
        [Scope::of_elections(), Scope::of_logs(), Scope::of_damage(), Scope::of_memberships()].concat()
    }

    /// Campaigns, and little else.
    fn of_elections() -> Vec<Scope> {
        vec![
            Scope { name: "two-campaigns", max_term: 2, campaigns: 2, messages: 6, ..Scope::BASE },
            Scope {
                name: "elections",
                disk: Disk::AnyTime,
                links: Links::AnyOrder,
                max_term: 2,
                campaigns: 2,
                crashes: 1,
                duplicates: 1,
                ..Scope::BASE
            },
            Scope {
                name: "standard",
                mode: LeaderIdMode::Standard,
                disk: Disk::AnyTime,
                max_term: 2,
                campaigns: 3,
                crashes: 1,
                ..Scope::BASE
            },
            Scope {
                name: "pre-vote",
                pre_vote: Toggle::On,
                check_quorum: Toggle::On,
                begins: Beginning::Led,
                campaigns: 2,
                beats: 1,
                crashes: 1,
                ..Scope::BASE
            },
        ]
    }

    /// What leaders append, and what becomes of it.
    fn of_logs() -> Vec<Scope> {
        vec![
            Scope {
                name: "one-leader",
                begins: Beginning::Led,
                campaigns: 0,
                proposals: 2,
                messages: 6,
                ..Scope::BASE
            },
            Scope { name: "figure-3-7", begins: Beginning::Led, proposals: 1, beats: 1, ..Scope::BASE },
            Scope {
                name: "replication",
                disk: Disk::AnyTime,
                begins: Beginning::Led,
                max_term: 2,
                campaigns: 1,
                proposals: 2,
                crashes: 1,
                duplicates: 1,
                lost_sends: 1,
                ..Scope::BASE
            },
            Scope {
                name: "reordered",
                links: Links::AnyOrder,
                begins: Beginning::Led,
                max_term: 1,
                campaigns: 0,
                proposals: 2,
                beats: 1,
                ..Scope::BASE
            },
        ]
    }

    /// A log that is damaged: what its node still promises, and until when (docs/design/001).
    fn of_damage() -> Vec<Scope> {
        let damaged = Scope { begins: Beginning::Led, max_term: 2, proposals: 1, damages: 1, ..Scope::BASE };
        vec![
            // Who may be elected while it lacks what it promised.
            Scope { name: "damaged", campaigns: 1, messages: 4, ..damaged.clone() },
            // When a promise without an end is over.
            Scope {
                name: "damaged-unnamed",
                loss: Loss::Unnamed,
                max_term: 1,
                campaigns: 0,
                beats: 1,
                messages: 5,
                ..damaged
            },
        ]
    }

    /// Changes of the voters, and at last everything at once.
    fn of_memberships() -> Vec<Scope> {
        vec![
            Scope {
                name: "joint",
                begins: Beginning::Led,
                max_term: 3,
                campaigns: 2,
                change: Some(&[2, 3]),
                beats: 1,
                ..Scope::BASE
            },
            Scope {
                name: "one-to-three",
                begins: Beginning::Led,
                voters: &[1],
                learners: &[2, 3],
                campaigns: 2,
                crashes: 1,
                proposals: 1,
                change: Some(&[2, 3]),
                beats: 2,
                ..Scope::BASE
            },
            Scope {
                name: "everything",
                disk: Disk::AnyTime,
                pre_vote: Toggle::On,
                check_quorum: Toggle::On,
                campaigns: 4,
                proposals: 2,
                crashes: 1,
                duplicates: 1,
                lost_sends: 1,
                beats: 2,
                change: Some(&[1, 2]),
                messages: 16,
                ..Scope::BASE
            },
        ]
    }

    pub(crate) fn nodes(&self) -> BTreeSet<NodeId> {
        self.voters.iter().chain(self.learners).map(|id| NodeId(*id)).collect()
    }

    pub(crate) fn change(&self) -> Option<ChangeMembers> {
        self.change.map(|voters| {
            let voters: BTreeSet<NodeId> = voters.iter().map(|id| NodeId(*id)).collect();
            ChangeMembers::Batch(vec![
                ChangeMembers::AddVoterIds(voters.clone()),
                ChangeMembers::ReplaceAllVoters(voters),
            ])
        })
    }

    /// Its bounds, in a line.
    pub(crate) fn bounds(&self) -> String {
        let on = |toggle: Toggle| if toggle.is_on() { "on" } else { "off" };
        format!(
            "{:?} mode, pre-vote {}, check-quorum {}, disk {:?}, links {:?}, begins {:?}, voters {:?} learners {:?}, terms {}, \
             election time-outs {}, proposals {}, crashes {}, damaged logs {} ({:?}), duplicates {}, reported losses {}, leader time-outs {}, \
             change to {:?}, messages {}",
            self.mode,
            on(self.pre_vote),
            on(self.check_quorum),
            self.disk,
            self.links,
            self.begins,
            self.voters,
            self.learners,
            self.max_term,
            self.campaigns,
            self.proposals,
            self.crashes,
            self.damages,
            self.loss,
            self.duplicates,
            self.lost_sends,
            self.beats,
            self.change,
            self.messages
        )
    }
}
