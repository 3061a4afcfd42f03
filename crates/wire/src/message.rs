//! Packets as bytes. The layout is in FORMAT.md, "Messages".

use bytes::{BufMut, Bytes};
use quorate_core::{
    Append, AppendAnswer, AppendReply, Bug, Campaign, CampaignReason, ClusterId, Entries, GroupId, LogId, Message,
    Phase, ReadConfirmation, RequestId, Round, Run, StreamId, VoteAnswer, VoteReply, VoteRequest, bug,
};

use crate::codec::{Reader, put_duration, put_leader_id, put_log_id, put_vote};
use crate::membership::decode_membership;
use crate::snapshot::{put_append_header, put_start, read_append_header, read_start};
use crate::{Batch, Batches, EntryKind, Packet, WireError};

/// Bytes of a packet before its fields.
pub const PACKET_HEADER_BYTES: usize = 24;

const VOTE_REQUEST: u8 = 1;
const VOTE_REPLY: u8 = 2;
const APPEND: u8 = 3;
const APPEND_REPLY: u8 = 4;
const READ_REQUEST: u8 = 5;
const READ_REPLY: u8 = 6;
const TRANSFER_LEADER: u8 = 7;

impl Packet {
    /// Appends everything but the entry bodies. The packet's bytes are these, then [`Batch::bytes`] of each of
    /// its batches: a transport writes both without copying the entries.
    ///
    /// # Panics
    /// If another message than an append has entries.
    pub fn encode_head(&self, out: &mut Vec<u8>) {
        let is_append = matches!(self.message, Message::Append(_));
        assert!(is_append || self.batches.is_empty(), "only appends carry entries");
        let start = out.len();
        out.put_u8(kind_of(&self.message));
        out.put_u8(0);
        out.put_u16_le(0);
        out.put_u32_le(0);
        out.put_u64_le(self.group.0);
        out.put_u64_le(self.body_len());
        put_fields(out, &self.message);
        // At most a few hundred bytes: the fields of every message are of fixed sizes.
        let length = (out.len() - start - PACKET_HEADER_BYTES) as u32;
        out[start + 4..start + 8].copy_from_slice(&length.to_le_bytes());
    }

    /// Size of the entry bodies in bytes.
    pub fn body_len(&self) -> u64 {
        self.batches.iter().map(|batch| batch.bytes().len() as u64).sum()
    }

    /// Decodes a packet: what [`encode_head`](Self::encode_head) wrote, and the entry bodies. Every entry is
    /// verified; that the entries follow `prev` is checked. The entries share the buffer.
    ///
    /// # Errors
    /// Names what is wrong; see [`WireError::is_from_newer_version`].
    pub fn decode(cluster: ClusterId, bytes: Bytes) -> Result<Packet, WireError> {
        let mut head = Reader::new("packet", &bytes);
        let kind = head.u8()?;
        let reserved = head.u8()?;
        let required = head.u16()?;
        let fields_len = head.u32()? as usize;
        let group = GroupId(head.u64()?);
        let body_len = head.u64()?;
        let fields = head.take(fields_len)?;
        match (head.remaining() as u64).checked_sub(body_len) {
            Some(0) => {}
            Some(left) => return Err(WireError::Trailing { what: "packet", left }),
            None => {
                let at = PACKET_HEADER_BYTES + fields_len;
                return Err(WireError::Short { what: "packet", at, wanted: body_len });
            }
        }
        let what = name_of(kind).ok_or(WireError::UnknownKind { kind })?;
        if required != 0 {
            return Err(WireError::UnknownFeatures { what, bits: required });
        }
        if reserved != 0 {
            return Err(WireError::Value { field: "packet's reserved byte", value: reserved.into() });
        }
        if kind != APPEND && body_len != 0 {
            return Err(WireError::Trailing { what, left: body_len });
        }
        let mut message = read_fields(kind, &mut Reader::new(what, fields))?;
        let mut batches = Batches::new();
        if let Message::Append(append) = &mut message {
            batches = Batch::decode(cluster, group, bytes.slice(PACKET_HEADER_BYTES + fields_len..))?;
            append.entries = entries_after(append.prev, &batches)?;
        }
        Ok(Packet { group, message, batches })
    }
}

