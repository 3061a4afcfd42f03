//! Messages that a script makes by hand.

use std::time::Duration;

use quorate_core::{
    Append, AppendAnswer, AppendHeader, AppendReply, CampaignReason, Membership, Message, NodeId, Phase, Quorum,
    ReadConfirmation, RequestId, Round, SnapshotMeta, StartId, StreamId, Vote, VoteAnswer, VoteReply, VoteRequest,
};

use super::words::{Words, campaign, leader_id, log_id, nodes};
use crate::world::{Entry, Payload, summary};

type Made = Result<(Message, Vec<Entry>), String>;

/// Reads a message: its kind, then its fields; what is left out is zero.
pub(super) fn message(words: &mut Words<'_>, from: NodeId) -> Made {
    match words.word("a kind of message")? {
        "vote-request" => vote_request(words),
        "vote-reply" => vote_reply(words),
        "append" => append(words),
        "append-reply" => append_reply(words),
        "read-request" => {
            let request = RequestId(words.number("a request number")?);
            let by = if words.take("lease") { ReadConfirmation::Lease } else { ReadConfirmation::Round };
            Ok((Message::ReadRequest { request, by }, Vec::new()))
        }
        "transfer" => {
            let vote = Vote { committed: true, ..words.vote()? };
            let last_log_id = words.log_id()?;
            Ok((Message::TransferLeader { vote, last_log_id }, Vec::new()))
        }
        other => Err(format!("node {from} cannot send `{other}`")),
    }
}

fn phase(words: &mut Words<'_>) -> Result<Phase, String> {
    match words.word("pre or real")? {
        "pre" => Ok(Phase::Pre),
        "real" => Ok(Phase::Real),
        other => Err(format!("a phase is `pre` or `real`, not `{other}`")),
    }
}

fn vote_request(words: &mut Words<'_>) -> Made {
    let mut request = VoteRequest {
        phase: phase(words)?,
        campaign: campaign("0.1")?,
        vote: words.vote()?,
        last_log_id: log_id("0")?,
        reason: CampaignReason::Timeout,
    };
    while let Some(word) = words.maybe() {
        match word {
            "log" => request.last_log_id = words.log_id()?,
            "campaign" => request.campaign = campaign(words.word("a campaign")?)?,
            "transfer" => request.reason = CampaignReason::Transfer(leader_id(words.word("a leader id")?)?),
            other => return Err(format!("a vote request has no `{other}`")),
        }
    }
    Ok((Message::VoteRequest(request), Vec::new()))
}

fn vote_reply(words: &mut Words<'_>) -> Made {
    let phase = phase(words)?;
    let requested = words.vote()?;
    let mut reply = VoteReply { phase, campaign: campaign("0.1")?, requested, answer: VoteAnswer::Granted };
    while let Some(word) = words.maybe() {
        match word {
            "campaign" => reply.campaign = campaign(words.word("a campaign")?)?,
            "granted" => reply.answer = VoteAnswer::Granted,
            "leader-alive" => reply.answer = VoteAnswer::LeaderAlive,
            "stale-vote" => reply.answer = VoteAnswer::StaleVote(words.vote()?),
            "stale-log" => reply.answer = VoteAnswer::StaleLog(words.log_id()?),
            other => return Err(format!("a vote reply has no `{other}`")),
        }
    }
    Ok((Message::VoteReply(reply), Vec::new()))
}

/// Reads what a snapshot says of itself: `VOTE upto LOGID [membership-at LOGID] [voters 1,2]`.
pub(super) fn snapshot(words: &mut Words<'_>, membership: Membership) -> Result<(AppendHeader, SnapshotMeta), String> {
    let header = header(words)?;
    let mut meta = SnapshotMeta { membership, membership_log_id: log_id("0-0.1")?, ..SnapshotMeta::default() };
    while let Some(word) = words.maybe() {
        match word {
            "upto" => meta.last_log_id = words.log_id()?,
            "membership-at" => meta.membership_log_id = words.log_id()?,
            "voters" => {
                let ids = nodes(words.word("voters")?)?;
                for set in &mut meta.membership.configs {
                    set.voters.retain(|id, _| ids.contains(id));
                    let majority = Quorum::majority(ids.iter().copied());
                    (set.elect, set.commit) = (majority.clone(), majority);
                }
            }
            other => return Err(format!("a snapshot has no `{other}`")),
        }
    }
    Ok((header, meta))
}

/// The vote of an append is committed unless the script lies.
fn header(words: &mut Words<'_>) -> Result<AppendHeader, String> {
    let leader_id = words.vote()?.leader_id;
    Ok(AppendHeader {
        vote: Vote::committed(leader_id),
        stream: StreamId(1),
        round: Round(1),
        commit: 0,
        lease: Duration::ZERO,
        named: None,
        heard: None,
    })
}

fn append(words: &mut Words<'_>) -> Made {
    let mut header = header(words)?;
    let mut prev = log_id("0")?;
    let mut bodies = Vec::new();
    while let Some(word) = words.maybe() {
        match word {
            "uncommitted" => header.vote.committed = false,
            "stream" => header.stream = StreamId(words.number("a stream")?),
            "round" => header.round = Round(words.number("a round")?),
            "commit" => header.commit = words.number("an index")?,
            "lease" => header.lease = words.millis()?,
            "heard" => header.heard = Some(StartId(words.number("a start")?)),
            "prev" => prev = words.log_id()?,
            "entries" => {
                while let Some(word) = words.peek().filter(|word| word.contains('.')) {
                    words.maybe();
                    let (at, payload) = word.split_once('=').unwrap_or((word, "."));
                    let payload = match payload {
                        "." => Payload::Blank,
                        command => Payload::Command(command.to_string()),
                    };
                    bodies.push(Entry { id: log_id(at)?, payload });
                }
            }
            other => return Err(format!("an append has no `{other}`")),
        }
    }
    Ok((Message::Append(Append { header, prev, entries: summary(&bodies) }), bodies))
}

fn append_reply(words: &mut Words<'_>) -> Made {
    let vote = Vote::committed(words.vote()?.leader_id);
    let (mut stream, mut round) = (StreamId(1), Round(1));
    let (mut promised, mut lost) = (Duration::ZERO, None);
    let mut answer = None;
    while let Some(word) = words.maybe() {
        match word {
            "stream" => stream = StreamId(words.number("a stream")?),
            "round" => round = Round(words.number("a round")?),
            "promises" => promised = words.millis()?,
            "lost" => lost = Some(StartId(words.number("a start")?)),
            "matched" => answer = Some(AppendAnswer::Accepted { matched: words.log_id()? }),
            "refused" => answer = Some(AppendAnswer::Refused { seen: words.vote()? }),
            "conflict" => {
                let prev = words.log_id()?;
                let hint = match words.take("hint") {
                    true => words.log_id()?,
                    false => log_id("0")?,
                };
                answer = Some(AppendAnswer::Conflict { prev, hint });
            }
            other => return Err(format!("an append reply has no `{other}`")),
        }
    }
    let answer = answer.ok_or("an append reply has `matched`, `conflict` or `refused`")?;
    Ok((Message::AppendReply(AppendReply { vote, stream, round, promised, lost, answer }), Vec::new()))
}
