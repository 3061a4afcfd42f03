//! The textual forms of messages, notes, writes and answers.

use quorate_core::{
    AppendAnswer, AppendHeader, AppendReply, Campaign, CampaignReason, LogId, Membership, Message, NodeId, Note,
    Outcome, PeerState, Phase, Precondition, ReadConfirmation, ReadPolicy, Refusal, StepDown, Tail, TransferFailure,
    VoteAnswer, VoteReply, VoteRequest,
};

use super::disk::{DiskOp, Entry, PendingWrite};

/// A membership without spaces: `{1,2,3}+{1,2}/learners{4}`.
pub(crate) fn compact(membership: &Membership) -> String {
    membership.to_string().replace(" + ", "+").replace(" learners ", "/learners").replace(' ', "_")
}

/// A log id; `0` before the first entry.
pub(crate) fn log_id(id: LogId) -> String {
    match id == LogId::ZERO {
        true => "0".to_string(),
        false => id.to_string(),
    }
}

fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Pre => "pre",
        Phase::Real => "real",
    }
}

/// A campaign: the run it belongs to, and its number within that run.
fn campaign(campaign: Campaign) -> String {
    format!("{}.{}", campaign.0 >> 16, campaign.0 & 0xffff)
}

fn entries(entries: &[Entry]) -> String {
    let texts: Vec<String> = entries.iter().map(|entry| format!("{}={}", entry.id, entry.payload)).collect();
    texts.join(" ")
}

fn header(header: &AppendHeader) -> String {
    let mut text = format!(
        "{} stream {} round {} commit {}",
        header.vote.leader_id, header.stream.0, header.round.0, header.commit
    );
    if !header.vote.committed {
        text.push_str(" uncommitted");
    }
    if !header.lease.is_zero() {
        text.push_str(&format!(" lease {}ms", header.lease.as_millis()));
    }
    if let Some(start) = header.heard {
        text.push_str(&format!(" heard {}", start.0));
    }
    text
}

pub(crate) fn snapshot(append: &AppendHeader, last: LogId) -> String {
    format!("Snapshot {} upto {}", header(append), log_id(last))
}

pub(crate) fn message(message: &Message, bodies: &[Entry]) -> String {
    match message {
        Message::VoteRequest(request) => vote_request(request),
        Message::VoteReply(reply) => vote_reply(reply),
        Message::Append(append) if append.entries.runs.is_empty() => {
            format!("Append {} prev {} empty", header(&append.header), log_id(append.prev))
        }
        Message::Append(append) => {
            format!("Append {} prev {} entries {}", header(&append.header), log_id(append.prev), entries(bodies))
        }
        Message::AppendReply(reply) => append_reply(reply),
        Message::ReadRequest { request, by: ReadConfirmation::Round } => format!("ReadRequest r{}", request.0),
        Message::ReadRequest { request, by: ReadConfirmation::Lease } => format!("ReadRequest r{} by-lease", request.0),
        Message::ReadReply { request, log_id: Some(id) } => format!("ReadReply r{} at {}", request.0, log_id(*id)),
        Message::ReadReply { request, log_id: None } => format!("ReadReply r{} not-leader", request.0),
        Message::TransferLeader { vote, last_log_id } => {
            format!("TransferLeader {} after {}", vote.leader_id, log_id(*last_log_id))
        }
    }
}

fn vote_request(request: &VoteRequest) -> String {
    let mut text = format!(
        "VoteRequest {} {} campaign {} log {}",
        phase(request.phase),
        request.vote,
        campaign(request.campaign),
        log_id(request.last_log_id)
    );
    match request.reason {
        CampaignReason::Timeout => {}
        CampaignReason::Transfer(from) => text.push_str(&format!(" transfer from {from}")),
    }
    text
}

fn vote_reply(reply: &VoteReply) -> String {
    let answer = match &reply.answer {
        VoteAnswer::Granted => "granted".to_string(),
        VoteAnswer::StaleVote(vote) => format!("stale-vote {vote}"),
        VoteAnswer::StaleLog(last) => format!("stale-log {}", log_id(*last)),
        VoteAnswer::LeaderAlive => "leader-alive".to_string(),
    };
    format!("VoteReply {} {} campaign {} {answer}", phase(reply.phase), reply.requested, campaign(reply.campaign))
}

