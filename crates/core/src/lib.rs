//! The Raft protocol as a function: `(state, now, event) -> (state', actions)`.
//!
//! The core does no I/O, reads no clock and draws no randomness of its own: the same inputs give the same
//! outputs, for ever. A driver feeds it [`Event`]s and performs the [`Action`]s it asks for, in order.

mod bug;
mod change;
mod check;
mod check_campaign;
mod check_step;
#[cfg(test)]
mod check_tests;
mod config;
mod core;
mod draft;
mod durability;
mod election;
mod event;
mod follower;
mod ids;
mod invariant;
mod kept;
mod leader;
mod lease;
mod log;
mod lost_entries;
mod lost_log;
mod membership;
mod message;
mod pieces;
mod progress;
mod quorum;
mod read;
mod recovery;
mod refusal;
mod resend;
mod rng;
mod rounds;
mod snapshot;
mod starts;
mod status;
mod time;
mod transfer;
mod untimed;

pub use crate::core::Core;

#[cfg(feature = "mutants")]
pub use bug::plant;
pub use bug::{Bug, bug};
pub use config::{Config, ConfigError, MAX_TIMEOUT, OnLostLog, Toggle};
pub use event::{
    Action, Actions, CoreEntry, Event, Note, Outcome, PeerState, ReadPolicy, Recovered, Refusal, SendOutcome,
    SnapshotMeta, Source, StepDown, Tail, TransferFailure, Write, WriteOp,
};
pub use follower::MAX_INDEX;
pub use ids::{
    Campaign, ClusterId, GroupId, Incarnation, LeaderId, LeaderIdMode, LogId, NodeId, RequestId, Round, StartId,
    StreamId, Vote, WriteId,
};
pub use invariant::Invariant;
pub use lease::MAX_LEASE;
pub use log::{LogIds, Run, Runs, Span};
pub use membership::{
    ChangeMembers, ChangeTerms, LeasePolicy, Membership, Node, Precondition, Readiness, Retain, Settings,
};
pub use message::{
    Append, AppendAnswer, AppendHeader, AppendReply, CampaignReason, Entries, Envelope, Message, Phase,
    ReadConfirmation, VoteAnswer, VoteReply, VoteRequest,
};
pub use quorum::{MAX_ENUMERATED_VOTERS, MAX_QUORUM_DEPTH, Quorum, RuleError, VoterSet};
pub use recovery::ForcedMembership;
pub use starts::{STARTS_KEPT, Start, StartOrder, Starts};
pub use status::{PeerStatus, ServerState, Status};
pub use time::Instant;
