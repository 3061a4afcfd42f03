//! What nodes say to each other. Every message is one-way; a lost reply equals a lost request.

use std::time::Duration;

use crate::ids::{Campaign, Incarnation, LeaderId, LogId, NodeId, RequestId, Round, StartId, StreamId, Vote};
use crate::log::Runs;
use crate::membership::Membership;

/// A message and whom it is from. The transport vouches for `from` and `incarnation` by its handshake.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Envelope {
    /// The sender.
    pub from: NodeId,
    /// The sender's disk.
    pub incarnation: Incarnation,
    /// What it says.
    pub message: Message,
}

/// A message of the protocol.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Message {
    /// A candidate asks for a vote, or for the promise of one.
    VoteRequest(VoteRequest),
    /// The answer.
    VoteReply(VoteReply),
    /// A leader replicates entries, or, without entries, shows that it lives.
    Append(Append),
    /// The answer.
    AppendReply(AppendReply),
    /// A node that does not lead asks its leader for a read index (dissertation 6.4).
    ReadRequest {
        /// The asking node's own number for the read; unique within its run.
        request: RequestId,
        /// How the leader is to make sure that it leads.
        by: ReadConfirmation,
    },
    /// The leader confirmed that it still led after the request arrived.
    ReadReply {
        /// As in the request.
        request: RequestId,
        /// The read may be served once this is applied; `None`: the node asked does not lead.
        log_id: Option<LogId>,
    },
    /// The leader asks this node to campaign at once (dissertation 3.10).
    TransferLeader {
        /// The leader's vote.
        vote: Vote,
        /// The log the node must hold, durably, before it campaigns.
        last_log_id: LogId,
    },
}

/// How a leader makes sure that it still leads before a read is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReadConfirmation {
    /// A commit quorum answers a round that began after the request arrived.
    Round,
    /// By its lease if it holds; else by a round.
    Lease,
}

/// Whether a campaign is the real one or only asks how it would end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Would you vote for me? Changes nothing at the receiver (dissertation 9.6).
    Pre,
    /// Vote for me.
    Real,
}

/// Why a vote request may override the receiver's lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CampaignReason {
    /// The leader was not heard of in time.
    Timeout,
    /// The leader of this id itself asked for it, after it gave up its lease reads (law 17).
    Transfer(LeaderId),
}

/// A candidate asks for a vote (dissertation figure 3.1, RequestVote).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct VoteRequest {
    /// Real or pre-vote.
    pub phase: Phase,
    /// The campaign that the reply must echo.
    pub campaign: Campaign,
    /// The vote asked for; in a pre-vote, the one that would be asked for.
    pub vote: Vote,
    /// The end of the candidate's log.
    pub last_log_id: LogId,
    /// Why it campaigns.
    pub reason: CampaignReason,
}

/// The answer to a vote request. A grant promises that it is durable (phase `Real`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct VoteReply {
    /// As in the request.
    pub phase: Phase,
    /// As in the request.
    pub campaign: Campaign,
    /// The vote that was asked for.
    pub requested: Vote,
    /// The answer.
    pub answer: VoteAnswer,
}

/// How a vote request was answered.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum VoteAnswer {
    /// Granted; in phase `Pre`, would be granted.
    Granted,
    /// The receiver has seen a vote that the requested one does not exceed.
    StaleVote(Vote),
    /// The receiver's log ends later than the candidate's.
    StaleLog(LogId),
    /// The receiver hears from a live leader.
    LeaderAlive,
}

/// Entries from the leader (dissertation figure 3.1, AppendEntries).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Append {
    /// Vote, stream, round and commit index.
    pub header: AppendHeader,
    /// The log id before the first entry; the follower must hold it.
    pub prev: LogId,
    /// What is known of the entries; their bytes travel beside the message.
    pub entries: Entries,
}

/// What every append carries, with or without entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AppendHeader {
    /// The leader's vote; always committed.
    pub vote: Vote,
    /// The stream that the reply must echo.
    pub stream: StreamId,
    /// The round that the reply must echo.
    pub round: Round,
    /// The leader's commit index.
    pub commit: u64,
    /// How long the receiver is asked to elect nobody else; zero asks for nothing (law 17).
    pub lease: Duration,
    /// The disk under which the leader's membership names the receiver as a voter; `None`: it does not vote (law 15).
    pub named: Option<Incarnation>,
    /// The last [`AppendReply::lost`] that the leader took in: since then it counts nothing that the receiver
    /// acknowledged before that start (docs/design/001).
    pub heard: Option<StartId>,
}

/// The log ids, memberships and size of a run of entries.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Entries {
    /// The leader ids of the entries.
    pub runs: Runs,
    /// The membership entries among them, by index.
    pub memberships: Vec<(u64, Membership)>,
    /// Size of the entries in bytes.
    pub bytes: u64,
}

/// The answer to an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AppendReply {
    /// As in the request.
    pub vote: Vote,
    /// As in the request.
    pub stream: StreamId,
    /// As in the request, or a later one of the same stream.
    pub round: Round,
    /// The lease that the receiver promises, counted from the moment that round began; zero: none (law 17).
    pub promised: Duration,
    /// This start of the receiver, if it lost entries to damage which it may have acknowledged, and does not know yet
    /// that nobody counts them (docs/design/001).
    pub lost: Option<StartId>,
    /// The answer.
    pub answer: AppendAnswer,
}

/// How an append was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AppendAnswer {
    /// The receiver follows, and holds the leader's log durably up to `matched`.
    Accepted {
        /// Durable at the receiver and equal to the leader's log.
        matched: LogId,
    },
    /// The receiver follows, but does not hold `prev`.
    Conflict {
        /// The `prev` of the append that conflicted.
        prev: LogId,
        /// The receiver's last log id that can still be in the leader's log at or before `prev`.
        hint: LogId,
    },
    /// The receiver has seen this greater vote.
    Refused {
        /// The greater vote.
        seen: Vote,
    },
}

impl AppendReply {
    /// Takes in a later reply of the same stream if one message can say both; else returns `false`.
    ///
    /// Lets a driver whose storage completes at once send one reply where the protocol has two: the
    /// immediate answer, and the one that follows the write (law 8).
    pub fn absorb(&mut self, later: &AppendReply) -> bool {
        let same = self.vote == later.vote && self.stream == later.stream && self.round <= later.round;
        let same = same && self.lost == later.lost;
        match (&mut self.answer, &later.answer) {
            (AppendAnswer::Accepted { matched }, AppendAnswer::Accepted { matched: next })
                if same && *matched <= *next =>
            {
                *matched = *next;
                self.promised = match self.round == later.round {
                    true => self.promised.max(later.promised),
                    false => later.promised,
                };
                self.round = later.round;
                true
            }
            _ => false,
        }
    }
}