fn append_reply(reply: &AppendReply) -> String {
    let answer = match reply.answer {
        AppendAnswer::Accepted { matched } => format!("matched {}", log_id(matched)),
        AppendAnswer::Conflict { prev, hint } => format!("conflict {} hint {}", log_id(prev), log_id(hint)),
        AppendAnswer::Refused { seen } => format!("refused {seen}"),
    };
    let promised = match reply.promised.as_millis() {
        0 => String::new(),
        promised => format!("promises {promised}ms "),
    };
    let (stream, round) = (reply.stream.0, reply.round.0);
    let lost = reply.lost.map_or(String::new(), |start| format!("lost {} ", start.0));
    format!("AppendReply {} stream {stream} round {round} {promised}{lost}{answer}", reply.vote.leader_id)
}

pub(crate) fn note(note: &Note) -> String {
    match note {
        Note::Campaigning { phase: p, vote } => format!("campaigns {} {vote}", phase(*p)),
        Note::BecameLeader(leader_id) => format!("becomes leader {leader_id}"),
        Note::SteppedDown { leader_id, reason } => format!("steps down from {leader_id}: {}", step_down(*reason)),
        Note::Following(leader_id) => format!("follows {leader_id}"),
        Note::Granted { phase: p, vote } => format!("grants {} {vote}", phase(*p)),
        Note::PeerState { peer, state } => format!("peer {peer} {}", peer_state(*state)),
        Note::Truncated { after } => format!("truncates after {}", log_id(*after)),
        Note::MembershipInForce(id) => format!("membership in force {}", log_id(*id)),
        Note::OtherIncarnation { peer, seen } => format!("peer {peer} speaks from another disk {seen:?}"),
        Note::LostLog { named } => format!("halts: its log is lost, it votes as {named:?}"),
        Note::Rejoining { named } => format!("rejoins as a learner: its log is lost, it votes as {named:?}"),
        Note::OlderCopy { peer, held } => format!("peer {peer} denies {held}: an older copy of its disk"),
        Note::PeerLostEntries { peer, hint } => format!("{peer} lost entries after {}", log_id(*hint)),
        Note::Repaired { promised_end } => format!("is repaired up to {}", log_id(*promised_end)),
        Note::Impossible { from, what } => format!("impossible from {from}: {what}"),
        Note::SnapshotInstalled(id) => format!("snapshot installed {}", log_id(*id)),
        Note::BoundByLease => "keeps its promise and does not campaign".to_string(),
        Note::ClockJumped => "does not trust its clock".to_string(),
        Note::Halted => "halts".to_string(),
    }
}

fn step_down(reason: StepDown) -> String {
    match reason {
        StepDown::GreaterVote(vote) => format!("greater vote {vote}"),
        StepDown::NoQuorum => "no quorum".to_string(),
        StepDown::Removed => "removed".to_string(),
        StepDown::Disk => "disk".to_string(),
    }
}

pub(crate) fn peer_state(state: PeerState) -> &'static str {
    match state {
        PeerState::Probe => "probe",
        PeerState::Replicate => "replicate",
        PeerState::Snapshot => "snapshot",
    }
}

pub(crate) fn write(write: &PendingWrite) -> String {
    let op = match &write.op {
        DiskOp::Vote(vote) => format!("vote {vote}"),
        DiskOp::Append(appended) => format!("append {}", entries(appended)),
        DiskOp::Truncate(after) => format!("truncate after {}", log_id(*after)),
        DiskOp::Reset { to, tail: Tail::Keep } => format!("reset to {} keep tail", log_id(*to)),
        DiskOp::Reset { to, tail: Tail::Discard } => format!("reset to {} discard tail", log_id(*to)),
        DiskOp::ForgetPromisedEnd => "forget promised end".to_string(),
        DiskOp::PromiseLease(longest) => format!("promise lease {}ms", longest.as_millis()),
    };
    format!("writes w{} {op}", write.id.0)
}

pub(crate) fn policy(policy: ReadPolicy) -> String {
    match policy {
        ReadPolicy::ReadIndex => "read-index".to_string(),
        ReadPolicy::LeaseRead => "lease".to_string(),
        ReadPolicy::MaxAge(age) => format!("max-age {} ms", age.as_millis()),
        ReadPolicy::Stale => "stale".to_string(),
    }
}