/// What the core wants to know of these entries: one look at each batch, and at each entry of a batch that has
/// other entries than commands.
///
/// # Errors
/// If the batches do not follow each other, or a membership cannot be decoded.
pub fn entries_of(batches: &[Batch]) -> Result<Entries, WireError> {
    let mut entries = Entries::default();
    let mut prev: Option<LogId> = None;
    for batch in batches {
        if let Some(prev) = prev {
            check_follows(prev, batch.first())?;
        }
        prev = Some(batch.last());
        entries.runs.push(Run { leader_id: batch.last().leader_id, last: batch.last().index });
        entries.bytes += batch.bytes().len() as u64;
        if batch.has_special() {
            for entry in batch.iter().filter(|entry| entry.kind == EntryKind::Membership) {
                entries.memberships.push((entry.log_id.index, decode_membership(entry.payload)?));
            }
        }
    }
    Ok(entries)
}

fn entries_after(prev: LogId, batches: &[Batch]) -> Result<Entries, WireError> {
    if let Some(first) = batches.first() {
        check_follows(prev, first.first())?;
    }
    entries_of(batches)
}

/// Indexes have no gaps, leader ids never go back.
fn check_follows(prev: LogId, next: LogId) -> Result<(), WireError> {
    let follows = prev.index.checked_add(1) == Some(next.index) && prev.leader_id <= next.leader_id;
    if follows || bug(Bug::GapAccepted) { Ok(()) } else { Err(WireError::Gap { prev, next }) }
}

fn kind_of(message: &Message) -> u8 {
    match message {
        Message::VoteRequest(_) => VOTE_REQUEST,
        Message::VoteReply(_) => VOTE_REPLY,
        Message::Append(_) => APPEND,
        Message::AppendReply(_) => APPEND_REPLY,
        Message::ReadRequest { .. } => READ_REQUEST,
        Message::ReadReply { .. } => READ_REPLY,
        Message::TransferLeader { .. } => TRANSFER_LEADER,
    }
}

fn name_of(kind: u8) -> Option<&'static str> {
    match kind {
        VOTE_REQUEST => Some("vote request"),
        VOTE_REPLY => Some("vote reply"),
        APPEND => Some("append"),
        APPEND_REPLY => Some("append reply"),
        READ_REQUEST => Some("read request"),
        READ_REPLY => Some("read reply"),
        TRANSFER_LEADER => Some("transfer of leadership"),
        _ => None,
    }
}

fn put_fields(out: &mut Vec<u8>, message: &Message) {
    match message {
        Message::VoteRequest(request) => put_vote_request(out, request),
        Message::VoteReply(reply) => put_vote_reply(out, reply),
        Message::Append(append) => {
            put_append_header(out, &append.header);
            put_log_id(out, append.prev);
        }
        Message::AppendReply(reply) => put_append_reply(out, reply),
        Message::ReadRequest { request, by } => {
            out.put_u64_le(request.0);
            out.put_u8(match by {
                ReadConfirmation::Round => 0,
                ReadConfirmation::Lease => 1,
            });
        }
        Message::ReadReply { request, log_id } => {
            out.put_u64_le(request.0);
            out.put_u8(log_id.is_some().into());
            if let Some(log_id) = log_id {
                put_log_id(out, *log_id);
            }
        }
        Message::TransferLeader { vote, last_log_id } => {
            put_vote(out, *vote);
            put_log_id(out, *last_log_id);
        }
    }
}

fn read_fields(kind: u8, fields: &mut Reader<'_>) -> Result<Message, WireError> {
    match kind {
        VOTE_REQUEST => read_vote_request(fields).map(Message::VoteRequest),
        VOTE_REPLY => read_vote_reply(fields).map(Message::VoteReply),
        APPEND => {
            let header = read_append_header(fields)?;
            let prev = fields.log_id()?;
            Ok(Message::Append(Append { header, prev, entries: Entries::default() }))
        }
        APPEND_REPLY => read_append_reply(fields).map(Message::AppendReply),
        READ_REQUEST => {
            let request = RequestId(fields.u64()?);
            let by = match fields.flag("read request's confirmation")? {
                false => ReadConfirmation::Round,
                true => ReadConfirmation::Lease,
            };
            Ok(Message::ReadRequest { request, by })
        }
        READ_REPLY => {
            let request = RequestId(fields.u64()?);
            let log_id = fields.flag("read reply's confirmation")?.then(|| fields.log_id()).transpose()?;
            Ok(Message::ReadReply { request, log_id })
        }
        TRANSFER_LEADER => {
            let vote = fields.committed_vote()?;
            Ok(Message::TransferLeader { vote, last_log_id: fields.log_id()? })
        }
        kind => Err(WireError::UnknownKind { kind }),
    }
}