pub(crate) fn outcome(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Proposed(span) if span.count() == 1 => format!("proposed {}", span.last),
        Outcome::Proposed(span) => format!("proposed {} to {}", span.first_index(), span.last),
        Outcome::Read(id) => format!("read at {}", log_id(*id)),
        Outcome::MembershipChanged(id) => format!("membership changed {id}"),
        Outcome::Initialized(id) => format!("initialized {id}"),
        Outcome::Transferred(leader_id) => format!("transferred to {leader_id}"),
        Outcome::SnapshotBuilt(id) => format!("snapshot {id}"),
        Outcome::LogPurged(id) => format!("purged up to {}", log_id(*id)),
        Outcome::Refused(refusal) => format!("refused {}", refused(refusal)),
        Outcome::Unknown => "unknown".to_string(),
    }
}

fn refused(refusal: &Refusal) -> String {
    match refusal {
        Refusal::NotLeader { leader: Some(leader) } => format!("not leader, {leader} leads"),
        Refusal::NotLeader { leader: None } => "not leader, nobody known leads".to_string(),
        Refusal::Transferring { to } => format!("transferring to {to}"),
        Refusal::ChangeInProgress { log_id: id } => format!("change in progress {id}"),
        Refusal::NotYetCommitted => "not yet committed".to_string(),
        Refusal::NoVoters => "no voters".to_string(),
        Refusal::UnknownNode(id) => format!("unknown node {id}"),
        Refusal::NotSeenYet(id) => format!("not seen yet {id}"),
        Refusal::NotCaughtUp { node, matched, last } => {
            format!("not caught up {node} at {} of {}", log_id(*matched), log_id(*last))
        }
        Refusal::WouldLoseQuorum { silent } => format!("would lose quorum, silent {}", ids(silent)),
        Refusal::PreconditionFailed { expected, actual } => {
            format!("precondition failed: expected {}, is {}", precondition(expected), precondition(actual))
        }
        Refusal::IsVoter(id) => format!("is voter {id}"),
        Refusal::RuleNeeded { added, removed } => {
            format!("rule needed: added {} removed {}", ids(added), ids(removed))
        }
        Refusal::BadRule(error) => format!("bad rule: {error}"),
        Refusal::AlreadyInitialized => "already initialized".to_string(),
        Refusal::NotAmongVoters => "not among voters".to_string(),
        Refusal::LeaseDisabled => "lease disabled".to_string(),
        Refusal::NotTransferred(failure) => not_transferred(*failure),
        Refusal::NothingApplied => "nothing applied".to_string(),
        Refusal::SnapshotFailed => "snapshot failed".to_string(),
        Refusal::SnapshotDeferred => "snapshot deferred".to_string(),
        Refusal::Halted => "halted".to_string(),
        // New, and without a word of its own here yet.
        other => other.to_string(),
    }
}

fn not_transferred(failure: TransferFailure) -> String {
    match failure {
        TransferFailure::NoTarget => "not transferred: no target".to_string(),
        TransferFailure::NotVoter(id) => format!("not transferred: {id} is no voter"),
        TransferFailure::TimedOut { to } => format!("not transferred: {to} timed out"),
        TransferFailure::Aborted { to } => format!("not transferred: {to} aborted"),
        TransferFailure::LeaderChanged { leader } => format!("not transferred: {leader} leads"),
        other => other.to_string(),
    }
}

fn ids(ids: &[NodeId]) -> String {
    match ids.is_empty() {
        true => "none".to_string(),
        false => ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
    }
}

fn precondition(precondition: &Precondition) -> String {
    match precondition {
        Precondition::LeaderId(leader_id) => format!("leader {leader_id}"),
        Precondition::LastLogId(id) => format!("last {}", log_id(*id)),
        Precondition::LastMembershipLogId(id) => format!("membership {}", log_id(*id)),
    }
}

/// Every node of a membership with its record: `1@node-1:7000 4@elsewhere:1/zone=a`.
pub(crate) fn records(membership: &Membership) -> String {
    let record = |(id, node): (&NodeId, &quorate_core::Node)| {
        let labels: String = node.labels.iter().map(|(key, value)| format!("/{key}={value}")).collect();
        format!("{id}@{}{labels}", node.address)
    };
    membership.nodes.iter().map(record).collect::<Vec<_>>().join(" ")
}