fn put_vote_request(out: &mut Vec<u8>, request: &VoteRequest) {
    put_phase(out, request.phase);
    out.put_u8(match request.reason {
        CampaignReason::Timeout => 0,
        CampaignReason::Transfer(_) => 1,
    });
    out.put_u64_le(request.campaign.0);
    put_vote(out, request.vote);
    put_log_id(out, request.last_log_id);
    if let CampaignReason::Transfer(from) = request.reason {
        put_leader_id(out, from);
    }
}

fn read_vote_request(fields: &mut Reader<'_>) -> Result<VoteRequest, WireError> {
    let phase = read_phase(fields)?;
    let handed_over = fields.flag("vote request's reason")?;
    let campaign = Campaign(fields.u64()?);
    let (vote, last_log_id) = (fields.vote()?, fields.log_id()?);
    let reason = match handed_over {
        false => CampaignReason::Timeout,
        true => CampaignReason::Transfer(fields.leader_id()?),
    };
    Ok(VoteRequest { phase, campaign, vote, last_log_id, reason })
}

fn put_vote_reply(out: &mut Vec<u8>, reply: &VoteReply) {
    put_phase(out, reply.phase);
    out.put_u64_le(reply.campaign.0);
    put_vote(out, reply.requested);
    match &reply.answer {
        VoteAnswer::Granted => out.put_u8(0),
        VoteAnswer::StaleVote(seen) => {
            out.put_u8(1);
            put_vote(out, *seen);
        }
        VoteAnswer::StaleLog(last) => {
            out.put_u8(2);
            put_log_id(out, *last);
        }
        VoteAnswer::LeaderAlive => out.put_u8(3),
    }
}

fn read_vote_reply(fields: &mut Reader<'_>) -> Result<VoteReply, WireError> {
    let phase = read_phase(fields)?;
    let campaign = Campaign(fields.u64()?);
    let requested = fields.vote()?;
    let answer = match fields.u8()? {
        0 => VoteAnswer::Granted,
        1 => VoteAnswer::StaleVote(fields.vote()?),
        2 => VoteAnswer::StaleLog(fields.log_id()?),
        3 => VoteAnswer::LeaderAlive,
        other => return Err(WireError::Value { field: "vote reply's answer", value: other.into() }),
    };
    Ok(VoteReply { phase, campaign, requested, answer })
}

fn put_append_reply(out: &mut Vec<u8>, reply: &AppendReply) {
    put_vote(out, reply.vote);
    out.put_u64_le(reply.stream.0);
    out.put_u64_le(reply.round.0);
    put_duration(out, reply.promised);
    put_start(out, reply.lost);
    match reply.answer {
        AppendAnswer::Accepted { matched } => {
            out.put_u8(0);
            put_log_id(out, matched);
        }
        AppendAnswer::Conflict { prev, hint } => {
            out.put_u8(1);
            put_log_id(out, prev);
            put_log_id(out, hint);
        }
        AppendAnswer::Refused { seen } => {
            out.put_u8(2);
            put_vote(out, seen);
        }
    }
}

fn read_append_reply(fields: &mut Reader<'_>) -> Result<AppendReply, WireError> {
    let vote = fields.committed_vote()?;
    let stream = StreamId(fields.u64()?);
    let round = Round(fields.u64()?);
    let promised = fields.duration()?;
    let lost = read_start(fields)?;
    let answer = match fields.u8()? {
        0 => AppendAnswer::Accepted { matched: fields.log_id()? },
        1 => AppendAnswer::Conflict { prev: fields.log_id()?, hint: fields.log_id()? },
        2 => AppendAnswer::Refused { seen: fields.vote()? },
        other => return Err(WireError::Value { field: "append reply's answer", value: other.into() }),
    };
    Ok(AppendReply { vote, stream, round, promised, lost, answer })
}

fn put_phase(out: &mut Vec<u8>, phase: Phase) {
    out.put_u8(match phase {
        Phase::Pre => 0,
        Phase::Real => 1,
    });
}

fn read_phase(fields: &mut Reader<'_>) -> Result<Phase, WireError> {
    Ok(match fields.flag("phase")? {
        false => Phase::Pre,
        true => Phase::Real,
    })
}
